"""Jobs that need a model which is not on the disk yet: it is downloaded first, outside the queue that all share."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.access import permissions
from app.services import presence
from cmai_core.errors import Cancelled, CmaiError, ModelError
from cmai_core.jobs.job import CANCELLED, FAILED, RUNNING, JobError, JobSnapshot, QueueFull
from cmai_core.progress import CancelToken, Progress

if TYPE_CHECKING:
    from cmai_core.jobs import Job, Owner

AT_ONCE = 2
"""Downloads that run at one time."""
WAITING = 8
"""Visitors who may wait for one, those who download included."""


def here(spec: str) -> bool:
    """Tell whether a model can be loaded without a network."""
    if permissions.bundled(spec):
        return True
    from cmai_core.models.download import is_here

    return is_here(spec)


class OpenPage(CancelToken):
    """A token that is also cancelled once its page has been closed."""

    def __init__(self, is_open: Callable[[], bool]):
        super().__init__()
        self._is_open = is_open

    @property
    def cancelled(self) -> bool:
        if not super().cancelled and not self._is_open():
            self.cancel()
        return super().cancelled


class Downloads:
    """The downloads of this process: each model once, a few at a time, one for each visitor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._models: dict[str, threading.Lock] = {}
        self._owners: set[str] = set()

    def enter(self, visitor: str) -> None:
        """Reserve a visitor's one download.

        Raises:
            QueueFull: the visitor has one already, or too many visitors wait.
        """
        with self._lock:
            if visitor in self._owners:
                raise QueueFull("A model is being downloaded for you already.", "Wait for it, or cancel it.")
            if len(self._owners) >= WAITING:
                raise QueueFull("Many models are being downloaded at the moment.", "Try again in a few minutes.")
            self._owners.add(visitor)

    def leave(self, visitor: str) -> None:
        """Free a visitor's reservation."""
        with self._lock:
            self._owners.discard(visitor)

    def fetch(self, spec: str, progress: Callable[[Progress], None], cancel: CancelToken) -> None:
        """Download a model, unless somebody else has done so in the meantime.

        Raises:
            ModelError, Cancelled: see `cmai_core.models.download.download`.
        """
        from cmai_core.models.download import download

        with self._lock:
            turn = self._models.setdefault(spec, threading.Lock())
        for lock in (turn, self._slots):
            while not lock.acquire(timeout=0.2):
                progress(Progress(0, 0, "Waiting for another download"))
                if cancel.cancelled:
                    if lock is self._slots:
                        turn.release()
                    raise Cancelled("cancelled")
        try:
            if not here(spec):
                most = permissions.rules().download_bytes
                download(spec, most_bytes=most, progress=progress, cancel=cancel, environment=_environment())
        finally:
            self._slots.release()
            turn.release()


def _environment() -> dict[str, str]:
    """Return the variables of the downloading processes: online, unless the owner has forbidden it."""
    variables = dict(os.environ)
    if variables.pop("CMAI_CHILDREN_ONLINE", "") == "1":
        variables.pop(permissions.OFFLINE, None)
    return variables


@st.cache_resource(show_spinner=False)
def downloads() -> Downloads:
    """Return the downloads of this process."""
    return Downloads()


class JobAfterDownload:
    """A job that is submitted once its models are downloaded; it has a job's interface from the beginning.

    Args:
        specs: models to download. whose: the page that waits. label: the job's name.
        submit: queues the job; called when all models are on the disk.
        cancel: the token of the downloads.
    """

    def __init__(
        self,
        specs: Sequence[str],
        whose: Owner,
        label: str,
        submit: Callable[[], Job],
        cancel: CancelToken,
        through: Downloads,
    ):
        self.id, self.owner, self.label = uuid.uuid4().hex, whose, label
        self._specs, self._submit, self._cancel, self._through = tuple(specs), submit, cancel, through
        self._job: Job | None = None
        self._progress = Progress(0, 0, "Looking for the model")
        self._state, self._error = RUNNING, JobError("")
        self._begun = time.monotonic()
        through.enter(whose.visitor)
        self._thread = threading.Thread(target=self._run, name="cmai-download", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for spec in self._specs:
                self._through.fetch(spec, self._tell, self._cancel)
            self._cancel.check()
            self._job = self._submit()
        except Cancelled:
            self._state, self._error = CANCELLED, JobError("Cancelled.")
        except CmaiError as error:
            self._state, self._error = FAILED, error
        except Exception:
            self._state, self._error = FAILED, ModelError("The model could not be downloaded.", "Choose another one.")
            raise  # to the log
        finally:
            self._through.leave(self.owner.visitor)

    def _tell(self, progress: Progress) -> None:
        self._progress = progress

    def snapshot(self) -> JobSnapshot:
        """Return the download's progress, then the job's own snapshot."""
        if self._job is not None:
            return self._job.snapshot()
        elapsed = time.monotonic() - self._begun
        done = self._progress.fraction
        left = elapsed * (1 - done) / done if self._state == RUNNING and done > 0.02 else None
        return JobSnapshot(
            self.id, self.owner.tab, self.label, self._state, 0, self._progress, elapsed, left,
            message=self._error.message, hint=self._error.hint,
        )  # fmt: skip

    def cancel(self) -> None:
        """Cancel the download, or the job."""
        self._cancel.cancel()
        if self._job is not None:
            self._job.cancel()

    def result(self) -> Any:
        """Return the job's result.

        Raises:
            CmaiError: there is no result yet, or the download or the job failed.
        """
        if self._job is not None:
            return self._job.result()
        if self._state == RUNNING:
            raise JobError("The model is still being downloaded.", "Wait for it.")
        raise self._error


def begin(specs: Sequence[str], whose: Owner, label: str, submit: Callable[[], Job]) -> Job | JobAfterDownload:
    """Submit a job at once if its models are on the disk, else after they have been downloaded.

    Raises:
        ModelError: visitors may not use one of the models. QueueFull: too many downloads or jobs.
    """
    missing = [spec for spec in dict.fromkeys(specs) if not here(permissions.require(spec))]
    if not missing:
        return submit()
    pages = presence.presence()
    return JobAfterDownload(missing, whose, label, submit, OpenPage(lambda: pages.here(whose)), downloads())
