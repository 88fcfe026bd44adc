"""What a task is: texts prepared once, a differentiable loss, a prediction that can be right or wrong.

A task is asked about N pairs at a time, one row of image features a pair. The same object serves training, attacks and
evaluation. Most tasks choose among options; `ChoiceTask` has what these share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel

TOP = 5


@dataclass(frozen=True)
class Prediction:
    """What a model answers about one pair.

    Attributes:
        answer: in words.
        correct: against the ground truth; None where it is unknown.
        score: probability of the answer among the options (captioning: mean probability of its tokens, geometric).
        detail: `top`: up to five (text, probability, true or None), best first; `question` or `statement`: what was
            asked; `side`: which of the two images is the pair's; captioning: `references`, `fact_f1`.
    """

    answer: str
    correct: bool | None
    score: float
    detail: dict[str, Any] = field(default_factory=dict)


class Task(ABC):
    """One thing a vision-language model can be asked to do.

    Attributes:
        name: as in `TASKS`. needs_decoder: whether CLIP-like models without fusion are left out.
    """

    name: str
    needs_decoder = False

    def applies_to(self, dataset: PairDataset, model: VisionLanguageModel) -> str:
        """ "" if the task can be asked, else the reason why not, in a sentence."""
        if self.needs_decoder and not model.has_decoder:
            return f"{model.name} has no multimodal decoder, which {self.name} needs."
        if not len(dataset):
            return "The dataset is empty."
        return self._missing(dataset)

    def _missing(self, dataset: PairDataset) -> str:
        return ""

    @abstractmethod
    def prepare(self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None) -> Any:
        """Everything that does not depend on the pixels under attack, without gradients; has `select_rows(rows)`.

        Args:
            pairs: N pairs; they need not belong to the dataset.
            dataset: where classes, galleries and two-image statements come from.
        """

    @abstractmethod
    def loss(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Any) -> Tensor:
        """N values, differentiable in the features; larger = worse for the model."""

    @abstractmethod
    def predict(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Any) -> list[Prediction]:
        """One prediction a row."""


@dataclass(frozen=True)
class Choices:
    """A prepared question with C options for each of N rows.

    Attributes:
        options: what can be answered.
        target: bool N×C, what a right answer is; where the truth is unknown, what the model says of the clean image
            (so that an attack has something to move away from).
        known: bool N, whether the truth is known. asked: N prompts ("" where nothing is asked).
    """

    options: tuple[str, ...]
    target: Tensor
    known: Tensor
    asked: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.target)

    def select_rows(self, rows: Tensor) -> Choices:
        """The same for some of the rows (int64)."""
        kept: dict[str, Any] = {"asked": tuple(self.asked[int(r)] for r in rows)}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor) and f.metadata.get("rows", True):
                kept[f.name] = value[rows.to(value.device)]
        return replace(self, **kept)


class ChoiceTask(Task):
    """A task whose answer is one of several options."""

    prompt_key = "question"

    @abstractmethod
    def logits(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """N×C scores whose softmax is the probability of each option; differentiable in the features."""

    def loss(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """−log of the probability of the right options together. Rows without any right option give 0."""
        scores = F.log_softmax(self.logits(model, features, prepared).float(), dim=-1)
        right = scores.masked_fill(~prepared.target, float("-inf"))
        answerable = prepared.target.any(dim=-1)
        right = torch.where(answerable[:, None], right, scores)
        return -torch.logsumexp(right, dim=-1)

    def true_classes(self, prepared: Choices) -> Tensor:
        """bool N×C: which options are right."""
        return prepared.target

    def wrong(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """bool N: the answer is known to be wrong. Stays on the device."""
        best = self.logits(model, features, prepared).argmax(dim=-1, keepdim=True)
        return ~prepared.target.gather(1, best)[:, 0] & prepared.known

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> list[Prediction]:
        """The most probable option of each row."""
        probabilities = self.logits(model, features, prepared).float().softmax(dim=-1)
        values, places = (t.cpu() for t in probabilities.topk(min(TOP, probabilities.shape[1]), dim=-1))
        target, known = prepared.target.cpu(), prepared.known.cpu()
        out = []
        for row in range(len(values)):
            top = [
                (prepared.options[place], value, bool(target[row, place]) if known[row] else None)
                for value, place in zip(values[row].tolist(), places[row].tolist(), strict=True)
            ]
            detail: dict[str, Any] = {"top": top}
            if prepared.asked[row]:
                detail[self.prompt_key] = prepared.asked[row]
            out.append(Prediction(top[0][0], top[0][2], top[0][1], {**detail, **self.extra(prepared, row)}))
        return out

    def extra(self, prepared: Choices, row: int) -> dict[str, Any]:
        """More to say about a row's prediction."""
        return {}

    @torch.no_grad()
    def stand_in(self, model: VisionLanguageModel, pairs: Sequence[Pair], prepared: Choices) -> Choices:
        """`prepared` with the clean image's answer as the target of the rows whose truth is unknown."""
        rows = (~prepared.known).nonzero()[:, 0]
        if not len(rows):
            return prepared
        some = prepared.select_rows(rows)
        features = model.image_features(model.preprocess([pairs[int(r)].image for r in rows]))
        best = self.logits(model, features, some).argmax(dim=-1)
        target = prepared.target.clone()
        target[rows] = F.one_hot(best, target.shape[1]).bool()
        return replace(prepared, target=target)


def true_of(pair: Pair, texts: Sequence[str]) -> np.ndarray | None:
    """Which texts are true of the pair's scene (unreadable ones are not); None where only the pairing is known."""
    if pair.scene is None:
        return None
    from cmai_core.data.tabletop.language import parse
    from cmai_core.data.tabletop.statements import StatementError, truth_matrix

    out, readable, parsed = np.zeros(len(texts), bool), [], []
    for k, text in enumerate(texts):
        try:
            parsed.append(parse(text))
            readable.append(k)
        except StatementError:
            continue
    if parsed:
        out[readable] = truth_matrix(parsed, [pair.scene])[:, 0]
    return out
