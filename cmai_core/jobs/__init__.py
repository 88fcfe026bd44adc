"""Device work in one thread: long jobs with progress and cancel, short calls in between."""

from cmai_core.jobs.job import Job, JobError, JobSnapshot, Owner, QueueFull
from cmai_core.jobs.queue import JobQueue

__all__ = ["Job", "JobError", "JobQueue", "JobSnapshot", "Owner", "QueueFull"]
