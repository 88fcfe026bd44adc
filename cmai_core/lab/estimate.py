"""How long an attack will take, learned from the attacks before it."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from cmai_core.lab.experiment import Experiment

if TYPE_CHECKING:
    from cmai_core.lab.result import LabResult

KEPT = 32
"""Attacks of a kind that are remembered."""


class CostBook:
    """Seconds of finished attacks by what they cost: search, threat model, objective, task and models.

    Thread-safe. An attack takes a fixed time (reading the answers) and one that grows with its steps; with attacks of
    one length only, all of it is taken to grow.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple, deque[tuple[int, float]]] = {}
        self._lock = threading.Lock()

    def note(self, result: LabResult) -> None:
        """Remember what a finished attack took; one that was cancelled tells nothing."""
        if any(example.cancelled for example in result.examples.values()):
            return
        with self._lock:
            seen = self._seen.setdefault(_kind(result.experiment), deque(maxlen=KEPT))
            seen.append((_units(result.experiment), result.seconds))

    def seconds(self, experiment: Experiment) -> float | None:
        """Return about how long an attack will take; None where none of its kind was made yet."""
        with self._lock:
            seen = list(self._seen.get(_kind(experiment), ()))
        if not seen:
            return None
        wanted = _units(experiment)
        least, most = min(seen), max(seen)
        if least[0] == most[0]:
            return sorted(taken for _, taken in seen)[len(seen) // 2] * (wanted / least[0] if wanted > least[0] else 1)
        slope = max(0.0, (most[1] - least[1]) / (most[0] - least[0]))
        return max(0.1, least[1] + slope * (wanted - least[0]))


def _units(experiment: Experiment) -> int:
    return experiment.units * len(experiment.attacked_models())


def _kind(e: Experiment) -> tuple:
    return (e.recipe, e.norm, e.objective, e.task_of_attack, tuple(sorted(set(e.models.values()))))
