"""The attentions inside a model's image tower, by type; a clear error where there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cmai_core.errors import DataError, ModelError

if TYPE_CHECKING:
    from cmai_core.models.wrapper import VisionLanguageModel

_HINT = "Pixel attribution (integrated gradients) works with every model."


@dataclass(frozen=True)
class VisionParts:
    """The attentions of a vision transformer, from the first block to the last.

    Attributes:
        blocks: name → self-attention over 1 + P tokens, the class token first.
        pooler: the attentional pooler's attention (queries over 1 + P tokens), None where there is none.
        grid: (h, w) of the P = h·w patches.
        pool: "tok" or "avg": what of the last tokens (or of the pooler's queries) is the image embedding.
        last_norm: the last block's first layer norm.
    """

    blocks: Mapping[str, nn.MultiheadAttention]
    pooler: nn.MultiheadAttention | None
    grid: tuple[int, int]
    pool: str
    last_norm: nn.Module

    @property
    def modules(self) -> dict[str, nn.MultiheadAttention]:
        """All of them, by name; the pooler last."""
        return dict(self.blocks) | ({"pooler": self.pooler} if self.pooler is not None else {})

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Of something per query, …×Q×K, what belongs to the image embedding: …×K."""
        return x[..., 0, :] if self.pool == "tok" else x[..., 1:, :].mean(dim=-2)

    def last(self, depth: int | None) -> list[str]:
        """Names of the last `depth` blocks (None: all).

        Raises:
            DataError: a depth that the tower does not have.
        """
        return last_of(self.blocks, depth)


def last_of(blocks: Mapping[str, Any], depth: int | None) -> list[str]:
    names = list(blocks)
    if depth is None:
        return names
    if not 1 <= depth <= len(names):
        raise DataError(f"A depth of {depth} layers.", f"This tower has {len(names)}; choose 1 to {len(names)}.")
    return names[-depth:]


def attentions_of(transformer: nn.Module, what: str, model: VisionLanguageModel) -> dict[str, nn.MultiheadAttention]:
    from open_clip.transformer import ResidualAttentionBlock

    blocks = list(transformer.resblocks)
    if not all(isinstance(b, ResidualAttentionBlock) and isinstance(b.attn, nn.MultiheadAttention) for b in blocks):
        kinds = sorted({type(b.attn).__name__ for b in blocks if hasattr(b, "attn")})
        raise ModelError(f"The {what} of {model.name} uses the attention {', '.join(kinds)}, which keeps none.", _HINT)
    return {f"block {k}": block.attn for k, block in enumerate(blocks)}


def vision_parts(model: VisionLanguageModel) -> VisionParts:
    """The attentions of the image tower.

    Raises:
        ModelError: ResNets and timm towers (fused attention), an untested kind of pooling: no attention to be had.
    """
    from open_clip.transformer import VisionTransformer

    visual = model.clip.visual
    if not isinstance(visual, VisionTransformer):
        raise ModelError(
            f"No attention maps for {model.name}: its image tower ({type(visual).__name__}) is not open_clip's own "
            "vision transformer and gives out no attention weights.",
            _HINT,
        )
    blocks = attentions_of(visual.transformer, "image tower", model)
    pool = visual.pool_type
    pooler = getattr(visual, "attn_pool", None)
    if pool not in ("tok", "avg") or getattr(visual, "attn_pool_contrastive", None) is not None:
        raise ModelError(
            f"No attention maps for {model.name}: its image tower pools its tokens in two stages "
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
