"""The forward passes of a CoCa written out for speed: open_clip's own numbers in less time.

Training uses them, and so does every pass in half precision on a CPU.

open_clip calls `nn.MultiheadAttention`, encodes captions at the full context length of 48 although they hold about
sixteen tokens, and projects the image tokens to keys and values once for every text. Here the parameters are the same,
but attention is one fused call, texts are cut to their longest (padding is masked and the class token keeps its place,
so nothing changes), and the texts of one image share its keys and values. `tests/training/test_forward.py` holds each
function to open_clip's own output, values and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmai_core.models.patches import embed_patches


@dataclass
class Vision:
    """Outputs of the image tower.

    Attributes:
        pooled: N×D, before normalisation. tokens: N×P×W, what the decoder reads.
        grid: N×P×W tokens in patch order (row by row), for the per-patch auxiliary loss; with an attentional pooler the
            tokens before it, else `tokens`.
    """

    pooled: Tensor
    tokens: Tensor
    grid: Tensor | None


def _norm(layer: nn.Module, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def stream(x: Tensor) -> Tensor:
    """Cast the residual stream to the precision of the matrix products: bf16 within autocast halves the traffic."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute attention; `mask` bool, True = may look."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # PyTorch's fused bf16 attention is five times slower backwards than this on a CPU.
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    with torch.autocast("cpu", enabled=False):
        weights = scores.softmax(dim=-1)
    return weights @ v


def _attend(attention: nn.MultiheadAttention, x: Tensor, mask: Tensor | None) -> Tensor:
    """Compute self-attention; `mask` bool, True = may look."""
    heads = attention.num_heads
    q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    out = _sdpa(_split(q, heads), _split(k, heads), _split(v, heads), mask)
    return F.linear(out.transpose(-3, -2).flatten(-2), attention.out_proj.weight, attention.out_proj.bias)


