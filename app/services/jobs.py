"""The one queue of device work, and a session's jobs in it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state
from app.services import downloads, presence
from cmai_core.errors import CmaiError

if TYPE_CHECKING:
    from app.services.downloads import JobAfterDownload
    from cmai_core.jobs import Job, JobQueue, JobSnapshot

QUEUE_LENGTH = 32
JOBS_PER_VISITOR = 2
JOBS_PER_ADDRESS = 24
"""A class behind one address has most of the queue, and never all of it."""
JOB_SECONDS = 900.0


@st.cache_resource(show_spinner=False)
def job_queue() -> JobQueue:
    """Return the queue of this process."""
    from cmai_core.jobs import JobQueue

    return JobQueue(
        max_pending=QUEUE_LENGTH, max_per_owner=JOBS_PER_VISITOR, max_per_address=JOBS_PER_ADDRESS,
        time_limit=JOB_SECONDS, present=presence.presence().here,
    )  # fmt: skip


def submit_job(label: str, work: Callable[..., Any], models: Iterable[str] = ()) -> Job | JobAfterDownload:
    """Queue work for this session; `work(progress, cancel)` runs in the worker thread.

    Args:
        models: specifications that the work loads; those that are not on the disk are downloaded first.

    Raises:
        CmaiError: the queue is full, this visitor has too many jobs waiting, or may not use a model.
    """
    mine, jobs = presence.owner(), job_queue()
    return downloads.begin(tuple(models), mine, label, lambda: jobs.submit(work, owner=mine, label=label))


def job_snapshot(handle: Job | JobAfterDownload | None) -> JobSnapshot | None:
    """Return the state and progress of a job, None if there is no job."""
    return None if handle is None else handle.snapshot()


def cancel_job(handle: Job | JobAfterDownload | None) -> None:
    """Cancel a job, if there is one."""
    if handle is not None:
        handle.cancel()


def collect_job(job_key: str, result_key: str) -> bool:
    """Move a finished job's result, or its error as a notice, into the session's state.

    Returns:
        Whether the job is still waiting or running.
    """
    handle = state.get(job_key)
    now = job_snapshot(handle)
    if now is None:
        return False
    if not now.finished:
        return True
    state.put(job_key, None)
    try:
        state.put(result_key, handle.result())
        if now.state == "cancelled" and now.message not in ("", "Cancelled."):
            state.put(state.NOTICE, CmaiError(now.message, now.hint))
    except CmaiError as error:
        state.put(state.NOTICE, error)
    return False


@contextlib.contextmanager
def quiet_thread() -> Iterator[None]:
    """Silence Streamlit's warning about its caches in a worker thread, where they are used on purpose."""
    logger = logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
