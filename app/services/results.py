"""Attacks that were made here lately, so that a link or an earlier experiment shows its result at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import streamlit as st

from app.services import presence
from app.services.showcase import showcase
from cmai_core.lab.estimate import CostBook

if TYPE_CHECKING:
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.result import LabResult

MOST, MOST_BYTES = 96, 192 * 2**20
"""Results that are kept, and the size of their pictures together."""


class ResultStore:
    """The latest results of this process, the least used ones given up first.

    Results of uploads are found again by their own visitor only.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES):
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[tuple[str, str], LabResult] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, result: LabResult, visitor: str) -> None:
        """Keep a result, unless it is of an attack that was cancelled."""
        if any(example.cancelled for example in result.examples.values()):
            return
        key = _key(result.experiment, visitor)
        with self._lock:
            self._drop(key)
            self._kept[key] = result
            self._bytes += result.bytes
            while len(self._kept) > self._most or (self._bytes > self._most_bytes and len(self._kept) > 1):
                self._drop(next(iter(self._kept)))

    def get(self, experiment: Experiment, visitor: str) -> LabResult | None:
        """Return the result of an experiment; None where it has not been made, or is no longer kept."""
        key = _key(experiment, visitor)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _drop(self, key: tuple[str, str]) -> None:
        gone = self._kept.pop(key, None)
        self._bytes -= 0 if gone is None else gone.bytes


def _key(experiment: Experiment, visitor: str) -> tuple[str, str]:
    return (visitor if experiment.pair.startswith("upload/") else ""), experiment.to_json()


@st.cache_resource(show_spinner=False)
def _store() -> ResultStore:
    return ResultStore()


@st.cache_resource(show_spinner=False)
def _costs() -> CostBook:
    return CostBook()


def keep_result(result: LabResult) -> None:
    """Keep a finished result, and what it took."""
    _store().put(result, presence.owner().visitor)
    _costs().note(result)


def expected_seconds(experiment: Experiment) -> float | None:
    """Return about how long an attack will take, None where nobody knows yet."""
    return _costs().seconds(experiment)


def kept_result(experiment: Experiment) -> LabResult | None:
    """Return the result of an experiment: the bundled one, or one that was made lately; None if neither is there."""
    bundle = showcase()
    if bundle is not None and bundle.result.experiment == experiment:
        return bundle.result
    return _store().get(experiment, presence.owner().visitor)
