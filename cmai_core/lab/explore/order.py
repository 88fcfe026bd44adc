"""In which order a run's pairs are looked at, and which are like a given one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cmai_core.errors import OptionError
from cmai_core.lab.explore.run import HELD, OUTCOMES, ExploreRun, ModelRun

PICTURE, TEXT = BY = ("picture", "text")


def sorted_rows(run: ExploreRun, name: str, role: str, level: int, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen pairs (bool N) in an order of SORTS; equal ones stay in the dataset's order: int M.

    Raises:
        OptionError: there is no such order, or it compares two models and the run has one.
    """
    if name not in SORTS:
        raise OptionError(f"There is no order {name[:40]!r}.", f"Orders: {', '.join(SORTS)}.")
    if name in TWO and len(run.parts) < 2:
        raise OptionError("This order compares two models, and the run has one.", "Choose another.")
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(SORTS[name](run, role, level)[rows], kind="stable")]


def orders(run: ExploreRun) -> tuple[str, ...]:
    """Return the orders that a run can be put in."""
    return tuple(name for name in SORTS if len(run.parts) > 1 or name not in TWO)


def smallest_epsilon(part: ModelRun, epsilons: tuple[float, ...]) -> np.ndarray:
    """Return the smallest measured ε that fools the model about each pair: N values, inf where none does."""
    found = np.full(len(part.clean.score), np.inf)
    for level in reversed(range(len(epsilons))):
        found[part.outcome(level) == OUTCOMES.index("fooled")] = epsilons[level]
    return found


def alike(run: ExploreRun, role: str, row: int, by: str, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen pairs (bool N), the one most like a given pair first: int M.

    Alike is what has a high cosine as the model embeds the clean pictures, or the texts.

    Raises:
        OptionError: neither picture nor text.
    """
    if by not in BY:
        raise OptionError(f"Alike by {by[:20]!r}.", f"Choose from {', '.join(BY)}.")
    part = run.part(role)
    vectors = (part.clean.image if by == PICTURE else part.text).astype(np.float32)
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-(vectors[rows] @ vectors[row]), kind="stable")]


def _lost(run: ExploreRun, role: str, level: int) -> np.ndarray:
    part = run.part(role)
    return part.attacked[level].score - part.clean.score


def _two(run: ExploreRun, level: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = list(run.parts.values())[:2]
    return first.attacked[level].score, second.attacked[level].score


def _first_fails(run: ExploreRun, role: str, level: int) -> np.ndarray:
    first, second = (part.outcome(level) for part in list(run.parts.values())[:2])
    apart = (first == OUTCOMES.index("fooled")) & (second == OUTCOMES.index(HELD))
    one, other = _two(run, level)
    return (one - other) - 10.0 * apart


def _disagree(run: ExploreRun, role: str, level: int) -> np.ndarray:
    one, other = _two(run, level)
    return -np.abs(one - other)


SORTS: dict[str, Callable[[ExploreRun, str, int], np.ndarray]] = {
    "hardest": lambda run, role, level: run.part(role).attacked[level].score,
    "largest change": _lost,
    "smallest ε": lambda run, role, level: smallest_epsilon(run.part(role), run.epsilons),
    "first fails, second holds": _first_fails,
    "disagreement": _disagree,
    "dataset": lambda run, role, level: np.arange(len(run)),
}
"""Name → N values that rise along the order. "hardest": the lowest S_c after the attack."""
TWO = ("first fails, second holds", "disagreement")
"""Orders that compare the first two models."""
