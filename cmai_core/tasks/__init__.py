"""Tasks: what a vision-language model is asked, trained and attacked on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmai_core.errors import OptionError

if TYPE_CHECKING:
    from cmai_core.tasks.base import Prediction, Task
    from cmai_core.tasks.evaluate import evaluate_clean

NAMES = ("zero-shot", "retrieval", "vqa", "captioning", "nlvr")

__all__ = ["NAMES", "TASKS", "Prediction", "Task", "evaluate_clean", "get_task"]

_LAZY = {
    "Prediction": "cmai_core.tasks.base",
    "Task": "cmai_core.tasks.base",
    "TASKS": "cmai_core.tasks.registry",
    "evaluate_clean": "cmai_core.tasks.evaluate",
}


def get_task(name: str) -> Task:
    """A task by name, with its default settings.

    Raises:
        OptionError: unknown name.
    """
    if name not in NAMES:
        raise OptionError(f"Unknown task {name!r}.", f"Tasks: {', '.join(NAMES)}.")
    from cmai_core.tasks.registry import TASKS

    return TASKS[name]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
