"""Image→text retrieval: which caption of a fixed gallery belongs to the image.

Only the query image is perturbed; the gallery's captions are clean. On Tabletop a retrieved caption is right when it is
true of the scene (many scenes share captions); elsewhere when it is one of the pair's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from cmai_core.errors import OptionError
from cmai_core.tasks.base import Choices, ChoiceTask, true_of

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel

GALLERY = 200


@dataclass(frozen=True)
class RetrievalChoices(Choices):
    """Attributes: embeddings: C×D, of the gallery's captions, unit length."""

    embeddings: Tensor = field(default_factory=lambda: torch.empty(0), metadata={"rows": False})


class Retrieval(ChoiceTask):
    """Args: gallery: how many of the dataset's first items stand in the gallery, each with its first caption."""

    name = "retrieval"

    def __init__(self, gallery: int = GALLERY):
        if gallery < 2:
            raise OptionError(f"A gallery of {gallery} leaves nothing to choose.", "Give at least 2.")
        self.gallery = gallery
        self._captions: WeakKeyDictionary = WeakKeyDictionary()
        self._encoded: WeakKeyDictionary = WeakKeyDictionary()

    def _missing(self, dataset: PairDataset) -> str:
        return "" if len(dataset) > 1 else "Retrieval needs a gallery of at least two items."

    def captions(self, dataset: PairDataset) -> tuple[str, ...]:
        """The gallery: first captions of the dataset's first items, each text once. Read once for each dataset."""
        try:
            found = self._captions.get(dataset)
        except TypeError:  # not weakly referable or not hashable
            return self._read(dataset)
        if found is None:
            found = self._captions[dataset] = self._read(dataset)
        return found

    def _read(self, dataset: PairDataset) -> tuple[str, ...]:
        count = min(self.gallery, len(dataset))
        return tuple(dict.fromkeys(dataset[k].captions[0] for k in range(count)))

    @torch.no_grad()
    def prepare(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None
    ) -> RetrievalChoices:
        """Encodes the gallery; pairs that are not in it add their first caption.

        Without a dataset the gallery is the pairs' own first captions.

        Raises:
            OptionError: fewer than two different captions.
        """
        own = [pair.captions[0] for pair in pairs]
        texts = tuple(dict.fromkeys([*(self.captions(dataset) if dataset is not None else ()), *own]))
        if len(texts) < 2:
            raise OptionError("Retrieval needs at least two different captions.", "Give a dataset.")
        place = {text: k for k, text in enumerate(texts)}
        target = np.zeros((len(pairs), len(texts)), bool)
        for row, pair in enumerate(pairs):
            truth = true_of(pair, texts)
            if truth is not None:
                target[row] = truth
            target[row, [place[text] for text in pair.captions if text in place]] = True
        return RetrievalChoices(
            options=texts,
            target=torch.from_numpy(target).to(model.device),
            known=torch.ones(len(pairs), dtype=torch.bool, device=model.device),
            asked=("",) * len(pairs),
            embeddings=self._embeddings(model, texts),
        )

    def _embeddings(self, model: VisionLanguageModel, texts: tuple[str, ...]) -> Tensor:
        """The gallery as a model encodes it: once for its batches, until the gallery or the model's weights change."""
        version = getattr(model, "weights_version", None)
        if version is None:  # not a model that tells when its weights change
            return model.encode_text(list(texts))
        kept = self._encoded.get(model)
        if kept is None or kept[:2] != (version, texts) or kept[2].device != model.device:
            kept = self._encoded[model] = (version, texts, model.encode_text(list(texts)))
        return kept[2]

    def logits(self, model: VisionLanguageModel, features: ImageFeatures, prepared: RetrievalChoices) -> Tensor:
        return model.logit_scale * features.embedding @ prepared.embeddings.T
