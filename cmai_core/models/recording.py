"""Recording what happens inside a model during one call, and leaving it as it was found.

open_clip asks `nn.MultiheadAttention` for no weights (`need_weights=False`, hard-coded), and PyTorch computes them
outside the autograd graph when they are asked for. So the attention's `forward` is replaced, on the instance, by the
same computation written out: q, k, v → softmax → weights (kept, in the graph) → output projection. It is removed again
in `finally`. Other threads that use the model meanwhile go through the original, and one lock keeps two explanations
from replacing the same thing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.errors import ModelError

LOCK = threading.RLock()


@contextmanager
def recorded_attention(modules: Mapping[str, nn.MultiheadAttention]) -> Iterator[dict[str, torch.Tensor]]:
    """Record attention weights: each forward pass of this thread within the block puts them into the dictionary.

    Args:
        modules: name → attention module.

    Yields:
        name → weights N×heads×queries×keys of the latest pass, part of its autograd graph; empty before it.

    Raises:
        ModelError: an attention with options that open_clip does not use (`add_bias_kv`, `add_zero_attn`).
    """
    for name, module in modules.items():
        if module.bias_k is not None or module.add_zero_attn:
            raise ModelError(f"The attention {name} has extra keys, which cannot be assigned to tokens.")
    weights: dict[str, torch.Tensor] = {}

    def replaced(name: str, module: nn.MultiheadAttention, original: Any, owner: int) -> Any:
        def forward(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, *rest, **options):
            if threading.get_ident() != owner:
                return original(query, key, value, key_padding_mask, need_weights, attn_mask, *rest, **options)
            out, weights[name] = explicit_attention(module, query, key, value, attn_mask, key_padding_mask)
            return out, None

        return forward

    with replaced_forwards(modules, replaced):
        yield weights


@contextmanager
def recorded_output(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Record outputs: each forward pass of this thread within the block appends the module's output to the list.

    Where the output is not part of an autograd graph yet, it is made its beginning (a leaf that requires a gradient),
    so that gradients with respect to it exist although the parameters are frozen.
    """
    kept: list[torch.Tensor] = []

    def replaced(name: str, module: nn.Module, original: Any, owner: int) -> Any:
        def forward(*arguments, **options):
            out = original(*arguments, **options)
            if threading.get_ident() != owner:
                return out
            if torch.is_grad_enabled() and not out.requires_grad:
                out = out.detach().requires_grad_()
            kept.append(out)
            return out

        return forward

    with replaced_forwards({"": module}, replaced):
        yield kept


@contextmanager
def replaced_forwards(modules: Mapping[str, nn.Module], make: Any) -> Iterator[None]:
    """Replace each module's forward within the block by `make(name, module, original forward, this thread)`."""
    owner = threading.get_ident()
    with LOCK, ExitStack() as undo:
        for name, module in modules.items():
            earlier = module.__dict__.get("forward")
            replacement = make(name, module, module.forward, owner)
            undo.callback(_restore, module, earlier)
            module.__dict__["forward"] = replacement
        yield


def _restore(module: nn.Module, earlier: Any) -> None:
    if earlier is None:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = earlier


def explicit_attention(
    module: nn.MultiheadAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    key_padding_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `nn.MultiheadAttention` written out: (its output, weights N×heads×queries×keys in the graph).

    Args:
        query, key, value: as for the module (batch first or not, as it is set).
        attn_mask: queries×keys or (N·heads)×queries×keys; boolean (True = may not look) or additive.
        key_padding_mask: N×keys, likewise.
    """
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    mixed, weights = mixed_values(module, query, key, value, attn_mask, key_padding_mask)
    out = module.out_proj(mixed.flatten(2))
    return (out if module.batch_first else out.transpose(0, 1)), weights


def mixed_values(
    module: nn.MultiheadAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    key_padding_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute what each head reads, before the output projection: N×queries×heads×depth, and the weights.

    Args: as for `explicit_attention`, but always batch first.
    """
    count, heads, depth = len(query), module.num_heads, module.head_dim
    if module._qkv_same_embed_dim:
        projections = module.in_proj_weight.chunk(3)
    else:
        projections = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).view(count, x.shape[1], heads, depth).transpose(1, 2)
        for x, weight, bias in zip((query, key, value), projections, biases, strict=True)
    )
    logits = (q * depth**-0.5) @ k.transpose(-2, -1)
    if attn_mask is not None:
        mask = attn_mask if attn_mask.ndim == 2 else attn_mask.view(count, heads, *attn_mask.shape[1:])
        logits = _masked(logits, mask)
    if key_padding_mask is not None:
        logits = _masked(logits, key_padding_mask[:, None, None, :])
    weights = logits.softmax(dim=-1)
    mixed = F.dropout(weights, module.dropout, module.training) @ v
    return mixed.transpose(1, 2), weights


def _masked(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else logits + mask
