"""Process-wide things behind consistency verification: calibrations, verdicts kept by content, the review queue."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import owner, presence, services, state
from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.choices import why_no_detector
from cmai_core.lab.verdict import Basis, LabVerdict, judge_result

if TYPE_CHECKING:
    from app.services import ModelShelf
    from app.uploads import Upload
    from cmai_core.defenses.calibration import Calibration
    from cmai_core.defenses.review import ReviewQueue
    from cmai_core.lab.result import LabResult

_log = logging.getLogger("cmai.app")
VERDICTS_KEPT = 32


class VerdictShelf:
    """Verdicts by content, and the lab's own calibrations by model hash; the ones used last are kept."""

    def __init__(self, capacity: int = VERDICTS_KEPT):
        self._capacity = capacity
        self._verdicts: OrderedDict[str, LabVerdict] = OrderedDict()
        self._calibrations: OrderedDict[str, Calibration] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> LabVerdict | None:
        with self._lock:
            return self._used(self._verdicts, key)

    def put(self, verdict: LabVerdict) -> None:
        with self._lock:
            self._keep(self._verdicts, verdict.key, verdict)

    def calibration(self, model: Any, progress: Any, cancel: Any) -> Calibration:
        """Of a model on clean Tabletop validation pairs; made once, which takes seconds and can be cancelled."""
        from cmai_core.lab.calibration import calibrated_verification

        with self._lock:
            found = self._used(self._calibrations, model.hash)
        if found is None:
            found = calibrated_verification(
                model, services.calibration_pairs(), name=model.name, progress=progress, cancel=cancel
            )
            with self._lock:
                self._keep(self._calibrations, model.hash, found)
        return found

    @staticmethod
    def _used(kept: OrderedDict, key: str) -> Any:
        if key in kept:
            kept.move_to_end(key)
        return kept.get(key)

    def _keep(self, kept: OrderedDict, key: str, value: Any) -> None:
        kept[key] = value
        kept.move_to_end(key)
        while len(kept) > self._capacity:
            kept.popitem(last=False)


@st.cache_resource(show_spinner=False)
def verdict_shelf() -> VerdictShelf:
    return VerdictShelf()


def review_queue() -> ReviewQueue:
    """The durable queue in the user's data folder.

    Raises:
        ReviewFileError: its file cannot be used.
    """
    from cmai_core.defenses.review import ReviewQueue

    return ReviewQueue()


@contextmanager
def without_paths() -> Iterator[None]:
    """What is wrong with the queue's file is for the log; visitors learn that it cannot be used."""
    from cmai_core.defenses.review import ReviewFileError

    try:
        yield
    except ReviewFileError as error:
        _log.error("%s %s", error.message, error.hint)
        raise DataError("The review queue cannot be used at the moment.", "The lab's log says why.") from None


@st.cache_resource(show_spinner=False)
def _salt() -> bytes:
    return secrets.token_bytes(16)


def sender() -> str:
    """Who sends a pair: the visitor's address (see `presence`) made unreadable."""
    who = presence.owner().address
    return f"visitor:{hashlib.sha256(_salt() + who.encode()).hexdigest()[:16]}"


def is_reviewer() -> bool:
    """Whether this visitor may see and judge what others have sent."""
    return owner.rules().reviewer(st.session_state.get(state.REVIEWER) or "")


def basis_for(model: Any, pair_id: str, verdicts: VerdictShelf, progress: Any, cancel: Any) -> Basis:
    """What a model's verdict on a pair may rest on: the calibration in its card, else the lab's own.

    A threshold holds for pairs like those it was calibrated on, so a photograph gets none from Tabletop.
    """
    from cmai_core.defenses.calibration import calibration_of
    from cmai_core.models.scoring import has_heads

    note = ""
    try:
        stored = calibration_of(model)
        if stored is not None and (stored.thresholds[0].log_tau_v is not None) != has_heads(model):
            stored, note = None, "The calibration in its card does not fit its heads; the lab made its own."
    except CmaiError as error:
        stored, note = None, f"{error.message} The lab made its own."
    if photograph(pair_id) and (stored is None or not stored.dataset.startswith("photos")):
        return Basis(note=why_no_detector(pair_id))
    if stored is not None:
        return Basis(stored, stored=True)
    return Basis(verdicts.calibration(model, progress, cancel), note=note)


def photograph(pair_id: str) -> bool:
    return pair_id.startswith(("upload/", "photos/"))


def verdict_work(
    result: LabResult, upload: Upload | None, store: ModelShelf, verdicts: VerdictShelf, progress: Any, cancel: Any
) -> LabVerdict:
    """Judges a result's pairs; runs in the worker thread."""
    from cmai_core.progress import Progress

    experiment = result.experiment
    with services.quiet_thread():
        models, bases = {}, {}
        for role, reading in result.readings.items():
            progress(Progress(0, 0, f"Loading {owner.shown(reading.spec)}", {}))
            models[role] = store.get(reading.spec)
        for role, model in models.items():
            bases[role] = basis_for(model, experiment.pair, verdicts, progress, cancel)
        try:
            pair = services.the_pair(experiment.pair, experiment.caption, upload, experiment.scene)
            items = services.dataset("photos" if photograph(experiment.pair) else "tabletop")
        except CmaiError:  # somebody else's upload: the policies cannot be tried, all else can be said
            pair = items = None
        made = judge_result(result, models, bases, pair=pair, dataset=items, progress=progress, cancel=cancel)
    verdicts.put(made)
    return made
