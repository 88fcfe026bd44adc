"""Image→text retrieval: which caption of a fixed gallery belongs to the image.

Only the query image is perturbed; the gallery's captions are clean. Where the ground truth is known, a retrieved
caption is right when it is true of the scene (many scenes share captions); elsewhere when it is one of the pair's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import comb
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from cmai_core.data.pair import item_captions
from cmai_core.data.truth import holds, true_texts
from cmai_core.errors import OptionError
from cmai_core.models.features import join_features
from cmai_core.models.scoring import statement_states
from cmai_core.tasks.base import Choices, ChoiceTask, Option, rule_for
from cmai_core.tasks.consistency import AnswerTexts, option_texts
from cmai_core.tasks.measuring import Measurement, MeasurementSetting, entry, metric_figures, without_image
from cmai_core.tasks.metrics import Records, bootstrap_interval, recall_at

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel

GALLERY = 200
RECALLS = (1, 5, 10)
DIRECTIONS = ("retrieval", "text-to-image")
"""Names by which a system has rules for the two directions: captions of a picture, pictures of a caption."""
_TOGETHER = 64


@dataclass(frozen=True)
class RetrievalChoices(Choices):
    """Attributes: embeddings: C×D, of the gallery's captions, unit length."""

    embeddings: Tensor = field(default_factory=lambda: torch.empty(0), metadata={"rows": False})


class Retrieval(ChoiceTask):
    """Args: gallery: how many of the dataset's first items stand in the gallery, each with its first caption."""

    name = "retrieval"
    verifiable = True
    text_field = "query"
    option_word = "a caption"
    open_options = True
    metrics = ()

    def __init__(self, gallery: int = GALLERY):
        if gallery < 2:
            raise OptionError(f"A gallery of {gallery} leaves nothing to choose.", "Give at least 2.")
        self.gallery = gallery
        self._captions: WeakKeyDictionary = WeakKeyDictionary()
        self._encoded: WeakKeyDictionary = WeakKeyDictionary()

    def _missing(self, dataset: PairDataset) -> str:
        return "" if len(dataset) > 1 else "Retrieval needs a gallery of at least two items."

    def for_items(self, count: int, gallery: int | None = None) -> Retrieval:
        """Return the task with a gallery of at least `count` captions.

        An item outside the gallery would bring its own caption, and so make the question depend on its batch.
        """
        return Retrieval(max(GALLERY if gallery is None else gallery, count))

    def identity(self, dataset: PairDataset) -> dict[str, Any]:
        """Return the gallery."""
        return {"gallery": list(self.captions(dataset))}

    def answer_texts(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], prepared: RetrievalChoices, *, encode: bool = True
    ) -> AnswerTexts:
        """Return the gallery's captions."""
        return option_texts(model, prepared, prepared.options, prepared.embeddings, encode=encode)

    def measurement(self, setting: MeasurementSetting) -> Measurement:
        """Return recall in both directions."""
        return RetrievalMeasurement(self, setting)

    def captions(self, dataset: PairDataset) -> tuple[str, ...]:
        """Return the gallery: first captions of the dataset's first items, each once. Read once for each dataset."""
        try:
            found = self._captions.get(dataset)
        except TypeError:  # not weakly referable or not hashable
            return self._read(dataset)
        if found is None:
            found = self._captions[dataset] = self._read(dataset)
        return found

    def _read(self, dataset: PairDataset) -> tuple[str, ...]:
        count = min(self.gallery, len(dataset))
        return tuple(dict.fromkeys(item_captions(dataset, k)[0] for k in range(count)))

    def option_of(self, text: str, pair: Pair, dataset: PairDataset) -> Option | None:
        """Return any text as a caption."""
        return Option(text, True if text in pair.captions else holds(text, pair))

    def with_option(self, option: str) -> Retrieval:
        """Return the task with one more caption in the gallery."""
        return _Offering(self, option)

    @torch.no_grad()
    def prepare(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None
    ) -> RetrievalChoices:
        """Encode the gallery; pairs that are not in it add their first caption.

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
            truth = true_texts(texts, pair)
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
        """Encode the gallery with a model: each caption once for its batches, until the model's weights change.

        Of a gallery that differs in a few captions from the one before, these alone are encoded.
        """
        version = getattr(model, "weights_version", None)
        if version is None:  # not a model that tells when its weights change
            return model.encode_text(list(texts))
        kept = self._encoded.get(model)
        if kept is None or kept[0] != version or kept[2].device != model.device or not set(texts) & set(kept[1]):
            kept = (version, texts, model.encode_text(list(texts)))
        elif kept[1] != texts:
            known = set(kept[1])
            new = [text for text in texts if text not in known]
            place = {text: k for k, text in enumerate((*kept[1], *new))}
            table = torch.cat([kept[2], model.encode_text(new)]) if new else kept[2]
            kept = (version, texts, table[[place[text] for text in texts]])
        self._encoded[model] = kept
        return kept[2]

    def statement(self, prepared: RetrievalChoices, row: int, option: int) -> str:
        """Return the caption."""
        return prepared.options[option]

    def scores(self, model: VisionLanguageModel, features: ImageFeatures, prepared: RetrievalChoices) -> Tensor:
        """Return the cosines with the gallery, at the model's scale."""
        return model.logit_scale * features.embedding @ prepared.embeddings.T


class _Offering(Retrieval):
    """Retrieval among another one's gallery and one more caption; what that has encoded serves here, too."""

    def __init__(self, of: Retrieval, option: str):
        super().__init__(of.gallery)
        self._of, self._option, self._encoded = of, option, of._encoded

    def captions(self, dataset: PairDataset) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._of.captions(dataset), self._option)))


