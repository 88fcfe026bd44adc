"""The tasks by name, as plain data: what pages, commands and figures need to know of a task, without importing torch.

To add a task: one file with a class that follows `tasks.base.Task`, and a row here. Another package adds one by an
entry point of the group `cmai.tasks` that names its `TaskInfo`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmai_core.errors import OptionError
from cmai_core.registry import Registry, imported

if TYPE_CHECKING:
    from cmai_core.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """A task as plain data.

    Attributes:
        name: in commands, links and results.
        title: heading over a model's answer. word: in lists of choices.
        make: makes the task with its default settings: a class, or "module:Class", imported when it is first asked for.
        has_classes: whether the answer is one of several scored options, which margins and targets compare.
        options: how many options there are, where that is the same for every pair; None: as many as the data give.
        pictures: how many pictures one question is about; only the pair's own is attacked.
        headline: the measures that stand on a model's card.
    """

    name: str
    title: str
    word: str
    make: Callable[[], Task] | str
    has_classes: bool = True
    options: int | None = None
    pictures: int = 1
    headline: tuple[str, ...] = ("accuracy",)


def _refuse(name: str, part: Any) -> str:
    if not isinstance(part, TaskInfo):
        return f"it is a {type(part).__name__}, not a TaskInfo"
    return "" if part.name == name else f"it calls itself {part.name!r}"


DEFAULT_TASK = "retrieval"
"""The task that is asked and attacked where none is named: every recipe goes with it."""

_TASKS = (
    TaskInfo(
        name="zero-shot",
        title="Zero-shot: what is in the picture?",
        word="zero-shot class",
        make="cmai_core.tasks.zero_shot:ZeroShot",
    ),
    TaskInfo(
        name="retrieval",
        title="Retrieval: which sentence of the gallery fits?",
        word="retrieval",
        make="cmai_core.tasks.retrieval:Retrieval",
        headline=("image_to_text_r1", "text_to_image_r1"),
    ),
    TaskInfo(
        name="vqa",
        title="Question answering",
        word="question answering",
        make="cmai_core.tasks.vqa:Vqa",
    ),
    TaskInfo(
        name="captioning",
        title="Captioning: the model's own sentence",
        word="captioning",
        make="cmai_core.tasks.captioning:Captioning",
        has_classes=False,
        headline=("fact_f1", "bleu4", "cider"),
    ),
    TaskInfo(
        name="nlvr",
        title="Statement about two pictures",
        word="two-picture statement",
        make="cmai_core.tasks.nlvr:Nlvr",
        options=2,
        pictures=2,
    ),
)

TASKS: Registry[TaskInfo] = Registry("task", "cmai.tasks", {info.name: info for info in _TASKS}, _refuse)
"""Every task by name."""

_made: dict[str, Task] = {}


def get_task(name: str) -> Task:
    """Return the task of a name, with its default settings; the same object each time.

    Raises:
        OptionError: unknown name, or a task that does not do what `tasks.base.Task` says.
    """
    info = TASKS.find(name)
    if name not in _made:
        made = _maker(info)()
        if missing := [part for part in ("prepare", "loss", "predict", "applies_to") if not hasattr(made, part)]:
            raise OptionError(f"The task {name!r} has no {missing[0]}.", "Derive it from cmai_core.tasks.base.Task.")
        _made[name] = made
    return _made[name]


def _maker(info: TaskInfo) -> Callable[[], Task]:
    return imported(info.make) if isinstance(info.make, str) else info.make
