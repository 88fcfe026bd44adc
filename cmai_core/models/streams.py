"""A transformer's residual stream as explicit steps, so that states can be read and replaced without any hook.

A pass is written out block by block and tells a `Tap` every state on its way; what the tap returns goes on. Nothing is
put into the model, so nothing can be left in it, and a pass may begin at any layer: what stands before it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.errors import ModelError
from cmai_core.models import text_tower
from cmai_core.models.features import ImageFeatures, TextFeatures
from cmai_core.models.patches import embed_patches
from cmai_core.models.recording import mixed_values

Tap = Callable[[int, str, torch.Tensor], torch.Tensor]
"""(layer, part, value) → the value that the pass goes on with.

Parts: "residual" N×L×W, the stream before the block of that layer (of layer `depth`: after the last one); "heads"
N×L×H×D, what each head has read, before the output projection; "attention" and "mlp" N×L×W, what these add to the
stream.
"""
PARTS = ("residual", "heads", "attention", "mlp")


def leave(layer: int, part: str, value: torch.Tensor) -> torch.Tensor:
    """Change nothing: the tap of a plain pass."""
    return value


@dataclass(frozen=True)
class Stream:
    """A tower from its embedded input to its output.

    Attributes:
        blocks: the layers, from the first to the last.
        heads: attention heads of a layer.
        finish: the stream N×L×W after the last layer → the tower's features (`ImageFeatures`, `TextFeatures`).
        start: the embedded input N×L×W, before the first layer.
        mask: additive attention mask of the N rows, (N·heads)×L×L, one L×L for all, or None.
        summary: which positions become the embedding without further mixing (a class token), int64; empty where all
            are pooled.
    """

    blocks: Sequence[nn.Module]
    heads: int
    start: torch.Tensor
    finish: Callable[[torch.Tensor], Any]
    mask: torch.Tensor | None
    summary: tuple[int, ...]

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.blocks)

    def run(self, state: torch.Tensor | None = None, first: int = 0, tap: Tap = leave) -> torch.Tensor:
        """Run the layers from `first` on and return the stream after the last, B×L×W.

        Args:
            state: B×L×W before layer `first`; None: `start`. first: 0 to `depth` (nothing is left to run).
            tap: sees and may replace each state from "residual" of layer `first` on.
        """
        x = self.start if state is None else state
        mask = self._mask(len(x))
        for layer in range(first, self.depth):
            x = _block(self.blocks[layer], tap(layer, "residual", x), mask, layer, tap)
        return tap(self.depth, "residual", x)

    def _mask(self, count: int) -> torch.Tensor | None:
        """Return the mask for another number of rows; rows of a batch of patches are all of one input."""
        if self.mask is None or self.mask.ndim == 2 or len(self.mask) == count * self.heads:
            return self.mask
        return self.mask[: self.heads].repeat(count, 1, 1)


def _block(block: Any, x: torch.Tensor, mask: torch.Tensor | None, layer: int, tap: Tap) -> torch.Tensor:
    """Compute open_clip's `ResidualAttentionBlock` written out, N×L×W."""
    seen = block.ln_1(x)
    values, _ = mixed_values(block.attn, seen, seen, seen, None if mask is None else mask.to(seen.dtype))
    values = tap(layer, "heads", values)
    x = x + tap(layer, "attention", block.ls_1(block.attn.out_proj(values.flatten(2))))
    return x + tap(layer, "mlp", block.ls_2(block.mlp(block.ln_2(x))))


def image_stream(visual: nn.Module, normalised: torch.Tensor, name: str) -> Stream:
    """Return an image tower's stream of normalised pixels N×3×S×S, differentiable in them; class token first.

    Raises:
        ModelError: no vision transformer of open_clip's own with plain blocks (ResNet, timm).
    """
    from open_clip.transformer import VisionTransformer

    if not isinstance(visual, VisionTransformer) or not is_plain(visual):
        raise no_stream("image tower", visual, name)

    def finish(x: torch.Tensor) -> ImageFeatures:
        pooled, tokens = visual._pool(x)
        pooled = pooled if visual.proj is None else pooled @ visual.proj
        return ImageFeatures(F.normalize(pooled, dim=-1), pooled, tokens)

    own = visual.pool_type == "tok" and visual.attn_pool is None
    blocks = list(visual.transformer.resblocks)
    heads = blocks[0].attn.num_heads
    return Stream(blocks, heads, embed_patches(visual, normalised), finish, None, (0,) if own else ())


def text_stream(clip: nn.Module, ids: torch.Tensor, pad: int, name: str) -> Stream:
    """Return a text tower's stream of ids, int64 T×L.

    Raises:
        ModelError: a text tower that is not open_clip's own, or not of plain blocks.
    """
    tower = text_tower.text_parts(clip)
    if tower is None or not is_plain(tower):
        raise no_stream("text tower", getattr(clip, "text", clip), name)
    embedded = text_tower.embed(tower, ids)
    blocks = list(tower.transformer.resblocks)
    if tower.cls_emb is None:
        start, mask, fitted = text_tower.plain_inputs(tower, ids, embedded, pad)

        def pool(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            rows = fitted if len(x) == len(fitted) else fitted[:1].expand(len(x), -1)
            return text_tower.plain_outputs(tower, x, rows)

        summary: tuple[int, ...] = ()
    else:
        start, mask = text_tower.coca_inputs(tower, ids, embedded)

        def pool(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return text_tower.coca_outputs(tower, x)

        summary = (start.shape[1] - 1,)

    def finish(x: torch.Tensor) -> TextFeatures:
        pooled, states = pool(x)
        return TextFeatures(F.normalize(pooled, dim=-1), pooled, states)

    return Stream(blocks, blocks[0].attn.num_heads, start, finish, mask, summary)


def no_stream(what: str, tower: nn.Module, name: str) -> ModelError:
    """Make the error of a tower whose states cannot be patched."""
    return ModelError(
        f"No causal trace for {name}: its {what} ({type(tower).__name__}) is not a transformer of open_clip's own.",
        "ResNets and timm's towers are not covered; choose a ViT of open_clip, such as tabletop or ViT-B-32.",
    )


def is_plain(tower: Any) -> bool:
    """Return whether a tower's layers are open_clip's plain blocks, which is what is written out here."""
    from open_clip.transformer import ResidualAttentionBlock, Transformer

    transformer = tower.transformer
    return type(transformer) is Transformer and all(
        type(block) is ResidualAttentionBlock and type(block.attn) is nn.MultiheadAttention
        for block in transformer.resblocks
    )
