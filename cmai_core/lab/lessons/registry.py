"""The lessons in their order. Lessons of other packages join by the entry point group `cmai.lessons`."""

from __future__ import annotations

import re
from typing import Any

from cmai_core.lab.lessons.lesson import Lesson
from cmai_core.registry import Registry


def _why_not(name: str, part: Any) -> str:
    """Return why an object cannot be a lesson, "" if it can."""
    if not isinstance(part, Lesson):
        return "it is no cmai_core.lab.lessons.lesson.Lesson."
    if part.name != name or re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) is None:
        return f"it calls itself {part.name!r}; a name is of small letters, digits and underscores."
    return ""


_HERE = "cmai_core.lab.lessons"
LESSONS: Registry[Lesson] = Registry(
    "lesson",
    "cmai.lessons",
    {
        "s_c": f"{_HERE}.s_c:LESSON",
        "fgsm": f"{_HERE}.fgsm:LESSON",
        "eyes": f"{_HERE}.eyes:LESSON",
        "words": f"{_HERE}.words:LESSON",
        "transfer": f"{_HERE}.transfer:LESSON",
        "detection": f"{_HERE}.detection:LESSON",
        "masking": f"{_HERE}.masking:LESSON",
        "price": f"{_HERE}.price:LESSON",
    },
    refuse=_why_not,
)
