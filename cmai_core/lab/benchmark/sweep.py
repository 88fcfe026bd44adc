"""A benchmark run inside the lab: turns in the job queue, each bounded, until every cell is in the store.

Between two batches a turn ends when somebody else's job waits (or when it has had its time), so a sweep of hours keeps
nobody waiting longer than a batch. Nothing is lost at such an end: what is finished is in the store, and the next turn
goes on from there. So does a run started anew after a restart, or after its visitor had left: a sweep ends with them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.errors import Cancelled, CmaiError
from cmai_core.jobs import JobQueue, Owner, QueueFull
from cmai_core.progress import CancelToken, Progress, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.setting import Setting

SHORT_TURN = 10.0
"""Seconds a turn has before it makes way for a waiting job."""
LONG_TURN = 300.0
"""Seconds after which a turn ends in any case."""
_LOOK = 0.2

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)


@dataclass(frozen=True)
class SweepState:
    """How a sweep stands; never changes.

    Attributes:
        state: "waiting" (for its turn), "running", "done", "failed" or "cancelled". stage: what is done now.
        fraction: of the estimated work, in [0, 1]. eta: seconds left, None while that is not known. cells: "3 of 20".
        elapsed: seconds since its start. run: its name in the store, "" before it is known. error: why it failed.
        failed: recipes that could not be run, in sentences. attacked: pairs attacked by this sweep.
    """

    state: str
    stage: str = ""
    fraction: float = 0.0
    eta: float | None = None
    cells: str = ""
    elapsed: float = 0.0
    run: str = ""
    error: CmaiError | None = None
    failed: tuple[str, ...] = ()
    attacked: int = 0

    @property
    def over(self) -> bool:
        return self.state in OVER


class Turn(CancelToken):
    """The cancellation of one turn: the job's own, and at safe places the end of the turn.

    The runner calls `check` where everything finished is stored; attacks look at `cancelled` before every step. So a
    person's cancellation stops within a step, the end of a turn after a batch.
    """

    def __init__(self, job: CancelToken, over: Callable[[], bool]):
        super().__init__()
        self._job, self._over = job, over
        self.ended = False

    def cancel(self) -> None:
        self._job.cancel()

    @property
    def cancelled(self) -> bool:
        return self._job.cancelled

    def check(self) -> None:
        self._job.check()
        if self._over():
            self.ended = True
            raise Cancelled("turn over")


class Sweep:
    """One grid on its way into a store; `start` returns at once.

    Args:
        queue: where its turns wait. folder: the store's. values: of the `Grid`.
        settle: (grid, progress) → the `Setting` with all that the grid names; called in the worker thread.
        owner: whose it is; when the queue does not find them any more, it stops as if it were cancelled.
    """

    def __init__(
        self,
        queue: JobQueue,
        folder: str | Path,
        values: Mapping[str, Any],
        settle: Callable[[Grid, ProgressCallback], Setting],
        owner: Owner | str = "",
    ) -> None:
        self.owner = Owner.of(owner)
        self.folder, self.values = Path(folder), dict(values)
        self._queue, self._settle = queue, settle
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._now = SweepState(WAITING, "Waiting for its turn")
        self._begun = time.monotonic()
        self._setting: Any = None
        self._thread = threading.Thread(target=self._drive, name="cmai-sweep", daemon=True)

    def start(self) -> Sweep:
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Stop it within one step of the running attack; what is finished stays in the store."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> SweepState:
        """How it stands once it is over, or after so many seconds."""
        self._thread.join(seconds)
        return self.state

    @property
    def state(self) -> SweepState:
        with self._lock:
            return self._now

    def _set(self, **changes: Any) -> None:
        with self._lock:
            values = {name: getattr(self._now, name) for name in SweepState.__dataclass_fields__}
            elapsed = time.monotonic() - self._begun
            self._now = SweepState(**{**values, "elapsed": elapsed, **changes})

    # The driver's thread

    def _drive(self) -> None:
        try:
            while not self._stop.is_set() and self._queue.here(self.owner):
                report = self._one_turn()
                if report is not None and not report.cancelled:
                    self._set(state=DONE, stage="", fraction=1.0, eta=None)
                    return
            self._set(state=CANCELLED, stage="", eta=None)
        except CmaiError as error:
            self._set(state=FAILED, stage="", eta=None, error=error)
        finally:
            self._setting = None

    def _one_turn(self) -> Any:
        """Queues a turn and waits for it; its report, None where it could not be queued yet or was stopped."""
        try:
            job = self._queue.submit(self._work, owner=self.owner, label="benchmark")
        except QueueFull:
            self._set(state=WAITING, stage="Waiting: the queue is full")
            self._stop.wait(1.0)
            return None
        while not (now := job.wait(_LOOK)).finished:
            if self._stop.is_set():
                job.cancel()
            if now.state == "queued":
                self._set(state=WAITING, stage=f"Waiting for its turn ({now.position} before it)")
        if now.state == "failed":
            raise CmaiError(now.message, now.hint)
        report = job.result() if now.has_result else None
        if report is None:
            return None
        with self._lock:
            attacked = self._now.attacked + report.attacked
        names = {cell.address: f"{cell.recipe} on {cell.source}" for cell in report.plan.cells}
        failed = tuple(f"{names.get(address, address)}: {why}" for address, why in report.failed.items())
        self._set(run=report.run, attacked=attacked, failed=failed)
        stopped = now.state == "cancelled" and not self._stop.is_set() and self._queue.here(self.owner)
        if stopped and not report.attacked + report.shown + report.clean:
            raise CmaiError(
                "Not even one batch was finished within the time one job has here.",
                "Choose fewer steps or a smaller model, or run it on the command line, which has no limit.",
            )
        return report

    # The worker's thread

    def _work(self, progress: ProgressCallback, cancel: CancelToken) -> Any:
        """One turn: opens the store, does what is missing, closes it."""
        from cmai_core.evaluation.runs.grid import Grid
        from cmai_core.evaluation.runs.runner import run
        from cmai_core.evaluation.store.address import digest
        from cmai_core.evaluation.store.store import Store

        def tell(update: Progress) -> None:
            data = update.data
            self._set(
                state=RUNNING, stage=update.stage, fraction=update.fraction, eta=data.get("eta"),
                cells=data.get("cells", ""),
            )  # fmt: skip
            progress(update)

        with Store.write(self.folder) as store:  # before models are loaded: a store in use is said at once
            if self._setting is None:
                grid = Grid.from_dict(self.values)
                self._set(state=RUNNING, stage="Loading", run=digest(grid.to_dict())[:12])
                self._setting = self._settle(grid, tell)
            return run(self._setting, store, progress=tell, cancel=Turn(cancel, self._clock()))

    def _clock(self) -> Callable[[], bool]:
        begun: list[float] = []

        def over() -> bool:
            if not begun:  # the first look comes after everything is loaded
                begun.append(time.monotonic())
            seconds = time.monotonic() - begun[0]
            return seconds > LONG_TURN or (seconds > SHORT_TURN and self._queue.pending > 1)

        return over
