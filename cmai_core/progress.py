"""Progress and cancellation, the lowest layer: attacks, training, evaluation and jobs all speak these two types."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cmai_core.errors import Cancelled


@dataclass(frozen=True)
class Progress:
    """An immutable snapshot of how far a piece of work has come.

    Attributes:
        done: units finished.
        total: units in all (0: unknown).
        stage: what is being done now, in words a reader understands.
        data: anything the listener may draw (curves, the current image); never mutated after it is sent.
    """

    done: int
    total: int
    stage: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Share finished, in [0, 1]; 0 while the total is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


ProgressCallback = Callable[[Progress], None]


class CancelToken:
    """A flag that another thread may raise; work looks at it once a step."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Stop the caller by `Cancelled` once cancel() has been called."""
        if self.cancelled:
            raise Cancelled("cancelled")
