"""What of a model's towers can be looked into, by type; a clear error where it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.errors import DataError, ModelError
from cmai_core.models import text_tower
from cmai_core.models.scoring import text_vectors
from cmai_core.models.towers import attentions_of, last_of

if TYPE_CHECKING:
    from cmai_core.models.wrapper import VisionLanguageModel

_HINT = "Pixel attribution (integrated gradients) works with every model."


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
        """As for `VisionParts`."""
        return last_of(self.blocks, depth)

    def forward(self, ids: torch.Tensor, embedded: torch.Tensor) -> text_tower.TextFeatures:
        """Features of T texts from token embeddings T×L×W; `ids` T×L say what is padding and where the text ends."""
        if self.tower.cls_emb is None:
            pooled, states = text_tower.forward_plain(self.tower, ids, embedded, self.pad)
        else:
            pooled, states = text_tower.forward_coca(self.tower, ids, embedded)
        return text_tower.TextFeatures(F.normalize(pooled, dim=-1), pooled, states)

    def rows(self, ids: torch.Tensor, length: int) -> torch.Tensor:
        """Which of the `length` positions becomes the embedding of each text, int64 T."""
        last = torch.full((len(ids),), length - 1, device=ids.device)
        if self.tower.cls_emb is not None or self.tower.pool_type == "last":
            return last
        if self.tower.pool_type == "argmax":
            return ids.argmax(dim=1)
        if self.tower.pool_type == "eos":
            return (ids == self.tower.eos_id).int().argmax(dim=1)
        return torch.zeros_like(last)


def text_parts(model: VisionLanguageModel) -> TextParts:
    """The text tower.

    Raises:
        ModelError: a text tower that is not open_clip's own.
    """
    tower = text_tower.text_parts(model.clip)
    if tower is None:
        raise ModelError(
            f"No explanation by tokens for {model.name}: its text tower ({type(model.clip.text).__name__}) is not "
            "open_clip's own.",
            _HINT,
        )
    return TextParts(tower, attentions_of(tower.transformer, "text tower", model), model.token_ids()[0])


def decoder_parts(model: VisionLanguageModel) -> dict[str, nn.MultiheadAttention]:
    """name → cross-attention of CoCa's decoder (text tokens over image tokens).

    Raises:
        ModelError: no decoder, or one of another kind.
    """
    if not model.has_decoder:
        raise ModelError(
            f"{model.name} has no multimodal decoder, so there is no attention from words to image.",
            "Choose a CoCa model, such as tabletop.",
        )
    return {f"layer {k}": block.attn for k, block in enumerate(model.clip.text_decoder.cross_attn)}


def paired(
    model: VisionLanguageModel,
    pixels: torch.Tensor,
    texts: Sequence[str] | torch.Tensor,
    image_of_text: Sequence[int] | torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixels T×3×S×S detached, vectors T×d of the texts as S_c compares them, without gradient): row k is the pair k.

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
    """Rows of both, one pair a row; a single image goes with every text and a single text with every image."""
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
