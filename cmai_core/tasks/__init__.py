"""Tasks: what a vision-language model is asked, trained and attacked on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmai_core.tasks.registry import DEFAULT_TASK, TASKS, TaskInfo, get_task

if TYPE_CHECKING:
    from cmai_core.tasks.base import Prediction, Task
    from cmai_core.tasks.evaluate import evaluate_clean

__all__ = ["DEFAULT_TASK", "TASKS", "Prediction", "Task", "TaskInfo", "evaluate_clean", "get_task"]

_LAZY = {
    "Prediction": "cmai_core.tasks.base",
    "Task": "cmai_core.tasks.base",
    "evaluate_clean": "cmai_core.tasks.evaluate",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
