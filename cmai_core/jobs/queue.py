"""One worker thread for everything that uses the device: bounded, fair between owners, never blocking who asks."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from cmai_core.errors import Cancelled, CmaiError, OptionError
from cmai_core.jobs.job import (
    CANCELLED,
    DONE,
    FAILED,
    FINISHED,
    QUEUED,
    RUNNING,
    Job,
    JobError,
    JobSnapshot,
    Owner,
    QueueFull,
    Work,
)
from cmai_core.progress import Progress

T = TypeVar("T")
_log = logging.getLogger(__name__)
_TICK = 0.25
_REMEMBERED = 4096
"""Visitors and addresses whose last turn is known."""
_TOOK, _LABELS = 16, 64
"""How many durations of a label are remembered, and of how many labels."""


class JobQueue:
    """Runs jobs one after another in one thread, and short calls in between.

    Whose turn it is goes round: the address that has waited longest since its last turn (or has had none) is next, and
    within an address the visitor; of one visitor's jobs the oldest. So neither many pages of one visitor nor many
    visitors of one address push others back.

    All device work of a process goes through one queue, so nothing ever competes for the device's memory. Jobs are long
    (an attack): submitted, watched, cancelled. Calls are short (a prediction): `call` waits for the answer; calls
    go before waiting jobs, and a running job makes way for them each time it reports progress.

    Args:
        max_pending: most jobs waiting or running, over all owners.
        max_per_owner: most of them of one visitor, over all their pages.
        max_per_address: most of them of one address (None: no limit but the first).
        keep_results: most results kept; beyond that the oldest are dropped.
        time_limit: seconds a job may run (None: no limit); then it is told to stop, and what it returns is kept.
        present: tells whether an owner is still there; the jobs of one who is not are cancelled within a second. It is
            asked from the queue's own thread, some times a second, of owners with jobs. None: everybody always is.
        max_calls: most short calls waiting.
    """

    def __init__(
        self,
        *,
        max_pending: int = 32,
        max_per_owner: int = 3,
        max_per_address: int | None = None,
        keep_results: int = 16,
        time_limit: float | None = 600.0,
        present: Callable[[Owner], bool] | None = None,
        max_calls: int = 64,
    ):
        for name, value in (("max_pending", max_pending), ("max_per_owner", max_per_owner), ("max_calls", max_calls)):
            if value < 1:
                raise OptionError(f"{name}={value} is not accepted.", "Accepted: whole numbers from 1.")
        self.max_pending, self.max_per_owner, self.keep_results = max_pending, max_per_owner, keep_results
        self.max_per_address, self.time_limit, self.max_calls = max_per_address, time_limit, max_calls
        self._present = present
        self._lock = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._calls: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._results: OrderedDict[str, Any] = OrderedDict()
        self._took: dict[str, deque[float]] = {}
        self._turn = 0
        self._turns: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._closed = False
        self._ended = threading.Event()
        self._worker = threading.Thread(target=self._work_loop, name="cmai-jobs", daemon=True)
        self._watchdog = threading.Thread(target=self._watch_loop, name="cmai-watchdog", daemon=True)
        self._worker.start()
        self._watchdog.start()
        atexit.register(self.close)

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Jobs

    def submit(self, work: Work, *, owner: Owner | str = "", label: str = "", time_limit: float | None = None) -> Job:
        """Add a job to the queue; return at once.

        Args:
            work: called as `work(progress, cancel)` in the worker thread.
            owner: whose job it is (a name stands for one visitor with one page); label: what it is, for people.
            time_limit: overrides the queue's where it is shorter.

        Raises:
            QueueFull: too many jobs in all, of this visitor, or of this address.
            JobError: the queue has been closed.
        """
        limits = [limit for limit in (time_limit, self.time_limit) if limit is not None]
        job = Job(self, work, Owner.of(owner), label, min(limits, default=None))
        with self._lock:
            if self._closed:
                raise JobError("No more work is accepted: the queue has been closed.")
            pending = self._pending()
            own = sum(other.owner.visitor == job.owner.visitor for other in pending)
            if own >= self.max_per_owner:
                raise QueueFull(
                    f"You already have {own} jobs waiting or running, all your pages together.",
                    "Cancel one, or wait until one has finished.",
                )
            near = sum(other.owner.address == job.owner.address for other in pending)
            if self.max_per_address is not None and near >= self.max_per_address:
                raise QueueFull(f"{near} jobs from your network are already waiting.", "Try again in a few minutes.")
            if len(pending) >= self.max_pending:
                raise QueueFull(f"{len(pending)} jobs are already waiting.", "Try again in a few minutes.")
            self._waiting.append(job)
            self._lock.notify_all()
        return job

    def snapshot(self, job: Job) -> JobSnapshot:
        """How a job stands now."""
        with self._lock:
            return self._snapshot(job, self._order() if job._state == QUEUED else [])

    def _snapshot(self, job: Job, order: list[Job]) -> JobSnapshot:
        with self._lock:
            position, wait = 0, 0.0
            if job._state == QUEUED and job in order:
                place = order.index(job)
                position = place + (self._running is not None)
                before = [self._left(other) for other in [*([self._running] if self._running else []), *order[:place]]]
                wait = None if None in before else sum(before)
            return JobSnapshot(
                job.id,
                job.owner.tab,
                job.label,
                job._state,
                position,
                job._progress,
                job._elapsed(),
                job._eta(),
                wait,
                job._message,
                job._hint,
                job.id in self._results,
            )

    def _left(self, job: Job) -> float | None:
        """Return the seconds that a job is expected still to take; None where none of its kind has finished yet."""
        if (eta := job._eta()) is not None:
            return eta
        took = sorted(self._took.get(job.label, ()))
        return max(0.0, took[len(took) // 2] - job._elapsed()) if took else None

    def jobs(self, tab: str | None = None) -> list[JobSnapshot]:
        """Return the running and the waiting jobs, in order (of one page, where given)."""
        with self._lock:
            order = self._order()
            pending = ([self._running] if self._running else []) + order
            return [self._snapshot(job, order) for job in pending if tab is None or job.owner.tab == tab]

    @property
    def pending(self) -> int:
        """How many jobs run or wait."""
        with self._lock:
            return len(self._waiting) + (self._running is not None)

    def _order(self) -> list[Job]:
        """Return the waiting jobs as they would run if no other came."""
        turn, turns = self._turn, dict(self._turns)
        left, order = list(self._waiting), []
        while left:
            job = min(left, key=lambda j: [turns.get(name, 0) for name in _names(j)])
            left.remove(job)
            order.append(job)
            turn += 1
            turns.update(dict.fromkeys(_names(job), turn))
        return order

    def _next(self) -> Job:
        """Take the job whose turn it is."""
        job = self._order()[0]
        self._waiting.remove(job)
        self._turn += 1
        for name in _names(job):
            self._turns[name] = self._turn
            self._turns.move_to_end(name)
        while len(self._turns) > _REMEMBERED:
            self._turns.popitem(last=False)
        return job

    def result(self, job: Job) -> Any:
        """Return what a job returned; see `Job.result`."""
        with self._lock:
            if job.id in self._results:
                return self._results[job.id]
            if job._state not in FINISHED:
                raise JobError(f"The job {job.label!r} has not finished.", "Wait for it.")
            if job._state == DONE:
                raise JobError(f"The result of {job.label!r} is no longer kept.", "Run it again.")
            raise JobError(job._message or f"The job {job.label!r} was cancelled and has no result.", job._hint)

    def cancel(self, job: Job, message: str = "Cancelled.") -> None:
        """Stop a job: at once where it waits, at its next look at the token where it runs."""
        with self._lock:
            if job._state == QUEUED and job in self._waiting:
                self._waiting.remove(job)
                self._finish(job, CANCELLED, message)
            elif job._state == RUNNING and not job._cancel.cancelled:
                job._message = message
                job._cancel.cancel()

    def cancel_owner(self, owner: Owner | str, message: str = "Cancelled.") -> int:
        """Stop every job of an owner (whose page was closed, say); return how many."""
        with self._lock:
            mine = [job for job in self._pending() if job.owner == Owner.of(owner)]
            for job in mine:
                self.cancel(job, message)
            return len(mine)

    def here(self, owner: Owner | str) -> bool:
        """Whether an owner is still there, as far as the queue can tell."""
        return self._present is None or self._present(Owner.of(owner))

    def _pending(self) -> list[Job]:
        return [job for job in [*self._waiting, self._running] if job is not None]

    # Calls

    def call(self, function: Callable[[], T], timeout: float | None = 60.0) -> T:
        """Run something short on the worker thread and return what it returns.

        Goes before all waiting jobs; while a job runs, it is served the next time that job reports progress (its time
        counts as the job's). From the worker thread itself the function simply runs.

        Raises:
            QueueFull: too many calls are waiting.
            JobError: not answered within `timeout` seconds, or the queue has been closed.
            Exception: whatever the function raises.
        """
        if threading.current_thread() is self._worker:
            return function()
        future: Future = Future()
        with self._lock:
            if self._closed:
                raise JobError("No more work is accepted: the queue has been closed.")
            if len(self._calls) >= self.max_calls:
                raise QueueFull(f"{len(self._calls)} requests are already waiting.", "Try again in a moment.")
            entry = (future, function)
            self._calls.append(entry)
            self._lock.notify_all()
        try:
            return future.result(timeout)
        except CancelledError:
            raise JobError("The queue was closed before the request was served.") from None
        except FutureTimeout:
            if future.done():  # the function itself raised a TimeoutError
                raise
            future.cancel()
            with self._lock:
                if entry in self._calls:
                    self._calls.remove(entry)
            raise JobError(
                f"The device did not answer within {timeout:g} s: it is busy.",
                "Try again in a moment.",
            ) from None

    # Shutting down

    def close(self, timeout: float = 10.0) -> bool:
        """Cancel everything and stop the threads; return whether the worker ended within `timeout` seconds."""
        atexit.unregister(self.close)
        self._ended.set()
        with self._lock:
            self._closed = True
            for job in [*self._waiting, self._running]:
                if job is not None:
                    self.cancel(job, "Cancelled: the program is ending.")
            while self._calls:
                self._calls.popleft()[0].cancel()
            self._lock.notify_all()
        if threading.current_thread() is not self._worker:
            self._worker.join(timeout)
        with self._lock:
            self._results.clear()
        return not self._worker.is_alive()

    # The worker

    def _work_loop(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or self._calls or self._waiting)
                if self._closed:
                    return
                job = None
                if not self._calls:
                    job = self._running = self._next()
                    job._state, job._started = RUNNING, time.monotonic()
            self._serve_calls() if job is None else self._run(job)

    def _run(self, job: Job) -> None:
        def report(progress: Progress) -> None:
            job._progress = progress
            self._serve_calls()

        state, message, hint, kept = DONE, "", "", []
        try:
            kept.append(job._work(report, job._cancel))
            if job._cancel.cancelled:
                state, message = CANCELLED, job._message
        except Cancelled:
            state, message = CANCELLED, job._message
        except CmaiError as error:
            state, message, hint = FAILED, error.message, error.hint
        except BaseException as error:
            _log.exception("job %s (%s) failed", job.id, job.label)
            state = FAILED
            message, hint = "Internal error.", f"The log has the details (job {job.id[:8]})."
            if not isinstance(error, Exception):
                message = f"Internal error ({type(error).__name__})."
        with self._lock:
            self._running = None
            if kept and self.keep_results > 0 and not self._closed:
                self._results[job.id] = kept[0]
                while len(self._results) > self.keep_results:
                    self._results.popitem(last=False)
            self._finish(job, state, message, hint)
            self._lock.notify_all()

    def _finish(self, job: Job, state: str, message: str = "", hint: str = "") -> None:
        job._state, job._message, job._hint = state, message, hint
        job._ended = time.monotonic()
        if state == DONE:
            self._took.setdefault(job.label, deque(maxlen=_TOOK)).append(job._elapsed())
            while len(self._took) > _LABELS:
                del self._took[next(iter(self._took))]
        job._work = None
        if job._progress is not None:  # what it points to (images, traces) may go
            job._progress = Progress(job._progress.done, job._progress.total, job._progress.stage)
        job._finished.set()

    def _serve_calls(self) -> None:
        """Answers the calls waiting now; those that come meanwhile are answered next time, so that jobs go on."""
        with self._lock:
            batch = [self._calls.popleft() for _ in range(len(self._calls))]
        for future, function in batch:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def _watch_loop(self) -> None:
        """Stop what has run too long or belongs to nobody, until the queue is closed."""
        while not self._ended.wait(_TICK):
            with self._lock:
                job, owners = self._running, {pending.owner for pending in self._pending()}
                if job is not None and job.time_limit is not None and job._elapsed() > job.time_limit:
                    self.cancel(job, f"Stopped after {job.time_limit:g} s, the time limit; the best so far is kept.")
            for owner in owners:  # asked without the lock: nobody waits for the answer
                if not self.here(owner):
                    self.cancel_owner(owner, "Cancelled: its page was closed.")


def _names(job: Job) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the address and the visitor that a job's turn counts for, the wider one first."""
    return ("address", job.owner.address), ("visitor", job.owner.visitor)