class RetrievalMeasurement(Measurement):
    """Recall at 1, 5 and 10 in both directions, among the gallery; an item is right when the caption is true of it.

    A system that answers by verification is measured as it answers, in each direction that it has a rule for.
    """

    def __init__(self, task: Retrieval, setting: MeasurementSetting):
        super().__init__(task, setting)
        self.pairs: list[Pair] = []
        self.images: list[np.ndarray] = []
        self.texts: list[np.ndarray] = []
        self._model: VisionLanguageModel | None = None
        self._features: list[ImageFeatures] = []

    def ask(self, model: VisionLanguageModel, pairs: Sequence[Pair], features: ImageFeatures, start: int) -> None:
        """Encode pictures and first captions."""
        self.images.append(features.embedding.float().cpu().numpy())
        self.texts.append(model.encode_text([pair.captions[0] for pair in pairs]).float().cpu().numpy())
        self.pairs += map(without_image, pairs)
        self._model = model
        if any(rule_for(model, name) for name in DIRECTIONS):  # V_verify reads the pictures' tokens in the end
            self._features.append(features)

    def figures(self) -> dict[str, Any]:
        """Return the recalls; `…_own_r1` counts only the pair itself."""
        images, texts = np.concatenate(self.images), np.concatenate(self.texts)
        total, seed = len(self.pairs), self.setting.seed
        size = total if self.setting.gallery is None else min(self.setting.gallery, total)
        found: dict[str, list[tuple[np.ndarray, float, int]]] = {}
        for start in range(0, total, size):
            some = slice(start, start + size)
            for name, hits, chance in _recalls(self.pairs[some], *self._scores(images[some] @ texts[some].T, some)):
                found.setdefault(name, []).append((hits, chance, len(hits)))
        out = {}
        for name, parts in found.items():
            hits, chances, counts = zip(*parts, strict=True)
            out[name] = entry(
                bootstrap_interval(np.concatenate(hits), seed=seed), float(np.average(chances, weights=counts))
            )
        own = np.eye(total, dtype=bool)
        records = Records((), tuple(self.pairs), similarity=images @ texts.T, truth=own, seed=seed)
        return out | metric_figures(self.task, records)

    @torch.no_grad()
    def _scores(self, cosines: np.ndarray, some: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of captions for each picture, and of pictures for each caption, among some pairs."""
        model, found = self._model, []
        for name, own in zip(DIRECTIONS, (cosines, cosines.T), strict=True):
            rule = rule_for(model, name)
            if rule is None:
                found.append(own)
                continue
            scores = model.logit_scale.cpu() * torch.from_numpy(own)
            of_pictures = name == DIRECTIONS[0]
            verify = self._captions_verified if of_pictures else self._pictures_verified
            flagged = getattr(self._pictures, "flagged", None) if of_pictures else None
            parts = []
            for k in range(0, len(scores), _TOGETHER):
                marks = None if flagged is None else flagged[some][k : k + _TOGETHER].cpu()
                parts.append(rule.rescore(scores[k : k + _TOGETHER], partial(verify, some.start, k), marks))
            found.append(torch.cat(parts).numpy())
        return found[0], found[1]

    def _captions_verified(
        self, start: int, row: int, shortlist: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Let V_verify read some captions N×k (from place `start` on) against the pictures from `row` on.

        Args:
            rows: int64 N, which of these pictures; None: the first N.
        """
        which = torch.arange(len(shortlist)) if rows is None else rows
        return self._verified(self._pictures[start + row + which], start + shortlist)

    def _pictures_verified(self, start: int, row: int, shortlist: Tensor) -> tuple[Tensor, Tensor]:
        """Let V_verify read each caption from `row` on against some pictures N×k (from place `start` on)."""
        captions = (start + row + torch.arange(len(shortlist)))[:, None].expand_as(shortlist).reshape(-1, 1)
        log_v, words = self._verified(self._pictures[start + shortlist.flatten()], captions)
        return log_v.reshape(shortlist.shape), words.reshape(shortlist.shape)

    def _verified(self, features: ImageFeatures, places: Tensor) -> tuple[Tensor, Tensor]:
        """Let V_verify read the captions at `places` N×k against N pictures."""
        read = statement_states(self._model, [self.pairs[place].captions[0] for place in places.flatten().tolist()])
        log_v = self._model.verify_options(features, read).cpu()
        return log_v, read.counted.sum(dim=1).cpu().reshape(places.shape)

    @cached_property
    def _pictures(self) -> ImageFeatures:
        """Features of all pictures, in the order of the pairs."""
        return join_features(self._features)


def _recalls(
    pairs: list[Pair], captions_of: np.ndarray, pictures_of: np.ndarray
) -> Iterator[tuple[str, np.ndarray, float]]:
    """(measure, hits, chance) of retrieval among some pairs.

    Args:
        captions_of: N×N, scores of their captions for each picture. pictures_of: of their pictures for each caption.
    """
    captions = [pair.captions[0] for pair in pairs]
    own = np.eye(len(pairs), dtype=bool)
    truth = own.copy()
    for k, pair in enumerate(pairs):
        known = true_texts(captions, pair)
        mine = set(pair.captions)
        truth[k] |= np.array([text in mine for text in captions]) if known is None else known
    for name, scores, right in (("image_to_text", captions_of, truth), ("text_to_image", pictures_of, truth.T)):
        for k in RECALLS:
            if k <= len(captions):
                yield f"{name}_r{k}", recall_at(scores, right, k), _chance_recall(right, k)
        yield f"{name}_own_r1", recall_at(scores, own, 1), 1 / len(captions)


def _chance_recall(truth: np.ndarray, k: int) -> float:
    """Return expected recall@k of a random order."""
    total = truth.shape[1]
    return float(np.mean([1 - comb(total - int(m), k) / comb(total, k) for m in truth.sum(axis=1)]))
