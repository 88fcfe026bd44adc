"""Grad-CAM for vision transformers (Selvaraju et al. 2017, arXiv 1610.02391).

Activations and gradients are taken at the first layer norm of the last block, without the class token: after the block
only the class token is read, so the patches' gradients there are exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cmai_core.explanations.pairing import paired
from cmai_core.explanations.recording import batches, recording_mode
from cmai_core.explanations.result import Explanation, read_only
from cmai_core.models.recording import recorded_output

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel


def grad_cam(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    *,
    image_of_text: Sequence[int] | torch.Tensor | None = None,
    batch_size: int = 16,
) -> Explanation:
    """Return Grad-CAM of S_c: channels weighted by their mean gradient over the patches, negative values cut.

    Args:
        pixels: N×3×S×S in [0, 1].
        texts: T strings, ids or vectors T×d of `consistency_text`.
        image_of_text: T image numbers; None pairs row by row.

    Returns:
        T maps on the patch grid, ≥ 0; `checks` holds "share_positive", the share of patches above 0. Averaging a
        gradient over all patches suits convolutions better than transformers: maps are often nearly or wholly empty.

    Raises:
        ModelError: not a vision transformer of open_clip's own.
        DataError: images and texts that do not pair up.
    """
    parts = model.image_attention()
    pixels, embedded = paired(model, pixels, texts, image_of_text)
    maps, scores = [torch.zeros(0, parts.grid[0] * parts.grid[1])], [torch.zeros(0)]
    with torch.enable_grad(), recording_mode(model):
        for part in batches(len(pixels), batch_size):
            with recorded_output(parts.last_norm) as kept:
                score = model.consistency(pixels[part], embedded[part])
            (activations,) = kept
            (gradient,) = torch.autograd.grad(score.sum(), [activations])
            weights = gradient[:, 1:].mean(dim=1, keepdim=True)
            maps.append((weights * activations.detach()[:, 1:]).sum(dim=2).clamp(min=0).float().cpu())
            scores.append(score.detach().float().cpu())
    values = torch.cat(maps).view(-1, *parts.grid)
    return Explanation(
        "grad-cam",
        read_only(values.numpy()),
        signed=False,
        depends_on_text=True,
        depth=1,
        score=read_only(torch.cat(scores).numpy()),
        checks={"share_positive": read_only((values > 0).float().mean(dim=(1, 2)).numpy())},
        notes=("Grad-CAM of S_c at the last block's first layer norm.",),
    )
