"""Text→image retrieval: which picture of a gallery belongs to the pair's first caption.

Only the pair's own picture is perturbed. It stands in the gallery among the clean pictures of the dataset's first
items, whose features are computed once. A picture is right when the caption is true of it, or where the ground truth is
unknown, when it is the pair's own.

With verified answering the shortlist is of pictures, and V_verify reads the one caption against each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cmai_core.data.pair import item_captions
from cmai_core.data.truth import truth_table
from cmai_core.errors import OptionError
from cmai_core.models.features import ImageFeatures, join_features
from cmai_core.models.scoring import statement_states
from cmai_core.tasks.base import Choices, ChoiceTask
from cmai_core.tasks.measuring import without_image
from cmai_core.tasks.retrieval import GALLERY

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.protocol import VisionLanguageModel

_TOGETHER = 64


@dataclass(frozen=True)
class PictureChoices(Choices):
    """Prepared captions; the options are the ids of the gallery's pairs.

    Attributes:
        queries: N×D, embeddings of the captions, unit length. own: int64 N, where each pair's picture stands.
        gallery: features of the C clean pictures.
    """

    queries: Tensor = field(default_factory=lambda: torch.empty(0))
    own: Tensor = field(default_factory=lambda: torch.empty(0))
    gallery: ImageFeatures | None = None


class TextToImage(ChoiceTask):
    """Args: gallery: how many of the dataset's first items stand in the gallery."""

    name = "text-to-image"
    verifiable = True
    text_field = "query"
    prompt_key = "query"

    def __init__(self, gallery: int = GALLERY):
        if gallery < 2:
            raise OptionError(f"A gallery of {gallery} leaves nothing to choose.", "Give at least 2.")
        self.gallery = gallery
        self._kept: WeakKeyDictionary = WeakKeyDictionary()

    def _missing(self, dataset: PairDataset) -> str:
        return "" if len(dataset) > 1 else "Retrieval needs a gallery of at least two items."

    def for_items(self, count: int, gallery: int | None = None) -> TextToImage:
        """Return the task with a gallery of at least `count` pictures (as for `Retrieval`)."""
        return TextToImage(max(GALLERY if gallery is None else gallery, count))

    def identity(self, dataset: PairDataset) -> dict[str, Any]:
        """Return the gallery, by its captions and the set that its pictures are of."""
        captions = [item_captions(dataset, k)[0] for k in range(min(self.gallery, len(dataset)))]
        return {"pictures": [dataset.name, dataset.split, captions]}

    @torch.no_grad()
    def prepare(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None
    ) -> PictureChoices:
        """Encode captions and gallery; pairs that are not in it add their picture.

        Raises:
            OptionError: fewer than two pictures.
        """
        known, features = self._gallery(model, dataset)
        place = {pair.id: k for k, pair in enumerate(known)}
        missing = [pair for pair in {pair.id: pair for pair in pairs}.values() if pair.id not in place]
        more = _encoded(model, missing)
        every = (*known, *map(without_image, missing))
        if len(every) < 2:
            raise OptionError("Retrieval needs at least two different pictures.", "Give a dataset.")
        place = {pair.id: k for k, pair in enumerate(every)}
        own = torch.tensor([place[pair.id] for pair in pairs])
        captions = [pair.captions[0] for pair in pairs]
        target = torch.zeros(len(pairs), len(every), dtype=torch.bool)
        truth = truth_table(captions, every)
        if truth is not None:
            target |= torch.from_numpy(truth)
        target[torch.arange(len(pairs)), own] = True
        return PictureChoices(
            options=tuple(pair.id for pair in every),
            target=target.to(model.device),
            known=torch.ones(len(pairs), dtype=torch.bool, device=model.device),
            asked=tuple(captions),
            queries=model.encode_text(captions),
            own=own.to(model.device),
            gallery=join_features([part for part in (features, more) if part is not None]),
        )

    def _gallery(
        self, model: VisionLanguageModel, dataset: PairDataset | None
    ) -> tuple[tuple[Pair, ...], ImageFeatures | None]:
        """Return the gallery's pairs, without pictures, and their features: encoded once until the weights change.

        Kept for one dataset a model. What a system draws for pictures of a gallery comes from their content, so that
        it does not change either.
        """
        if dataset is None:
            return (), None
        version = (getattr(model, "weights_version", None), model.device)
        kept = self._kept.get(model)
        if kept is not None and version[0] is not None and kept[0] == version and kept[1] is dataset:
            return kept[2], kept[3]
        pairs, parts = [], []
        for start in range(0, min(self.gallery, len(dataset)), _TOGETHER):
            some = [dataset[k] for k in range(start, min(start + _TOGETHER, self.gallery, len(dataset)))]
            parts.append(_encoded(model, some))
            pairs += map(without_image, some)
        self._kept[model] = (version, dataset, tuple(pairs), join_features(parts))
        return self._kept[model][2:]

    def scores(self, model: VisionLanguageModel, features: ImageFeatures, prepared: PictureChoices) -> Tensor:
        """Return the cosines of the caption with each picture, the pair's own as it is given, at the model's scale."""
        clean = prepared.queries @ prepared.gallery.embedding.T
        given = (prepared.queries * features.embedding).sum(dim=1, keepdim=True)
        return model.logit_scale * clean.scatter(1, prepared.own[:, None], given)

    def statement(self, prepared: PictureChoices, row: int, option: int) -> str:
        """Return the caption, which is the same for every picture."""
        return prepared.asked[row]

    def verification(
        self, model: VisionLanguageModel, features: ImageFeatures, prepared: PictureChoices, shortlist: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what V_verify says of the caption with some pictures: log V_verify N×k, and its number of words."""
        pictures = prepared.gallery[shortlist.flatten()]
        owner = torch.arange(len(shortlist), device=shortlist.device).repeat_interleave(shortlist.shape[1])
        own = (shortlist == prepared.own[:, None]).flatten()
        tokens = torch.where(own[:, None, None], features.tokens[owner], pictures.tokens.to(features.tokens.dtype))
        read = statement_states(model, list(prepared.asked))[owner]
        log_v = model.verify_options(replace(pictures, tokens=tokens), read)
        return log_v.reshape(shortlist.shape), read.counted.sum(dim=1).reshape(shortlist.shape)


def _encoded(model: VisionLanguageModel, pairs: Sequence[Pair]) -> ImageFeatures | None:
    return model.image_features(model.preprocess([pair.image for pair in pairs])) if pairs else None
