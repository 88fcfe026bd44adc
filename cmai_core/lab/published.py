"""The published comparison as the lab shows it: read once, its shares with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmai_core.comparison.results import Result


@cache
def published() -> Mapping[str, Result]:
    """Return the published results by model.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    from cmai_core.comparison.results import read_results
    from cmai_core.comparison.run import results_dir

    return read_results(results_dir())


def short(name: str) -> str:
    """Return a bundled model's name without what all of them share."""
    return name.removeprefix("tabletop-")


def clean_share(name: str, task: str = "retrieval", measure: str = "image_to_text_r1") -> Mapping[str, float]:
    """Return a clean figure of a model: value, low, high, n."""
    return published()[name].parts["clean"][task][measure]


def robust_share(name: str, epsilon: float) -> dict[str, float]:
    """Return what a model keeps of image→text R@1 in the worst case at an ε: value, low, high, hits, total."""
    from cmai_core.comparison.verdicts import share

    return share(published()[name].verdict("main", epsilon).held)
