"""When consistency verification of the result on show is computed, and where its outcome is found again."""

from __future__ import annotations

from app import services, state
from app.threshold_desk import threshold_shelf
from app.verdict_desk import verdict_shelf, verdict_work
from cmai_core.errors import CmaiError
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import LabVerdict, content_key


def automatic(result: LabResult) -> bool:
    """Whether there is something to verify and all models are bundled ones, which take a second; others are verified
    when somebody asks for it.
    """
    bundled = {card.name for card in services.catalogue()}
    return bool(result.attacked) and all(reading.spec in bundled for reading in result.readings.values())


def current(result: LabResult) -> LabVerdict | None:
    """The verdict on exactly this result, if it has been made."""
    key, made = content_key(result), state.get(state.VERDICT)
    if made is None or made.key != key:
        made = verdict_shelf().get(key)
    return made


def begin(result: LabResult) -> None:
    """Queues the verification.

    Raises:
        CmaiError: when the queue is full.
    """
    drop()
    upload, shelf, verdicts, thresholds = state.get(state.UPLOAD), services.shelf(), verdict_shelf(), threshold_shelf()
    handle = services.submit(
        "verification",
        lambda progress, cancel: verdict_work(result, upload, shelf, verdicts, thresholds, progress, cancel),
    )
    state.put(state.VERDICT_JOB, handle)


def ask() -> None:
    """Queues it for the result on show because somebody pressed the button."""
    try:
        begin(state.get(state.RESULT))
    except CmaiError as error:
        state.put(state.NOTICE, error)


def follow(result: LabResult | None) -> None:
    """Queues it for a result that has just come in, where it is quick; where that fails, the button stays."""
    if result is None or not automatic(result) or current(result) is not None:
        return
    try:
        begin(result)
    except CmaiError:
        state.put(state.VERDICT_JOB, None)


def drop() -> None:
    """Gives up a verification that is still under way: what it is of is on show no longer."""
    services.cancel(state.get(state.VERDICT_JOB))
    state.put(state.VERDICT_JOB, None)


def collect() -> bool:
    """Takes over a finished verification. Returns whether one is still waiting or running."""
    return services.collect(state.VERDICT_JOB, state.VERDICT)
