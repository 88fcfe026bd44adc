"""Words for what the library names by short keys."""

from __future__ import annotations

from cmai_core.tasks import TASKS

NORM_WORDS = {"linf": "L∞", "l2": "L2"}
TASK_WORDS = {name: info.word for name, info in TASKS.items()}


def eta_words(seconds: float | None) -> str:
    """Return " · about 5 s left", or "" if the time is not known."""
    if seconds is None or seconds < 1:
        return ""
    return f" · about {seconds:.0f} s left" if seconds < 90 else f" · about {seconds / 60:.0f} min left"
