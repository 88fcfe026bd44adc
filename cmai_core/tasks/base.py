"""What a task is: texts prepared once, a differentiable loss, a prediction that can be right or wrong.

A task is asked about N pairs at a time, one row of image features a pair. The same object serves training, attacks and
evaluation, and says all that others need to know of it: what its answers depend on, which texts they amount to, how
they are measured. Most tasks choose among options; `ChoiceTask` has what these share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cmai_core.errors import OptionError
from cmai_core.models.features import take_rows
from cmai_core.models.scoring import statement_states
from cmai_core.tasks.measuring import AnswerMeasurement, Measurement, MeasurementSetting

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair, PairDataset
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.consistency import AnswerTexts

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


@dataclass(frozen=True)
class Option:
    """An answer that a text names.

    Attributes:
        text: as the task writes it. true: whether it is right for the pair; None where nobody can say. asked: the
            question that it answers, "" where nothing is asked.
    """

    text: str
    true: bool | None
    asked: str = ""


class Task(ABC):
    """One thing a vision-language model can be asked to do.

    Attributes:
        name: as in `TASKS`. needs_decoder: whether CLIP-like models without fusion are left out.
        text_field: which of a pair's texts an attack on words edits: its "caption", its "question", or its caption as
            the "query" that is searched with.
        metrics: names of the metrics of its answers (`metrics.METRICS`) that it reports besides figures of its own.
        option_word: what one of its answers is, with its article. open_options: whether any text can be one.
    """

    name: str
    needs_decoder = False
    text_field = "caption"
    metrics: tuple[str, ...] = ("accuracy",)
    option_word = "an answer"
    open_options = False

    def applies_to(self, dataset: PairDataset, model: VisionLanguageModel) -> str:
        """Return "" if the task can be asked, else why not, in a sentence."""
        if self.needs_decoder and not model.has_decoder:
            return f"{model.name} has no multimodal decoder, which {self.name} needs."
        if not len(dataset):
            return "The dataset is empty."
        return self._missing(dataset)

    def _missing(self, dataset: PairDataset) -> str:
        return ""

    def for_items(self, count: int, gallery: int | None = None) -> Task:
        """Return the task as it is asked about a dataset's first `count` items.

        Args:
            gallery: captions of the gallery, for a task that searches one; None: its usual size.
        """
        return self

    def identity(self, dataset: PairDataset) -> dict[str, Any]:
        """Return what the answers depend on besides item, model and the task's name: JSON values by name.

        They stand in the addresses of stored results, so a task must go on giving what it gave.
        """
        return {}

    def answer_texts(
        self, model: VisionLanguageModel, pairs: Sequence[Pair], prepared: Any, *, encode: bool = True
    ) -> AnswerTexts:
        """Return the texts that the possible answers amount to, which S_c and V_verify score.

        Args:
            encode: False: only which texts they are. With consistency heads, each of them would be a pass of the text
                tower of its own, where in the end only those texts are scored that are answers.

        Raises:
            OptionError: the answers amount to no texts.
        """
        raise OptionError(f"S_c does not score the answers of {self.name}.", "Score the given pair, or another task.")

    def second_picture(self, pair: Pair, dataset: PairDataset) -> SecondPicture | None:
        """Return the other picture of the question about a pair; None where the question is about one picture."""
        return None

    def option_of(self, text: str, pair: Pair, dataset: PairDataset) -> Option | None:
        """Return the answer about a pair that a text names; None where it names none."""
        return None

    def with_option(self, option: str) -> Task:
        """Return the task as it is asked with one more answer to choose from; itself where its answers are given."""
        return self

    def measurement(self, setting: MeasurementSetting) -> Measurement:
        """Return what asks the task about a dataset's pairs and counts the answers (`tasks.evaluate`)."""
        return AnswerMeasurement(self, setting)

    @abstractmethod
    def prepare(self, model: VisionLanguageModel, pairs: Sequence[Pair], dataset: PairDataset | None = None) -> Any:
        """Prepare all that does not depend on the pixels under attack, without gradients; has `select_rows(rows)`.

        Args:
            pairs: N pairs; they need not belong to the dataset.
            dataset: where classes, galleries and two-image statements come from.
        """

    @abstractmethod
    def loss(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Any) -> Tensor:
        """Return N values, differentiable in the features; larger = worse for the model."""

    @abstractmethod
    def predict(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Any) -> list[Prediction]:
        """Return one prediction a row."""


