"""The stages of verified answering as tasks of their own, for an attacker who knows of it.

    Margin(answered(task))                             # the answer itself, as it is given after verification
    Margin(first_stage(task))                          # another option before what is true, by the model's own scores
    Margin(outside(task))                              # nothing that is true is shortlisted
    Margin(second_stage(task))                         # make V_verify prefer what is false
    Margin(task) + 0.5 * Margin(first_stage(task))     # both stages of a system at once

Whether such an attack has succeeded is still judged by the task itself, on a system that answers so, or by
`answered(task)` on any model with consistency heads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cmai_core.errors import OptionError
from cmai_core.tasks.base import Choices, ChoiceTask, rule_for
from cmai_core.tasks.verified import StatementCache, VerifiedAnswers

if TYPE_CHECKING:
    from cmai_core.models.features import ImageFeatures
    from cmai_core.models.protocol import VisionLanguageModel

_NEXT_TO_NOTHING = 1e3
"""A temperature at which the model's own scores hardly count beside log V_verify."""

# (model, features, prepared) → logits N×C
Logits = Callable[[Any, Any, Choices], Tensor]


def known_rule(model: Any, task: str, rule: VerifiedAnswers | None = None) -> VerifiedAnswers:
    """Return how a task is answered by verification: as given, else as the system does, as the card says, or usually.

    Raises:
        ModelError: the rules of the card belong to other weights, or cannot be read.
    """
    if rule is None:
        rule = rule_for(model, task)
    return rule or VerifiedAnswers.of_card(model).get(task) or VerifiedAnswers()


def answered(task: ChoiceTask, rule: VerifiedAnswers | None = None) -> ChoiceTask:
    """Return the task as it is answered after verification, on any model with consistency heads.

    Args:
        rule: None: `known_rule` of the model that is asked.
    """
    cache = StatementCache()

    def logits(model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        system = _Answering(model, known_rule(model, task.name, rule), cache)
        return task.logits(system, features, prepared)

    return _with_logits(task, logits, "answered", rule)


def first_stage(task: ChoiceTask) -> ChoiceTask:
    """Return the task with the model's own scores for logits, which decide what is shortlisted."""
    return _with_logits(task, task.scores, "first")


def outside(task: ChoiceTask, rule: VerifiedAnswers | None = None) -> ChoiceTask:
    """Return the task with the model's own scores, but for the k − 1 likeliest false options, which have −∞.

    So its margin is positive exactly where k false options are before all that is true, and nothing true is
    shortlisted. Where there are fewer than k false options something true always is; the least likely one is kept then.

    Args:
        rule: as in `answered`.
    """

    def logits(model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        scores, k = task.scores(model, features, prepared), known_rule(model, task.name, rule).shortlist
        false = scores.detach().masked_fill(prepared.target, -torch.inf).argsort(dim=1, descending=True)
        place = torch.empty_like(false).scatter(1, false, torch.arange(scores.shape[1]).to(false).expand_as(false))
        last = (~prepared.target).sum(dim=1, keepdim=True) - 1
        dropped = place < last.clamp(max=scores.shape[1] if k is None else k - 1)
        return scores.masked_fill(dropped & ~prepared.target, -torch.inf)

    return _with_logits(task, logits, "outside", rule)


def second_stage(task: ChoiceTask, rule: VerifiedAnswers | None = None) -> ChoiceTask:
    """Return the task with logits that rank the shortlist by V_verify alone, and all other options below.

    Args:
        rule: as in `answered`.
    """
    cache = StatementCache()

    def logits(model: VisionLanguageModel, features: ImageFeatures, prepared: Choices) -> Tensor:
        alone = replace(known_rule(model, task.name, rule), temperature=_NEXT_TO_NOTHING, gamma=1.0)
        return task.logits(_Answering(model, alone, cache), features, prepared)

    return _with_logits(task, logits, "second", rule)


def check_verifiable(task: Any) -> None:
    """Raise `OptionError` for a task whose answers are no statements that V_verify reads."""
    if not getattr(task, "verifiable", False):
        raise OptionError(
            f"The answers of {task.name} are not verified.", "Choose retrieval, zero-shot or question answering."
        )


def _with_logits(task: ChoiceTask, logits: Logits, stage: str, rule: Any = None) -> ChoiceTask:
    """Return the same task but for its logits, by which its loss, its predictions and every objective go."""
    made = copy.copy(task)
    made.logits = logits  # type: ignore[method-assign]
    # An attack on a stage is another one than on the task, and has another address.
    own = {"task": task.name, "stage": stage} | ({} if rule is None else {"rule": rule.describe()})
    made.address_content = lambda: own  # type: ignore[attr-defined]
    return made


class _Answering:
    """A model with another rule of answering; statements that it does not remember itself are remembered here."""

    def __init__(self, model: Any, answering: Any, cache: StatementCache):
        self._model, self.answering, self._cache = model, answering, cache

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not there yet while being copied
            raise AttributeError(name)
        return getattr(self._model, name)

    def statement_states(self, texts: Any) -> Any:
        own = getattr(self._model, "statement_states", None)
        return self._cache.states(self._model, texts) if own is None else own(texts)
