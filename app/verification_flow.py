"""When the result on show is verified, and where its verdict is found again."""

from __future__ import annotations

from app import state
from app.services.jobs import cancel_job, collect_job, submit_job
from app.services.models import model_cache, model_cards
from app.services.thresholds import threshold_cache
from app.services.verdicts import verdict_cache, verify
from cmai_core.errors import CmaiError
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import LabVerdict, content_key


def automatic(result: LabResult) -> bool:
    """Tell whether a result is verified without being asked: only bundled models take no more than a second."""
    bundled = model_cards()
    return bool(result.attacked) and all(prediction.spec in bundled for prediction in result.predictions.values())


def current(result: LabResult) -> LabVerdict | None:
    """Return the verdict on exactly this result, None if it has not been made."""
    key, made = content_key(result), state.get(state.VERDICT)
    if made is None or made.key != key:
        made = verdict_cache().get(key)
    return made


def begin(result: LabResult) -> None:
    """Queue the verification.

    Raises:
        CmaiError: the queue is full.
    """
    drop()
    upload, cache, verdicts, thresholds = state.get(state.UPLOAD), model_cache(), verdict_cache(), threshold_cache()
    handle = submit_job(
        "verification",
        lambda progress, cancel: verify(result, upload, cache, verdicts, thresholds, progress, cancel),
    )
    state.put(state.VERDICT_JOB, handle)


def ask() -> None:
    """Queue the verification of the result on show; called by the button."""
    try:
        begin(state.get(state.RESULT))
    except CmaiError as error:
        state.put(state.NOTICE, error)


def follow(result: LabResult | None) -> None:
    """Queue the verification of a new result if it is quick; if that fails, the button stays."""
    if result is None or not automatic(result) or current(result) is not None:
        return
    try:
        begin(result)
    except CmaiError:
        state.put(state.VERDICT_JOB, None)


def drop() -> None:
    """Cancel a running verification: its result is not on show any more."""
    cancel_job(state.get(state.VERDICT_JOB))
    state.put(state.VERDICT_JOB, None)


def collect() -> bool:
    """Take over a finished verification; returns whether one is still waiting or running."""
    return collect_job(state.VERDICT_JOB, state.VERDICT)
