"""Process-wide things behind consistency verification: verdicts kept by content, the review queue."""

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
from cmai_core.data.registry import kind_of
from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.places import place_of
from cmai_core.lab.verdict import LabVerdict, judge_result

if TYPE_CHECKING:
    from app.services import ModelShelf
    from app.threshold_desk import ThresholdShelf
    from app.uploads import Upload
    from cmai_core.defenses.review import ReviewQueue
    from cmai_core.lab.result import LabResult

_log = logging.getLogger("cmai.app")
VERDICTS_KEPT = 32


class VerdictShelf:
    """Verdicts by content; the ones used last are kept."""

    def __init__(self, capacity: int = VERDICTS_KEPT):
        self._capacity = capacity
        self._verdicts: OrderedDict[str, LabVerdict] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> LabVerdict | None:
        with self._lock:
            if key in self._verdicts:
                self._verdicts.move_to_end(key)
            return self._verdicts.get(key)

    def put(self, verdict: LabVerdict) -> None:
        with self._lock:
            self._verdicts[verdict.key] = verdict
            while len(self._verdicts) > self._capacity:
                self._verdicts.popitem(last=False)


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


def verdict_work(
    result: LabResult,
    upload: Upload | None,
    store: ModelShelf,
    verdicts: VerdictShelf,
    thresholds: ThresholdShelf,
    progress: Any,
    cancel: Any,
) -> LabVerdict:
    """Judges a result's pairs; runs in the worker thread."""
    experiment = result.experiment
    with services.quiet_thread():
        specs = {role: reading.spec for role, reading in result.attacked.items()}
        models = services.load_models(specs, store, progress)
        kind = kind_of(experiment.pair)
        bases = {role: thresholds.get(model, kind, progress, cancel) for role, model in models.items()}
        try:
            pair = services.the_pair(experiment.pair, experiment.caption, upload, experiment.scene)
            items = services.dataset(place_of(experiment.pair))
        except CmaiError:  # somebody else's upload: the policies cannot be tried, all else can be said
            pair = items = None
        made = judge_result(result, models, bases, pair=pair, dataset=items, progress=progress, cancel=cancel)
    verdicts.put(made)
    return made
