"""Verdicts of consistency verification, cached by content, and the job that makes one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.services.datasets import lab_dataset
from app.services.jobs import quiet_thread
from app.services.models import load_models
from app.services.pairs import lab_pair
from cmai_core.data.registry import kind_of
from cmai_core.errors import CmaiError
from cmai_core.lab.places import place_of
from cmai_core.lab.verdict import LabVerdict, judge_result

if TYPE_CHECKING:
    from app.services.models import ModelCache
    from app.services.thresholds import ThresholdCache
    from app.services.uploads import Upload
    from cmai_core.lab.result import LabResult

CACHED = 32


class VerdictCache:
    """The verdicts used last, by content."""

    def __init__(self, capacity: int = CACHED):
        self._capacity = capacity
        self._verdicts: OrderedDict[str, LabVerdict] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> LabVerdict | None:
        """Return the verdict of this content, None if it is not cached."""
        with self._lock:
            if key in self._verdicts:
                self._verdicts.move_to_end(key)
            return self._verdicts.get(key)

    def put(self, verdict: LabVerdict) -> None:
        """Cache a verdict, and drop the one that was used longest ago if there are too many."""
        with self._lock:
            self._verdicts[verdict.key] = verdict
            while len(self._verdicts) > self._capacity:
                self._verdicts.popitem(last=False)


@st.cache_resource(show_spinner=False)
def verdict_cache() -> VerdictCache:
    """Return the one cache of this process."""
    return VerdictCache()


def verify(
    result: LabResult,
    upload: Upload | None,
    cache: ModelCache,
    verdicts: VerdictCache,
    thresholds: ThresholdCache,
    progress: Any,
    cancel: Any,
) -> LabVerdict:
    """Judge a result's pairs; runs in the worker thread."""
    experiment = result.experiment
    with quiet_thread():
        specs = {role: prediction.spec for role, prediction in result.attacked.items()}
        models = load_models(specs, cache, progress)
        kind = kind_of(experiment.pair)
        bases = {role: thresholds.get(model, kind, progress, cancel) for role, model in models.items()}
        try:
            pair = lab_pair(experiment.pair, experiment.caption, upload, experiment.scene)
            items = lab_dataset(place_of(experiment.pair))
        except CmaiError:  # somebody else's upload: the policies cannot be tried, all else can be said
            pair = items = None
        made = judge_result(result, models, bases, pair=pair, dataset=items, progress=progress, cancel=cancel)
    verdicts.put(made)
    return made
