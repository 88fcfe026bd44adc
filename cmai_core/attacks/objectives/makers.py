"""Makers of the objectives that can be named, and of what counts as success: see `registry`.

Every maker takes the keywords task, dataset, alpha and beta, and leaves what it does not need.
"""

from __future__ import annotations

from typing import Any

from cmai_core.attacks.objectives.attention import AttentionDiversion
from cmai_core.attacks.objectives.classes import DLR, Divergence, Margin
from cmai_core.attacks.objectives.detection import DetectorAware
from cmai_core.attacks.objectives.detectors import Accepted, Slack
from cmai_core.attacks.objectives.embedding import EmbeddingDeviation
from cmai_core.attacks.objectives.objective import Consistency, Objective, TaskObjective
from cmai_core.attacks.objectives.success import Criterion, Raised, Untargeted


def task_loss(task: Any, dataset: Any, **weights: float) -> Objective:
    """Make the task's loss."""
    return TaskObjective(task, dataset=dataset)


def inconsistency(**given: Any) -> Objective:
    """Make −S_c of the batch's texts."""
    return -Consistency()


def both(task: Any, dataset: Any, alpha: float, beta: float) -> Objective:
    """Make alpha·loss − beta·S_c."""
    return alpha * TaskObjective(task, dataset=dataset) - beta * Consistency()


def margin(task: Any, dataset: Any, **weights: float) -> Objective:
    """Make the margin of the task's class scores."""
    return Margin(task, dataset=dataset)


def dlr(task: Any, dataset: Any, **weights: float) -> Objective:
    """Make the difference of logits ratio of the task's class scores."""
    return DLR(task, dataset=dataset)


def divergence(task: Any, dataset: Any, **weights: float) -> Objective:
    """Make the KL divergence from the clean prediction."""
    return Divergence(task, dataset=dataset)


def embedding(**given: Any) -> Objective:
    """Make the distance from the clean embedding."""
    return EmbeddingDeviation()


def attention(**given: Any) -> Objective:
    """Make the distance from the clean picture's attention."""
    return AttentionDiversion()


def aware(task: Any, dataset: Any, **weights: float) -> Objective:
    """Make the task's loss as long as the attacked system's detector accepts."""
    return DetectorAware(TaskObjective(task, dataset=dataset), Untargeted(task, dataset=dataset))


def slack(**given: Any) -> Objective:
    """Make score − threshold of the attacked system's detector."""
    return Slack()


def shortfall(**given: Any) -> Objective:
    """Make threshold − score of the attacked system's detector."""
    return -Slack()


def criterion(success: str, task: Any, dataset: Any) -> Criterion:
    """Make a criterion by its name in `registry.CRITERIA`; without a task, "wrong" is that the objective rose."""
    if success in ("accepted", "rejected"):
        return Accepted() if success == "accepted" else ~Accepted()
    if task is None:
        return Raised()
    wrong = Untargeted(task, dataset=dataset)
    return wrong & Accepted() if success == "wrong and accepted" else wrong
