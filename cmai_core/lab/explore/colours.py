"""What the points of a map can be coloured by."""

from __future__ import annotations

import numpy as np

from cmai_core.errors import OptionError
from cmai_core.lab.explore.run import OUTCOMES, ExploreRun

OUTCOME, COMPARED, ATTACKED, CHANGE = "outcome", "A and B", "S_c attacked", "S_c change"


def colourings(run: ExploreRun) -> list[str]:
    """Return the names of what a run's points can be coloured by: outcomes, scores, and every attribute."""
    two = [COMPARED] if len(run.parts) > 1 else []
    return [OUTCOME, *two, ATTACKED, CHANGE, *run.attributes]


def coloured(run: ExploreRun, role: str, level: int, by: str) -> np.ndarray:
    """Return N numbers or N words.

    Raises:
        OptionError: there is nothing of that name.
    """
    part = run.part(role)
    if by == ATTACKED:
        return part.attacked[level].score
    if by == CHANGE:
        return part.attacked[level].score - part.clean.score
    if by == OUTCOME:
        return np.array(OUTCOMES)[part.outcome(level)]
    if by == COMPARED and len(run.parts) > 1:
        (a, first), (b, second) = list(run.parts.items())[:2]
        both = zip(first.outcome(level), second.outcome(level), strict=True)
        return np.array([f"{a} {OUTCOMES[one]}, {b} {OUTCOMES[other]}" for one, other in both])
    if by not in run.attributes:
        raise OptionError(f"Points cannot be coloured by {by[:40]!r}.", f"By: {', '.join(colourings(run))}.")
    column = run.attributes[by]
    return np.array([values[0] if len(values) == 1 else "several" if values else "none" for values in column])
