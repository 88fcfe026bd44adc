"""The parts of open_clip's towers that can be looked into or trained; a clear error where there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.errors import DataError, ModelError
from cmai_core.models import text_tower
from cmai_core.models.features import TextFeatures

_HINT = "Pixel attribution (integrated gradients) works with every model."


@dataclass(frozen=True)
class VisionParts:
    """The attentions of a vision transformer, from the first block to the last.

    Attributes:
        blocks: name → self-attention over 1 + P tokens, the class token first.
        pooler: the attentional pooler's attention (queries over 1 + P tokens), None where there is none.
        grid: (h, w) of the P = h·w patches.
        pool: "tok" or "avg": which of the last tokens (or of the pooler's queries) become the image embedding.
        last_norm: the last block's first layer norm.
    """

    blocks: Mapping[str, nn.MultiheadAttention]
    pooler: nn.MultiheadAttention | None
    grid: tuple[int, int]
    pool: str
    last_norm: nn.Module

    @property
    def modules(self) -> dict[str, nn.MultiheadAttention]:
        """All attentions by name; the pooler last."""
        return dict(self.blocks) | ({"pooler": self.pooler} if self.pooler is not None else {})

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Select of values per query, …×Q×K, those of the image embedding: …×K."""
        return x[..., 0, :] if self.pool == "tok" else x[..., 1:, :].mean(dim=-2)

    def last(self, depth: int | None) -> list[str]:
        """Return the names of the last `depth` blocks (None: all).

        Raises:
            DataError: a depth that the tower does not have.
        """
        return _last_of(self.blocks, depth)


@dataclass(frozen=True)
class TextParts:
    """The attentions of a text transformer, from the first block to the last.

    Attributes:
        tower: with `TextTransformer`'s attributes.
        blocks: name → self-attention.
        pad: the token that the tokenizer pads with.
    """

    tower: Any
    blocks: Mapping[str, nn.MultiheadAttention]
    pad: int

    def last(self, depth: int | None) -> list[str]:
        """Return the names of the last `depth` blocks, as `VisionParts.last` does."""
        return _last_of(self.blocks, depth)

    @property
    def table(self) -> torch.Tensor:
        """The embeddings V×W of all tokens, without gradient."""
        return self.tower.token_embedding.weight.detach()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings T×L×W of tokens T×L, without gradient."""
        return self.tower.token_embedding(ids).detach()

    def forward(self, ids: torch.Tensor, embedded: torch.Tensor) -> TextFeatures:
        """Return features of T texts from token embeddings T×L×W; ids T×L say where padding is and a text ends."""
        if self.tower.cls_emb is None:
            pooled, states = text_tower.forward_plain(self.tower, ids, embedded, self.pad)
        else:
            pooled, states = text_tower.forward_coca(self.tower, ids, embedded)
        return TextFeatures(F.normalize(pooled, dim=-1), pooled, states)

    def rows(self, ids: torch.Tensor, length: int) -> torch.Tensor:
        """Return which of the `length` positions becomes the embedding of each text, int64 T."""
        last = torch.full((len(ids),), length - 1, device=ids.device)
        if self.tower.cls_emb is not None or self.tower.pool_type == "last":
            return last
        if self.tower.pool_type == "argmax":
            return ids.argmax(dim=1)
        if self.tower.pool_type == "eos":
            return (ids == self.tower.eos_id).int().argmax(dim=1)
        return torch.zeros_like(last)


@dataclass(frozen=True)
class TrainableTowers:
    """The modules of a CoCa that a training changes.

    Attributes:
        network: the whole model, without consistency heads.
        visual, text, decoder: its towers. logit_scale: the log temperature, a scalar parameter.
        mean, std: of the channels, each 3×1×1 on the model's device.
    """

    network: nn.Module
    visual: nn.Module
    text: nn.Module
    decoder: nn.Module
    logit_scale: nn.Parameter
    mean: torch.Tensor
    std: torch.Tensor


def vision_parts(visual: nn.Module, name: str) -> VisionParts:
    """Return the attentions of an image tower; `name`: of the model, for errors.

    Raises:
        ModelError: ResNets and timm towers (fused attention), an untested kind of pooling: no attention can be had.
    """
    from open_clip.transformer import VisionTransformer

    if not isinstance(visual, VisionTransformer):
        raise no_image_attention(visual, name)
    blocks = _attentions_of(visual.transformer, "image tower", name)
    pool = visual.pool_type
    pooler = getattr(visual, "attn_pool", None)
    if pool not in ("tok", "avg") or getattr(visual, "attn_pool_contrastive", None) is not None:
        raise ModelError(
            f"No attention maps for {name}: its image tower pools its tokens in two stages "
            f"({getattr(visual, 'attn_pool_type', pool)}), which is not supported.",
            _HINT,
        )
    return VisionParts(
        blocks,
        None if pooler is None else pooler.attn,
        tuple(visual.grid_size),
        pool,
        visual.transformer.resblocks[-1].ln_1,
    )


def text_parts(clip: nn.Module, pad: int, name: str) -> TextParts:
    """Return the attentions of an open_clip model's text tower.

    Raises:
        ModelError: a text tower that is not open_clip's own.
    """
    tower = text_tower.text_parts(clip)
    if tower is None:
        raise no_text_attention(clip.text, name)
    return TextParts(tower, _attentions_of(tower.transformer, "text tower", name), pad)


def decoder_parts(decoder: nn.Module) -> dict[str, nn.MultiheadAttention]:
    """Return name → cross-attention of CoCa's decoder (text tokens over image tokens)."""
    return {f"layer {k}": block.attn for k, block in enumerate(decoder.cross_attn)}


def no_image_attention(tower: nn.Module, name: str) -> ModelError:
    """Make the error of an image tower that gives out no attention."""
    return ModelError(
        f"No attention maps for {name}: its image tower ({type(tower).__name__}) is not open_clip's own "
        "vision transformer and gives out no attention weights.",
        _HINT,
    )


def no_text_attention(tower: nn.Module, name: str) -> ModelError:
    """Make the error of a text tower that gives out no attention."""
    return ModelError(
        f"No explanation by tokens for {name}: its text tower ({type(tower).__name__}) is not open_clip's own.", _HINT
    )


def _attentions_of(transformer: nn.Module, what: str, name: str) -> dict[str, nn.MultiheadAttention]:
    from open_clip.transformer import ResidualAttentionBlock

    blocks = list(transformer.resblocks)
    if not all(isinstance(b, ResidualAttentionBlock) and isinstance(b.attn, nn.MultiheadAttention) for b in blocks):
        kinds = sorted({type(b.attn).__name__ for b in blocks if hasattr(b, "attn")})
        raise ModelError(f"The {what} of {name} uses the attention {', '.join(kinds)}, which keeps none.", _HINT)
    return {f"block {k}": block.attn for k, block in enumerate(blocks)}


def _last_of(blocks: Mapping[str, Any], depth: int | None) -> list[str]:
    names = list(blocks)
    if depth is None:
        return names
    if not 1 <= depth <= len(names):
        raise DataError(f"A depth of {depth} layers.", f"This tower has {len(names)}; choose 1 to {len(names)}.")
    return names[-depth:]
