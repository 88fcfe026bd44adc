"""One piece of work in the queue: what is told about it, and the handle its owner holds."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmai_core.errors import CmaiError
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.jobs.queue import JobQueue

Work = Callable[[ProgressCallback, CancelToken], Any]
"""What a job runs: `work(progress, cancel) -> result`. It looks at `cancel` often and calls `progress` often."""

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
FINISHED = frozenset({DONE, FAILED, CANCELLED})


@dataclass(frozen=True)
class Owner:
    """Whose a job is, from the narrowest to the widest.

    Attributes:
        tab: the page that waits for the result; "" where the visitor as a whole does.
        visitor: who sits before it; all pages of one visitor share this, and so one share of the queue.
        address: where the visitor comes from; visitors of one address share a turn.
    """

    tab: str = ""
    visitor: str = ""
    address: str = ""

    @classmethod
    def of(cls, owner: Owner | str) -> Owner:
        """Return the owner that a plain name means: somebody for themselves."""
        return owner if isinstance(owner, cls) else cls(owner, owner, owner)


class JobError(CmaiError):
    """A job that cannot be accepted, or a result that is not there."""


class QueueFull(JobError):
    """The queue, or its owner's share of it, is full."""


@dataclass(frozen=True)
class JobSnapshot:
    """What can be said of a job at one moment; never changes.

    Attributes:
        id, label: as given at submission (the id is made up). owner: the tab's name.
        state: "queued", "running", "done", "failed" or "cancelled".
        position: jobs before this one, the running one included; 0 when it runs or has finished.
        progress: the last message of the work, None before the first.
        elapsed: seconds it has run (so far).
        eta: seconds it is expected still to run, None while that cannot be told.
        wait: seconds it is expected still to wait for its turn, by what jobs of these labels took; None where one of
            those before it is of a kind that never finished here. 0 when it runs or has finished.
        message: why it failed or was stopped, or "" ; hint: what to do about it.
        has_result: whether `Job.result()` gives something (also the best so far of a cancelled job).
    """

    id: str
    owner: str
    label: str
    state: str
    position: int = 0
    progress: Progress | None = None
    elapsed: float = 0.0
    eta: float | None = None
    wait: float | None = 0.0
    message: str = ""
    hint: str = ""
    has_result: bool = False

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    @property
    def fraction(self) -> float:
        """Share finished, in [0, 1]."""
        if self.state == DONE:
            return 1.0
        return self.progress.fraction if self.progress else 0.0


class Job:
    """A handle on submitted work. All methods may be called from any thread; none waits except `wait`.

    The result lies in the queue, not here, so that holding a handle keeps no memory alive.
    """

    def __init__(self, queue: JobQueue, work: Work, owner: Owner, label: str, time_limit: float | None):
        self.id = uuid.uuid4().hex
        self.owner, self.label, self.time_limit = owner, label, time_limit
        self._queue = queue
        self._work: Work | None = work
        self._cancel = CancelToken()
        self._state, self._progress = QUEUED, None
        self._message, self._hint = "", ""
        self._started: float | None = None
        self._ended: float | None = None
        self._finished = threading.Event()

    def snapshot(self) -> JobSnapshot:
        """How it stands now."""
        return self._queue.snapshot(self)

    def cancel(self) -> None:
        """Asks it to stop: at once where it still waits, within one step of the work where it runs."""
        self._queue.cancel(self)

    def result(self) -> Any:
        """Return what the work returned.

        Raises:
            JobError: it has not finished, failed, was cancelled with nothing to show, or the result has been dropped.
        """
        return self._queue.result(self)

    def wait(self, timeout: float | None = None) -> JobSnapshot:
        """Wait until it has finished, at most `timeout` seconds; return how it stands then."""
        self._finished.wait(timeout)
        return self.snapshot()

    def _elapsed(self) -> float:
        if self._started is None:
            return 0.0
        return (self._ended or time.monotonic()) - self._started

    def _eta(self) -> float | None:
        """Time so far, extrapolated by the share finished; nothing before half a second or two percent."""
        fraction = self._progress.fraction if self._progress else 0.0
        elapsed = self._elapsed()
        if self._state != RUNNING or fraction < 0.02 or elapsed < 0.5:
            return None
        return elapsed * (1.0 - fraction) / fraction
