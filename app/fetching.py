"""Work that needs a model which is not on the disk yet: it is fetched first, outside the queue that all share."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import owner
from cmai_core.errors import Cancelled, CmaiError, ModelError
from cmai_core.jobs.job import CANCELLED, FAILED, RUNNING, JobError, JobSnapshot, QueueFull
from cmai_core.progress import CancelToken, Progress

if TYPE_CHECKING:
    from cmai_core.jobs import Job

AT_ONCE = 2
"""Downloads that run at one time."""
WAITING = 8
"""Visitors who may wait for one, those who download included."""
GRACE = 10.0
"""Seconds that a page may be away (a lost connection) before its download is ended."""


def here(spec: str) -> bool:
    """Whether a model can be loaded without a network."""
    if owner.bundled(spec):
        return True
    from cmai_core.models.download import is_here

    return is_here(spec)


def page_is_open() -> Callable[[], bool]:
    """A function that says, from any thread, whether the page that asks now is still connected."""
    from streamlit.runtime import Runtime
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    context = get_script_run_ctx(suppress_warning=True)
    if context is None or not Runtime.exists():  # a script without a server
        return lambda: True
    runtime, session = Runtime.instance(), context.session_id
    return lambda: runtime.is_active_session(session)


class OpenPage(CancelToken):
    """A token that is also cancelled once a page has been closed for `GRACE` seconds."""

    def __init__(self, is_open: Callable[[], bool]):
        super().__init__()
        self._is_open, self._seen = is_open, time.monotonic()

    @property
    def cancelled(self) -> bool:
        if super().cancelled:
            return True
        if self._is_open():
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > GRACE:
            self.cancel()
        return super().cancelled


class Downloads:
    """Those of this process: a model is fetched once, few at a time, one a visitor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._models: dict[str, threading.Lock] = {}
        self._owners: set[str] = set()

    def enter(self, visitor: str) -> None:
        """Takes a visitor's place.

        Raises:
            QueueFull: they have one, or too many wait.
        """
        with self._lock:
            if visitor in self._owners:
                raise QueueFull("A model is being downloaded for you already.", "Wait for it, or cancel it.")
            if len(self._owners) >= WAITING:
                raise QueueFull("Many models are being downloaded at the moment.", "Try again in a few minutes.")
            self._owners.add(visitor)

    def leave(self, visitor: str) -> None:
        with self._lock:
            self._owners.discard(visitor)

    def fetch(self, spec: str, progress: Callable[[Progress], None], cancel: CancelToken) -> None:
        """Fetches a model, unless somebody else has done so in the meantime.

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
                most = owner.rules().download_bytes
                download(spec, most_bytes=most, progress=progress, cancel=cancel, environment=_environment())
        finally:
            self._slots.release()
            turn.release()


def _environment() -> dict[str, str]:
    """The children's variables: they may use the network, unless the owner has said otherwise."""
    variables = dict(os.environ)
    if variables.pop("CMAI_CHILDREN_ONLINE", "") == "1":
        variables.pop(owner.OFFLINE, None)
    return variables


@st.cache_resource(show_spinner=False)
def downloads() -> Downloads:
    return Downloads()


class Errand:
    """Downloads, then a job: with the face of a job from the beginning.

    Args:
        specs: models to fetch. visitor: whose errand. label: what for.
        submit: queues the work; called when everything is here.
        cancel: the token of the downloads.
    """

    def __init__(
        self,
        specs: Sequence[str],
        visitor: str,
        label: str,
        submit: Callable[[], Job],
        cancel: CancelToken,
        through: Downloads,
    ):
        self.id, self.owner, self.label = uuid.uuid4().hex, visitor, label
        self._specs, self._submit, self._cancel, self._through = tuple(specs), submit, cancel, through
        self._job: Job | None = None
        self._progress = Progress(0, 0, "Looking for the model")
        self._state, self._error = RUNNING, JobError("")
        self._begun = time.monotonic()
        through.enter(visitor)
        self._thread = threading.Thread(target=self._run, name="cmai-errand", daemon=True)
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
            self._through.leave(self.owner)

    def _tell(self, progress: Progress) -> None:
        self._progress = progress

    def snapshot(self) -> JobSnapshot:
        """How it stands: the job's own snapshot once there is a job."""
        if self._job is not None:
            return self._job.snapshot()
        elapsed = time.monotonic() - self._begun
        done = self._progress.fraction
        left = elapsed * (1 - done) / done if self._state == RUNNING and done > 0.02 else None
        return JobSnapshot(
            self.id, self.owner, self.label, self._state, 0, self._progress, elapsed, left, self._error.message,
            self._error.hint,
        )  # fmt: skip

    def cancel(self) -> None:
        """Ends the download, or the job."""
        self._cancel.cancel()
        if self._job is not None:
            self._job.cancel()

    def result(self) -> Any:
        """The job's result.

        Raises:
            CmaiError: there is none, or the download failed.
        """
        if self._job is not None:
            return self._job.result()
        if self._state == RUNNING:
            raise JobError("The model is still being downloaded.", "Wait for it.")
        raise self._error


def begin(specs: Sequence[str], visitor: str, label: str, submit: Callable[[], Job]) -> Job | Errand:
    """Queues work at once where its models are here, else after they have been fetched.

    Raises:
        ModelError: visitors may not use one of them. QueueFull: too much is going on.
    """
    missing = [spec for spec in dict.fromkeys(specs) if not here(owner.require(spec))]
    if not missing:
        return submit()
    return Errand(missing, visitor, label, submit, OpenPage(page_is_open()), downloads())
