"""The cascading-randomisation check (Adebayo et al. 2018, arXiv 1810.03292).

A map that stays the same when the model's weights are replaced by noise, layer by layer from the top, does not show
what the model has learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from cmai_core.explanations.faithfulness import ExplainFunction
from cmai_core.explanations.pairing import paired
from cmai_core.explanations.result import rank_correlation, read_only
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel


@dataclass(frozen=True)
class Randomisation:
    """How alike maps stay as more and more layers are randomised.

    Attributes:
        stages: names, the first "as trained", then each stage's newly randomised part, from the top.
        correlation: stages×N, Spearman's rank correlation with the map of the trained model (1 at first; NaN where a
            map became constant).
    """

    stages: tuple[str, ...]
    correlation: np.ndarray

    @property
    def final(self) -> np.ndarray:
        """N correlations with the whole image tower randomised; near 0 is what a sound method gives."""
        return self.correlation[-1]


def cascading_randomisation(
    explain: ExplainFunction,
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    generator: torch.Generator,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Randomisation:
    """Randomise a copy of the image tower from its output to its input and compare the maps.

    The model itself is never written to: the copy shares everything but the image tower with it.

    Args:
        explain: the method, e.g. `relevance`.
        pixels, texts, image_of_text: as for `relevance`.
        generator: CPU generator of the random weights, normal with each tensor's own mean and standard deviation.

    Raises:
        Cancelled: when `cancel` was called.
    """
    pixels, embedded = paired(model, pixels, texts, image_of_text)
    twin = model.with_image_tower(copy.deepcopy(model.image_tower))
    original = np.asarray(explain(model, pixels, embedded).map)
    groups = tower_groups(twin.image_tower)
    stages, correlations = ["as trained"], [rank_correlation(original, original)]
    for number, (name, tensors) in enumerate(groups):
        if cancel is not None:
            cancel.check()
        randomise(tensors, generator)
        stages.append(name)
        correlations.append(rank_correlation(original, np.asarray(explain(twin, pixels, embedded).map)))
        if progress:
            progress(Progress(number + 1, len(groups), f"Randomising weights: {name}", {}))
    return Randomisation(tuple(stages), read_only(np.stack(correlations)))


def tower_groups(visual: nn.Module) -> list[tuple[str, list[torch.Tensor]]]:
    """Return parameters of an image tower in stages from output to input, each parameter once.

    open_clip's vision transformers: head and pooling, the blocks from last to first, the patch embedding. Other towers:
    their children, last to first.
    """
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None:
        children = [(name, list(child.parameters())) for name, child in visual.named_children()]
        rest = list(visual.parameters(recurse=False))
        groups = [*reversed(children), ("own parameters", rest)]
        return [(name, tensors) for name, tensors in groups if tensors]
    inside = {id(p) for block in blocks for p in block.parameters()}
    stem_names = ("conv1", "class_embedding", "positional_embedding", "ln_pre")
    stem = [p for name, p in visual.named_parameters() if name.split(".")[0] in stem_names]
    used = inside | {id(p) for p in stem}
    head = [p for p in visual.parameters() if id(p) not in used]
    middle = [(f"block {k}", list(blocks[k].parameters())) for k in reversed(range(len(blocks)))]
    return [("head", head), *middle, ("patch embedding", stem)]


@torch.no_grad()
def randomise(tensors: Sequence[torch.Tensor], generator: torch.Generator) -> None:
    """Overwrite each with normal noise of its own mean and standard deviation (a constant tensor is left)."""
    for tensor in tensors:
        if tensor.numel() < 2:
            continue
        mean, sd = tensor.float().mean().item(), tensor.float().std().item()
        noise = torch.randn(tensor.shape, generator=generator) * sd + mean
        tensor.copy_(noise.to(tensor))
