"""The lab's thresholds: every page takes its τ from here, by model and kind of pairs.

`cmai_core.defenses.basis` decides what they are; here they are cached, and found without loading a model.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.services.datasets import calibration_pairs
from app.services.models import model_cards
from cmai_core.defenses.basis import Basis, no_threshold, stored_basis
from cmai_core.defenses.calibration import CARD_KEY
from cmai_core.errors import CmaiError

if TYPE_CHECKING:
    from cmai_core.lab.result import LabResult

CACHED = 64


class ThresholdCache:
    """The thresholds used last, by weights and kind of pairs."""

    def __init__(self, capacity: int = CACHED):
        self._capacity = capacity
        self._cached: OrderedDict[tuple[str, str], Basis] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, weights: str, kind: str) -> Basis | None:
        """Return thresholds that have been asked for before, else None."""
        with self._lock:
            found = self._cached.get((weights, kind))
            if found is not None:
                self._cached.move_to_end((weights, kind))
            return found

    def get(self, model: Any, kind: str, progress: Any, cancel: Any) -> Basis:
        """Return a loaded model's thresholds; if its card has none it is calibrated, which takes seconds."""
        from cmai_core.lab.calibration import lab_basis

        found = self.find(model.hash, kind)
        if found is None or found.calibration is None:
            found = lab_basis(model, kind, partial(calibration_pairs, kind), progress=progress, cancel=cancel)
            self._put(model.hash, found)
        return found

    def note(self, model: Any, kind: str) -> None:
        """Cache what a loaded model's card says, so that it is found without the model."""
        from cmai_core.evaluation.verification.calibration import calibration_for

        if self.find(model.hash, kind) is None:
            self._put(model.hash, calibration_for(model, kind))

    def _put(self, weights: str, basis: Basis) -> None:
        with self._lock:
            self._cached[weights, basis.kind] = basis
            while len(self._cached) > self._capacity:
                self._cached.popitem(last=False)


@st.cache_resource(show_spinner=False)
def threshold_cache() -> ThresholdCache:
    """Return the one cache of this process."""
    return ThresholdCache()


def basis_of(spec: str, weights: str, kind: str) -> Basis:
    """Return the thresholds of a model by specification and hash of its weights, as far as they are known now."""
    found = threshold_cache().find(weights, kind)
    if found is None:
        found = _stored(spec, weights, kind)
    return Basis(kind, note=no_threshold(kind)) if found is None else found


def bases_of(result: LabResult, kind: str) -> dict[str, Basis]:
    """Return role → the thresholds of a result's models."""
    return {role: basis_of(prediction.spec, prediction.hash, kind) for role, prediction in result.predictions.items()}


def bundled_basis(spec: str, kind: str) -> Basis:
    """Return the thresholds that a bundled model's card claims; none for other models."""
    values = _card(spec).get(CARD_KEY)
    weights = values.get("model", "") if isinstance(values, dict) else ""
    return _stored(spec, weights, kind) or Basis(kind, note=no_threshold(kind))


def _stored(spec: str, weights: str, kind: str) -> Basis | None:
    try:
        return stored_basis(_card(spec), weights, kind)
    except CmaiError:
        return None


def _card(spec: str) -> Mapping[str, Any]:
    found = model_cards().get(spec)
    return {} if found is None else found.card
