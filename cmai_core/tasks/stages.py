"""The two stages of verified answering as tasks of their own, for an attacker who aims at one of them.

    Margin(FirstStage(task))                          # push what is true out of the shortlist
    Margin(SecondStage(task))                         # make V_verify prefer what is false
    Margin(task) + 0.5 * Margin(FirstStage(task))     # both at once

Whether such an attack has succeeded is still judged by the task itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cmai_core.tasks.base import Choices, ChoiceTask, rule_for

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel

_ALMOST_ONLY = 1e3


class _Stage(ChoiceTask):
    """A task asked in another way; all but its logits is the task's own."""

    def __init__(self, task: ChoiceTask):
        self.task = task

    def __getattr__(self, name: str) -> Any:
        if name == "task":
            raise AttributeError(name)
        return getattr(self.task, name)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the task."""
        return self.task.name

    def prepare(self, *args: Any, **options: Any) -> Any:
        """Prepare the task."""
        return self.task.prepare(*args, **options)


class FirstStage(_Stage):
    """The model's own scores, which decide what is shortlisted."""

    def logits(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """Return the scores N×C by the model alone."""
        return self.task.scores(model, features, prepared)


class SecondStage(_Stage):
    """V_verify of the shortlisted options alone, as if it decided without the scores."""

    def logits(self, model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        """Return N×C values that rank the shortlist by log V_verify, and all others below."""
        answering = rule_for(model, self.name)
        if answering is None:
            return self.task.logits(model, features, prepared)
        return self.task.logits(_Answering(model, replace(answering, temperature=_ALMOST_ONLY)), features, prepared)


class _Answering:
    """A system with another rule of answering."""

    def __init__(self, system: Any, answering: Any):
        self._system, self.answering = system, answering

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)
