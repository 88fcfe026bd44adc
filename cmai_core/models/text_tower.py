"""Forward passes of open_clip's text tower, from ids or from embeddings, over no more positions than needed.

The tower is causal, so padding after the end of a text cannot change what comes before it: the pass is cut after the
longest text of the batch (captions of 12 tokens cost a quarter of the 48 positions). In CoCa the class token stands
last, at position `context_length`, whatever the text's length, and open_clip masks its keys shifted by one ("legacy"
mask: position k is seen when token k-1 is not padding, so the class token sees the first padding position and not
itself). Both are kept, so the result equals open_clip's own `model.text(ids)`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.errors import ModelError


def text_parts(clip: nn.Module) -> Any | None:
    """Return the text tower of an open_clip model, with `TextTransformer`'s attributes; None for foreign encoders."""
    from open_clip.transformer import TextTransformer

    tower = getattr(clip, "text", None)
    if isinstance(tower, TextTransformer):
        return tower
    if tower is None and hasattr(clip, "token_embedding"):
        return SimpleNamespace(
            token_embedding=clip.token_embedding,
            positional_embedding=clip.positional_embedding,
            transformer=clip.transformer,
            ln_final=clip.ln_final,
            text_projection=clip.text_projection,
            attn_mask=clip.attn_mask,
            pool_type=clip.text_pool_type,
            eos_id=clip.text_eos_id,
            context_length=clip.context_length,
            vocab_size=clip.vocab_size,
            heads=clip.transformer.resblocks[0].attn.num_heads,
            pad_id=0,
            cls_emb=None,
            use_pad_mask=False,
            correct_cls_mask=False,
        )
    return None


def token_count(clip: nn.Module) -> int | None:
    """Return how many tokens a text tower (also a Hugging Face one) has embeddings of; None where it does not say."""
    tower = text_parts(clip)
    if tower is not None:
        return int(tower.token_embedding.num_embeddings)
    inner = getattr(getattr(clip.text, "transformer", None), "get_input_embeddings", None)
    return None if inner is None else int(inner().num_embeddings)


def embed(tower: Any, x: torch.Tensor) -> torch.Tensor:
    """Return embeddings T×L×W of ids (int64 T×L) or of distributions over tokens (float T×L×V; differentiable)."""
    if x.is_floating_point():
        weight = tower.token_embedding.weight
        return x.to(weight.dtype) @ weight
    return tower.token_embedding(x)


def trimmed_length(ids: torch.Tensor, pad_id: int) -> int:
    """Return one past the last position that is not padding in any text (at least 1)."""
    used = (ids != pad_id).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


