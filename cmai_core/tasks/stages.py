"""The two stages of verified answering as tasks of their own, for an attacker who aims at one of them.

    Margin(first_stage(task))                          # push what is true out of the shortlist
    Margin(second_stage(task))                         # make V_verify prefer what is false
    Margin(task) + 0.5 * Margin(first_stage(task))     # both at once

Whether such an attack has succeeded is still judged by the task itself.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cmai_core.tasks.base import Choices, ChoiceTask, rule_for

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel

_NEXT_TO_NOTHING = 1e3
"""A temperature at which the model's own scores hardly count beside log V_verify."""


def first_stage(task: ChoiceTask) -> ChoiceTask:
    """Return the task with the model's own scores for logits, which decide what is shortlisted."""
    return _with_logits(task, task.scores)


def second_stage(task: ChoiceTask) -> ChoiceTask:
    """Return the task with logits that rank the shortlist by V_verify alone, and all other options below.

    On a model that does not answer by verification it is the task itself.
    """

    def logits(model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        rule = rule_for(model, task.name)
        if rule is None:
            return task.logits(model, features, prepared)
        alone = replace(rule, temperature=_NEXT_TO_NOTHING, gamma=1.0)
        return task.logits(_Answering(model, alone), features, prepared)

    return _with_logits(task, logits)


def _with_logits(task: ChoiceTask, logits: Any) -> ChoiceTask:
    """Return the same task but for its logits, by which its loss, its predictions and every objective go."""
    stage = copy.copy(task)
    stage.logits = logits  # type: ignore[method-assign]
    return stage


class _Answering:
    """A system with another rule of answering."""

    def __init__(self, system: Any, answering: Any):
        self._system, self.answering = system, answering

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)
