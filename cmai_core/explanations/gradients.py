"""Simple attributions of S_c to pixels by Captum: saliency, input × gradient, GradientSHAP, occlusion.

They work with every image tower, and none is complete: how faithful they are, `faithfulness` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cmai_core.explanations.fills import FILLS, fill_image
from cmai_core.explanations.pairing import paired
from cmai_core.explanations.recording import recording_mode
from cmai_core.explanations.result import Explanation, read_only
from cmai_core.options import one_of

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

SAMPLES, NOISE = 16, 0.02
"""Of GradientSHAP: points for each picture, and the noise on them in [0, 1] units."""
_CELLS = 8


def saliency(model: VisionLanguageModel, pixels: torch.Tensor, texts: Sequence[str] | torch.Tensor) -> Explanation:
    """Return |∂S_c/∂x|, the largest over the colour channels (Simonyan et al. 2013, arXiv 1312.6034).

    Args:
        pixels: N×3×S×S in [0, 1]. texts: as for `relevance`, row by row.

    Returns:
        N maps of S×S, ≥ 0: how sharply S_c answers to a pixel, whichever way.
    """

    def work(captum: Any, forward: Any, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return captum.Saliency(forward).attribute(x, abs=True, additional_forward_args=(text,)).amax(dim=1)

    return _explained("saliency", False, "The size of the gradient of S_c at each pixel.", model, pixels, texts, work)


def input_gradient(
    model: VisionLanguageModel, pixels: torch.Tensor, texts: Sequence[str] | torch.Tensor
) -> Explanation:
    """Return x·∂S_c/∂x summed over the colour channels (Shrikumar et al. 2016, arXiv 1605.01713); black counts 0."""

    def work(captum: Any, forward: Any, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return captum.InputXGradient(forward).attribute(x, additional_forward_args=(text,)).sum(dim=1)

    note = "Pixel times gradient: against a black picture, to first order."
    return _explained("input × gradient", True, note, model, pixels, texts, work)


def gradient_shap(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    generator: torch.Generator,
    baseline: str = "grey",
    samples: int = SAMPLES,
) -> Explanation:
    """Return GradientSHAP (Lundberg and Lee 2017, arXiv 1705.07874): gradients at random points on the way to a fill.

    Args:
        generator: on the CPU, of the points. Captum draws from PyTorch's global state, so the points are drawn here.
        baseline: see `fill_image`.
    """
    one_of("baseline", baseline, FILLS)

    def work(captum: Any, forward: Any, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        nothing, total = fill_image(x, baseline), torch.zeros_like(x)
        for _ in range(samples):
            noisy = x.detach() + NOISE * torch.randn(x.shape, generator=generator).to(x)
            share = torch.rand(len(x), 1, 1, 1, generator=generator).to(x)
            point = nothing + share * (noisy - nothing)
            total += captum.Saliency(forward).attribute(
                point.detach().requires_grad_(), abs=False, additional_forward_args=(text,)
            ) * (noisy - nothing)
        return (total / samples).sum(dim=1)

    note = f"GradientSHAP from the baseline “{baseline}”, {samples} random points."
    return _explained("GradientSHAP", True, note, model, pixels, texts, work)


def occlusion(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    cells: int = _CELLS,
) -> Explanation:
    """Return how far S_c falls when a square is covered with grey (Zeiler and Fergus 2014, arXiv 1311.2901).

    Args:
        cells: squares along a side; they do not overlap.
    """
    side = max(1, pixels.shape[-1] // cells)

    def work(captum: Any, forward: Any, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        found = captum.Occlusion(forward).attribute(
            x, (3, side, side), strides=(3, side, side), baselines=0.5, additional_forward_args=(text,),
            perturbations_per_eval=16,
        )  # fmt: skip
        return found.mean(dim=1)

    note = f"The fall of S_c when a square of {side}×{side} pixels is covered with grey."
    return _explained("occlusion", True, note, model, pixels, texts, work)


def _explained(
    method: str,
    signed: bool,
    note: str,
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    work: Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Explanation:
    from captum import attr as captum

    pixels, embedded = paired(model, pixels, texts, None)
    maps, scores = [np.zeros((0, *pixels.shape[-2:]), np.float32)], []
    with recording_mode(model), torch.enable_grad():
        for row in range(len(pixels)):
            x, text = pixels[row : row + 1].clone().requires_grad_(), embedded[row : row + 1]
            maps.append(work(captum, model.consistency, x, text).detach().float().cpu().numpy())
            with torch.no_grad():
                scores.append(float(model.consistency(pixels[row : row + 1], text)))
    return Explanation(method, read_only(np.concatenate(maps)), signed, True, 0, read_only(scores), notes=(note,))