@dataclass(frozen=True)
class SecondPicture:
    """The other picture of a question about two.

    Attributes:
        pair: whose picture it is. left: whether it stands on the left.
    """

    pair: Pair
    left: bool


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
        """Return the same for some of the rows (int64)."""
        kept: dict[str, Any] = {"asked": tuple(self.asked[int(r)] for r in rows)}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor) and f.metadata.get("rows", True):
                kept[f.name] = value[rows.to(value.device)]
        return replace(self, **kept)


def rule_for(model: VisionLanguageModel, task: str) -> Any:
    """Return how a system answers a task by verification (`defenses.verified`); None where it does not."""
    answering = getattr(model, "answering", None)
    return answering.get(task) if isinstance(answering, Mapping) else answering


class ChoiceTask(Task):
    """A task whose answer is one of several options.

    Attributes:
        verifiable: whether each option amounts to a statement about the picture (`statement`), so that a system can
            answer by what V_verify says of the likeliest ones (`defenses.verified`).
    """

    prompt_key = "question"
    verifiable = False

    @abstractmethod
    def scores(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """Return N×C scores of the options by the model alone; differentiable in the features."""

    def statement(self, prepared: Choices, row: int, option: int) -> str:
        """Return the statement about a row's picture that an option amounts to.

        Raises:
            OptionError: the options amount to no statements.
        """
        raise OptionError(f"The answers of {self.name} are no statements about a picture.")

    def logits(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """Return N×C values whose softmax is the probability of each option; differentiable in the features.

        They are `scores`, or what verified answering makes of them where the model is a system that answers so.
        """
        scores = self.scores(model, features, prepared)
        answering = rule_for(model, self.name) if self.verifiable else None
        if answering is None:
            return scores

        def verify(shortlist: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
            if rows is None:
                return self.verification(model, features, prepared, shortlist)
            return self.verification(model, take_rows(features, rows), prepared.select_rows(rows), shortlist)

        return answering.rescore(scores, verify, getattr(features, "flagged", None))

    def verification(
        self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices, shortlist: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what V_verify says of some options: log V_verify N×k, and the number of words it read of each.

        Args:
            model: with consistency heads. shortlist: int64 N×k, options of each row.

        Raises:
            ModelError: the model has no consistency heads.
        """
        rows = enumerate(shortlist.tolist())
        texts = [self.statement(prepared, row, option) for row, options in rows for option in options]
        read = statement_states(model, texts)
        return model.verify_options(features, read), read.counted.sum(dim=1).reshape(shortlist.shape)

    def loss(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """Return −log of the probability of the right options together; 0 for rows without any right option."""
        scores = F.log_softmax(self.logits(model, features, prepared).float(), dim=-1)
        right = scores.masked_fill(~prepared.target, float("-inf"))
        answerable = prepared.target.any(dim=-1)
        right = torch.where(answerable[:, None], right, scores)
        return -torch.logsumexp(right, dim=-1)

    def true_classes(self, prepared: Choices) -> Tensor:
        """Return which options are right: bool N×C."""
        return prepared.target

    def wrong(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """Return whether each answer is known to be wrong: bool N, on the model's device."""
        best = self.logits(model, features, prepared).argmax(dim=-1, keepdim=True)
        return ~prepared.target.gather(1, best)[:, 0] & prepared.known

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> list[Prediction]:
        """Predict the most probable option of each row."""
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
        """Return further detail of a row's prediction."""
        return {}

    @torch.no_grad()
    def stand_in(self, model: VisionLanguageModel, pairs: Sequence[Pair], prepared: Choices) -> Choices:
        """Return `prepared` with the clean image's answer as the target of the rows whose truth is unknown."""
        rows = (~prepared.known).nonzero()[:, 0]
        if not len(rows):
            return prepared
        some = prepared.select_rows(rows)
        features = model.image_features(model.preprocess([pairs[int(r)].image for r in rows]))
        best = self.logits(model, features, some).argmax(dim=-1)
        target = prepared.target.clone()
        target[rows] = F.one_hot(best, target.shape[1]).bool()
        return replace(prepared, target=target)
