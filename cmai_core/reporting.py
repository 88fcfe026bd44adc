"""Progress of a running attack at a bounded rate, and cancellation at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from cmai_core.progress import CancelToken, Progress, ProgressCallback


class Watch:
    """Progress and cancellation of a running attack.

    The data sent are references to tensors on the device, so sending copies nothing and does not wait for the device;
    a listener that wants numbers copies them itself. On a GPU, work is launched ahead of its execution: while somebody
    listens or may cancel, `pace` keeps that lead at one step, so that what is shown is what is happening.

    Args:
        interval: least seconds between two messages (0: every step); the first and the last are always sent.
    """

    def __init__(self, progress: ProgressCallback | None, cancel: CancelToken | None, interval: float = 0.05):
        self._progress, self._cancel, self._interval = progress, cancel, interval
        self._sent_at = -float("inf")
        self._previous: Any = None

    @property
    def cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.cancelled

    def report(
        self, done: int, total: int, stage: str, data: Callable[[], Mapping[str, Any]], *, force: bool = False
    ) -> None:
        """Send a message if one is due; `data` is only called then."""
        if self._progress is None:
            return
        now = time.perf_counter()
        if force or now - self._sent_at >= self._interval:
            self._progress(Progress(done, total, stage, data()))
            self._sent_at = time.perf_counter()

    def pace(self, device: torch.device) -> None:
        """Wait until the step before the last launched one has been executed (GPU only, only if anyone watches)."""
        if device.type != "cuda" or (self._progress is None and self._cancel is None):
            return
        if self._previous is not None:
            self._previous.synchronize()
        self._previous = torch.cuda.Event()
        self._previous.record()
