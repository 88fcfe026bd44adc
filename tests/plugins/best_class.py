"""The task of `tasks.py`; it imports torch, which its description does not."""

from __future__ import annotations

from cmai_core.tasks.zero_shot import ZeroShot


class BestClass(ZeroShot):
    """Zero-shot classification by another name."""

    name = "best-class"