def _fit(
    ids: torch.Tensor, x: torch.Tensor, length: int, tower: Any, pad: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut or pad ids (T×L) and embeddings (T×L×W) to `length` positions, with the token `pad` (None: the tower's)."""
    missing = length - ids.shape[1]
    if missing <= 0:
        return ids[:, :length], x[:, :length]
    pad = tower.pad_id if pad is None else pad
    ids = F.pad(ids, (0, missing), value=pad)
    filler = tower.token_embedding.weight[pad].expand(len(x), missing, -1)
    return ids, torch.cat([x, filler.to(x.dtype)], dim=1)


def _additive(allowed: torch.Tensor, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """Turn a boolean mask T×Q×K (True = may look) into an additive one, (T·heads)×Q×K, for `nn.MultiheadAttention`."""
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))
    return mask.repeat_interleave(heads, dim=0)


def _key_validity(ids: torch.Tensor, tower: Any) -> torch.Tensor:
    """Return which token positions may be looked at, T×L, under open_clip's class-token mask (see the module)."""
    valid = ids != tower.pad_id
    if tower.correct_cls_mask:
        return valid
    return torch.cat([valid.new_ones(len(ids), 1), valid[:, :-1]], dim=1)


def _causal(length: int, device: torch.device) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _project(tower: Any, pooled: torch.Tensor) -> torch.Tensor:
    if tower.text_projection is None:
        return pooled
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(pooled)
    return pooled @ tower.text_projection


def forward_coca(
    tower: Any, ids: torch.Tensor, x: torch.Tensor, states: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run a text tower with a class token: (pooled T×D, states T×L'×W).

    Args:
        ids: T×L, which say where padding is. x: token embeddings T×L×W.
        states: False: the last layer is computed for the class token alone, and the states are None.
    """
    tokens, mask = coca_inputs(tower, ids, x)
    if not states and _plain_blocks(tower.transformer):
        return _project(tower, tower.ln_final(_class_token(tower.transformer, tokens, mask))), None
    pooled, found = coca_outputs(tower, tower.transformer(tokens, attn_mask=mask))
    return pooled, found if states else None


def coca_inputs(tower: Any, ids: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the layers of a tower with a class token begin with: tokens T×(L'+1)×W, the class token last; mask.

    Args: as for `forward_coca`.
    """
    full = tower.context_length
    length = min(full, trimmed_length(ids, tower.pad_id) + 1)
    ids, x = _fit(ids, x, length, tower)
    keys = _key_validity(ids, tower)
    count = len(ids)
    if tower.correct_cls_mask:
        own = keys.new_ones(count, 1)
    else:
        own = (ids[:, -1:] != tower.pad_id) if length == full else keys.new_zeros(count, 1)
    allowed = torch.zeros(count, length + 1, length + 1, dtype=torch.bool, device=x.device)
    allowed[:, :length, :length] = _causal(length, x.device) & keys.unsqueeze(1)
    allowed[:, length, :length] = keys
    allowed[:, length, length:] = own
    positions = tower.positional_embedding
    cls = (tower.cls_emb + positions[full]).expand(count, 1, -1)
    tokens = torch.cat([x + positions[:length], cls], dim=1)
    mask = _additive(allowed, tower.heads, x.dtype)
    return tokens, mask


def coca_outputs(tower: Any, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (pooled T×D, states T×L'×W) of what the last layer gave, T×(L'+1)×W."""
    return _project(tower, tower.ln_final(out[:, -1])), out[:, :-1]


def _plain_blocks(transformer: Any) -> bool:
    """Return whether the layers are open_clip's own, one after another, batch first."""
    from open_clip.transformer import ResidualAttentionBlock, Transformer

    return (
        type(transformer) is Transformer
        and transformer.batch_first
        and not transformer.grad_checkpointing
        and all(type(block) is ResidualAttentionBlock for block in transformer.resblocks)
    )


def _class_token(transformer: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute the last position after the last layer, T×W; in that layer no other position looks at it."""
    *before, last = transformer.resblocks
    for block in before:
        tokens = block(tokens, attn_mask=mask)
    seen = last.ln_1(tokens)
    x = tokens[:, -1:] + last.ls_1(last.attention(seen[:, -1:], seen, seen, mask[:, -1:]))
    return (x + last.ls_2(last.mlp(last.ln_2(x))))[:, 0]


def forward_plain(
    tower: Any, ids: torch.Tensor, x: torch.Tensor, pad: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a text tower without a class token (CLIP): (pooled T×D, states T×L'×W after the final norm).

    `pad`: the token that the tokenizer pads with, where it is another than the tower masks (SigLIP's); a tower that
    looks at padding sees it.
    """
    start, mask, ids = plain_inputs(tower, ids, x, pad)
    return plain_outputs(tower, tower.transformer(start, attn_mask=mask), ids)


def plain_inputs(
    tower: Any, ids: torch.Tensor, x: torch.Tensor, pad: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return what the layers of a tower without a class token begin with: T×L'×W, the mask, and the ids T×L'.

    Args: as for `forward_plain`.
    """
    causal = tower.attn_mask is not None
    trims = causal and tower.pool_type in ("argmax", "eos", "first")
    length = trimmed_length(ids, tower.pad_id) if trims else tower.context_length
    ids, x = _fit(ids, x, length, tower, pad)
    mask = tower.attn_mask[:length, :length] if causal else None
    if tower.use_pad_mask:
        allowed = (ids != tower.pad_id).unsqueeze(1).expand(-1, length, -1)
        mask = _additive(allowed, tower.heads, x.dtype)
    return x + tower.positional_embedding[:length], mask, ids


def plain_outputs(tower: Any, out: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (pooled T×D, states T×L'×W after the final norm) of what the last layer gave, and the ids T×L'."""
    from open_clip.transformer import text_global_pool

    states = tower.ln_final(out)
    pooled = text_global_pool(states, ids, pool_type=tower.pool_type, eos_token_id=tower.eos_id)
    return _project(tower, pooled), states


def forward_states(tower: Any, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return token states T×L'×W of exactly the given L' positions, no class token; exact where ids are no padding."""
    length = ids.shape[1]
    if tower.cls_emb is None:
        if tower.attn_mask is None:
            raise ModelError("This text tower is not causal, so it has no states of trimmed texts.")
        out = tower.transformer(x + tower.positional_embedding[:length], attn_mask=tower.attn_mask[:length, :length])
        return tower.ln_final(out)
    allowed = _causal(length, x.device) & _key_validity(ids, tower).unsqueeze(1)
    return tower.transformer(
        x + tower.positional_embedding[:length], attn_mask=_additive(allowed, tower.heads, x.dtype)
    )
