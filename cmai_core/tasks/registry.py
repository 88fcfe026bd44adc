"""The tasks by name."""

from __future__ import annotations

from cmai_core.tasks.base import Task
from cmai_core.tasks.captioning import Captioning
from cmai_core.tasks.nlvr import Nlvr
from cmai_core.tasks.retrieval import Retrieval
from cmai_core.tasks.vqa import Vqa
from cmai_core.tasks.zero_shot import ZeroShot

TASKS: dict[str, Task] = {task.name: task for task in (ZeroShot(), Retrieval(), Vqa(), Captioning(), Nlvr())}
