"""What a trace measures: m = s(true answer) − s(wrong answer), in the task's own scores.

A difference of scores is close to linear in the states; probabilities hide what lowers them, accuracy is a threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cmai_core.errors import DataError

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures, TextFeatures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.base import Choices, ChoiceTask

MINIMUM_GAP = 1.0
"""How far an attack must have moved m, in logits: what is divided by less is noise."""
MINIMUM_SCORE_GAP = 0.05
"""The same where m is S_c."""


@dataclass(frozen=True)
class Gap:
    """The quantity m of one pair.

    Attributes:
        true, wrong: the two answers, in words; both fixed for every pass of a trace.
        clean, attacked: m of the two runs.
        fooled: whether the clean run answered rightly and the attacked run chose `wrong`.
        minimum: how far the runs must be apart for a trace.
        measure: features of B rows → m, B values, differentiable.
    """

    true: str
    wrong: str
    clean: float
    attacked: float
    fooled: bool
    minimum: float
    measure: Callable[[Any], torch.Tensor]

    @property
    def span(self) -> float:
        """How far the attack moved m; effects are shares of it."""
        return self.clean - self.attacked

    @property
    def why_not(self) -> str:
        """Why there is nothing to trace, as a sentence; "" if there is."""
        if self.span >= self.minimum:
            return ""
        return (
            f"The attack moved the answer's lead by {self.span:.2f} only; a trace needs at least {self.minimum:g}, "
            "because every effect is a share of that."
        )


def answer_gap(
    model: VisionLanguageModel,
    task: ChoiceTask,
    prepared: Choices,
    clean: ImageFeatures,
    attacked: ImageFeatures,
) -> Gap:
    """Return the gap of one pair under a task that chooses among options (retrieval, classes, answers).

    The true answer is the likeliest right one of the clean run; the wrong one is the likeliest wrong one of the
    attacked run, which is what that run chose where it was fooled.

    Args:
        prepared: one row. clean, attacked: the features of one picture each.

    Raises:
        DataError: no option is right, or none is wrong.
    """
    target = prepared.target[0]
    if not bool(target.any()) or bool(target.all()):
        raise DataError("This pair has no right answer beside wrong ones.", "Choose another pair or task.")

    def measure(features: ImageFeatures) -> torch.Tensor:
        rows = prepared.select_rows(torch.zeros(len(features), dtype=torch.long))
        scores = task.scores(model, features, rows)
        return scores[:, true] - scores[:, wrong]

    with torch.no_grad():
        before, after = (task.scores(model, features, prepared)[0].float() for features in (clean, attacked))
        true = int(before.masked_fill(~target, float("-inf")).argmax())
        wrong = int(after.masked_fill(target, float("-inf")).argmax())
        values = [float(measure(features)) for features in (clean, attacked)]
    fooled = bool(target[before.argmax()]) and int(after.argmax()) == wrong
    return Gap(prepared.options[true], prepared.options[wrong], *values, fooled, MINIMUM_GAP, measure)


def score_gap(
    model: VisionLanguageModel, image: torch.Tensor, clean: TextFeatures, attacked: TextFeatures, texts: tuple[str, str]
) -> Gap:
    """Return the gap of an edit of words: m is S_c of the text with one picture, so there is no wrong answer.

    Args:
        image: 1×d, `consistency_image` of the picture. texts: before and after the edit.
    """

    def measure(features: TextFeatures) -> torch.Tensor:
        return (model.consistency_text(features) * image).sum(dim=-1)

    with torch.no_grad():
        values = [float(measure(features)) for features in (clean, attacked)]
    return Gap(*texts, *values, values[0] - values[1] >= MINIMUM_SCORE_GAP, MINIMUM_SCORE_GAP, measure)
