"""Pictures and texts of explanations, paired row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cmai_core.errors import DataError
from cmai_core.models.scoring import text_vectors

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel


def paired(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    image_of_text: Sequence[int] | torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels T×3×S×S, detached, and vectors T×d of the texts as S_c compares them: row k is pair k.

    Args:
        texts: strings, ids, or vectors of `consistency_text`, T×d.
        image_of_text: as in `VisionLanguageModel.consistency`.

    Raises:
        DataError: images and texts that do not pair up.
    """
    ready = isinstance(texts, torch.Tensor) and texts.is_floating_point() and texts.ndim == 2
    with torch.no_grad():
        embedded = texts.detach() if ready else text_vectors(model, texts)
    pixels, embedded = matched(pixels.detach(), embedded, image_of_text)
    return pixels, embedded


def matched(
    images: torch.Tensor, texts: torch.Tensor, image_of_text: Sequence[int] | torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of both, one pair a row; a single image goes with every text and a single text with every image."""
    if image_of_text is not None:
        index = torch.as_tensor(image_of_text, dtype=torch.long, device=images.device)
        if len(index) != len(texts) or not bool(((index >= 0) & (index < len(images))).all()):
            raise DataError(f"{len(index)} image numbers for {len(texts)} texts and {len(images)} images do not fit.")
        return images[index], texts
    if len(images) == len(texts):
        return images, texts
    if len(images) == 1:
        return images.expand(len(texts), *images.shape[1:]), texts
    if len(texts) == 1:
        return images, texts.expand(len(images), *texts.shape[1:])
    raise DataError(f"{len(images)} images and {len(texts)} texts do not pair up.", "Give image_of_text.")