def _cross(attention: nn.MultiheadAttention, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    width, heads = attention.embed_dim, attention.num_heads
    q = F.linear(x, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    out = _sdpa(_split(q, heads), keys, values)
    return F.linear(out.transpose(-3, -2).flatten(-2), attention.out_proj.weight, attention.out_proj.bias)


def _mlp(block: nn.Module, x: Tensor) -> Tensor:
    return x + block.ls_2(block.mlp(_norm(block.ln_2, x)))


def _self_block(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    return _mlp(block, x + block.ls_1(_attend(block.attn, _norm(block.ln_1, x), mask)))


def vision(tower: nn.Module, pixels: Tensor, mean: Tensor, std: Tensor) -> Vision:
    """Encode pixels in [0, 1] (N×3×S×S); mean and std are shaped 3×1×1."""
    return encode(tower, (pixels - mean) / std)


def encode(tower: nn.Module, normalised: Tensor) -> Vision:
    """Encode normalised pixels N×3×S×S."""
    x = stream(embed_patches(tower, normalised))
    for block in tower.transformer.resblocks:
        x = _self_block(block, x)
    pooled, tokens = tower._pool(x)
    grid = tokens if tower.attn_pool is None else x[:, 1:]
    return Vision(pooled @ tower.proj, tokens, grid)


def pays(part: nn.Module, x: Tensor) -> bool:
    """Return whether `encode` or `decode` is faster than an image tower's or decoder's own pass, and may replace it.

    True in half precision on a CPU, where PyTorch's own attention is slow, for plain blocks that nobody is recording
    (see `recording`).

    Args:
        part: an image tower or a multimodal decoder. x: its input.
    """
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and is_plain(part)


def is_plain(part: nn.Module) -> bool:
    """Return whether an image tower or decoder is made of plain blocks, and nobody is recording it (`recording`)."""
    from open_clip.transformer import ResidualAttentionBlock

    stack = getattr(part, "transformer", part)
    blocks = [*stack.resblocks, *getattr(stack, "cross_attn", ())]
    plain = all(type(b) is ResidualAttentionBlock and b.attn._qkv_same_embed_dim for b in blocks)
    projected = getattr(part, "proj", part) is not None
    return plain and projected and not any("forward" in module.__dict__ for module in part.modules())


def trim(ids: Tensor, pad: int = 0) -> Tensor:
    """Drop the columns that are padding in every row (at least one column stays)."""
    return ids[:, : max(1, int((ids != pad).sum(dim=1).max()))]


def _causal(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def text_states(tower: nn.Module, ids: Tensor) -> Tensor:
    """Return token states T×L×W of the causal text tower, without the class token, for ids of any trimmed length."""
    x = stream(tower.token_embedding(ids) + tower.positional_embedding[: ids.shape[1]])
    mask = _causal(ids.shape[1], ids.device)
    for block in tower.transformer.resblocks:
        x = _self_block(block, x, mask)
    return x


def text_embedding(
    tower: nn.Module, ids: Tensor, pad: int = 0, embedded: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return class-token embeddings T×D (not normalised) and token states T×L×W of ids cut to any common length.

    open_clip masks the keys of padding, shifted by one because its mask puts the class token first: of the padding
    exactly the first position is looked at, and the class token itself only when no padding is left. The same is done
    here.

    Args:
        embedded: T×L×W, used instead of the tokens' own embeddings (for gradients in the tokens).
    """
    full = tower.context_length
    length = min(int((ids != pad).sum(dim=1).max()) + 1, full)
    given = ids.shape[1]
    if given < length:
        ids = F.pad(ids, (0, length - given), value=pad)
    ids = ids[:, :length]
    rows = len(ids)
    x = tower.token_embedding(ids)
    if embedded is not None:
        x = torch.cat([embedded[:, :length], x[:, given:]], dim=1)
    x = x + tower.positional_embedding[:length]
    last = (tower.cls_emb + tower.positional_embedding[full]).expand(rows, 1, -1)
    x = stream(torch.cat([x, last], dim=1))
    valid = ids != pad
    ones = valid.new_ones(rows, 1)
    if tower.correct_cls_mask:
        keys = torch.cat([valid, ones], dim=1)
    else:
        full_text = valid[:, -1:] if length == full else ~ones
        keys = torch.cat([ones, valid[:, :-1], full_text], dim=1)
    mask = _causal(length + 1, ids.device) & keys[:, None, None, :]
    for block in tower.transformer.resblocks:
        x = _self_block(block, x, mask)
    pooled = _norm(tower.ln_final, x[:, -1])
    projection = tower.text_projection
    if projection is not None:
        pooled = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return pooled, x[:, :-1]


def decode(
    decoder: nn.Module, tokens: Tensor, groups: Sequence[Tensor], readers: Sequence[Tensor | None] | None = None
) -> list[Tensor]:
    """Return decoder states (before `ln_final`) of groups of texts that share their images.

    Args:
        decoder: open_clip's MultimodalTransformer.
        tokens: N×P×W image tokens.
        groups: each (K·N)×L×W text states, rows grouped by image (row i belongs to image i // K).
        readers: for each group None, or int64 K·N, the one position of each text that is wanted: the last layer then
            computes no other.

    Returns:
        one tensor for each group: (K·N)×L×W, or (K·N)×W where it has a reader.
    """
    count, groups, tokens = len(tokens), [stream(g) for g in groups], stream(tokens)
    readers = list(readers) if readers is not None else [None] * len(groups)
    masks = [_causal(g.shape[1], g.device) for g in groups]
    last = len(decoder.resblocks) - 1
    for layer, (block, cross) in enumerate(zip(decoder.resblocks, decoder.cross_attn, strict=True)):
        groups = [
            _self_block(block, g, m) if r is None or layer < last else _read_block(block, g, r)
            for g, m, r in zip(groups, masks, readers, strict=True)
        ]
        width = cross.attn.embed_dim
        memory = _norm(cross.ln_1_kv, tokens)
        keys, values = F.linear(memory, cross.attn.in_proj_weight[width:], cross.attn.in_proj_bias[width:]).chunk(2, -1)
        keys, values = _split(keys, cross.attn.num_heads), _split(values, cross.attn.num_heads)
        joined = [g.reshape(count, -1, width) for g in groups]
        x = joined[0] if len(joined) == 1 else torch.cat(joined, dim=1)
        x = _mlp(cross, x + cross.ls_1(_cross(cross.attn, _norm(cross.ln_1, x), keys, values)))
        parts = x.split([j.shape[1] for j in joined], dim=1)
        groups = [p.reshape(g.shape) for p, g in zip(parts, groups, strict=True)]
    return groups


def _read_block(block: nn.Module, x: Tensor, at: Tensor) -> Tensor:
    """Run `_self_block` under the causal mask at one position of each row: T×L×W → T×W."""
    attention, rows = block.attn, torch.arange(len(x), device=x.device)
    width, heads = attention.embed_dim, attention.num_heads
    normed = _norm(block.ln_1, x)
    q = F.linear(normed[rows, at], attention.in_proj_weight[:width], attention.in_proj_bias[:width])[:, None]
    k, v = F.linear(normed, attention.in_proj_weight[width:], attention.in_proj_bias[width:]).chunk(2, dim=-1)
    mask = (torch.arange(x.shape[1], device=x.device) <= at[:, None])[:, None, None, :]
    out = _sdpa(_split(q, heads), _split(k, heads), _split(v, heads), mask)
    out = F.linear(out.transpose(-3, -2).flatten(-2), attention.out_proj.weight, attention.out_proj.bias)
    return _mlp(block, x[rows, at] + block.ls_1(out[:, 0]))


def vocabulary_logits(decoder: nn.Module, states: Tensor) -> Tensor:
    """Return logits over the vocabulary of decoder states (any leading shape)."""
    return _norm(decoder.ln_final, states) @ decoder.text_projection
