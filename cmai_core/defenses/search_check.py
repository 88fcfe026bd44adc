"""Certified by search: an answer is accepted only if a small search around the picture does not change it.

Consistent prediction rejection (CPR: Chen et al. 2023, arXiv 2305.01139). As a detector it combines with every policy
and with other detectors. What it costs are its steps: each a forward and a backward pass, for every picture. It is no
certificate in the strict sense: a stronger search may find what this one did not.

Its score has honest gradients (`attacks.objectives.stability`), and an attacker who knows of it raises `StableMistake`
(`attacks.adaptive_attack.stable_mistake`): an answer that is wrong and that the search does not move either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cmai_core.attacks.objectives.classes import check_classes
from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.objectives.stability import AnswerStability, Neighbourhood


@dataclass(frozen=True)
class SearchDetector:
    """Flags a picture whose answer a search of radius ε̃ changes. The threshold is a margin of 0.

    Attributes:
        task: with class scores, the one that is asked. dataset: handed to its `prepare`.
        radius: ε̃ of L∞ in pixel units of [0, 1]. steps: gradients of the search.
    """

    task: Any
    dataset: Any = None
    radius: float = 0.5 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        check_classes(self.task)
        Neighbourhood(radius=self.radius, steps=self.steps)

    @property
    def tau(self) -> float:
        return 0.0

    @property
    def search(self) -> Neighbourhood:
        """The search itself, which an attacker who knows the system repeats."""
        return Neighbourhood(radius=self.radius, steps=self.steps)

    @property
    def consistency(self) -> Objective:
        """The score, not yet bound to a model and a batch."""
        return AnswerStability(self.task, dataset=self.dataset, search=self.search)

    def describe(self) -> dict:
        """Return plain values for reports."""
        plain = {"detector": "search", "radius": self.radius, "steps": self.steps}
        return plain | {"tau": self.tau, "scores": self.task.name}
