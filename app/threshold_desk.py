"""The lab's thresholds, process-wide: every page takes its τ from here, by model and kind of pairs.

What they are is the library's to say (`cmai_core.defenses.basis`); here they are kept, and found without loading a
model.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import services
from cmai_core.defenses.basis import Basis, no_threshold, stored_basis
from cmai_core.defenses.calibration import CARD_KEY
from cmai_core.errors import CmaiError

if TYPE_CHECKING:
    from cmai_core.lab.result import LabResult

KEPT = 64


class ThresholdShelf:
    """Thresholds by weights and kind of pairs; the ones used last are kept."""

    def __init__(self, capacity: int = KEPT):
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, str], Basis] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, weights: str, kind: str) -> Basis | None:
        """Those that have been asked for before."""
        with self._lock:
            found = self._kept.get((weights, kind))
            if found is not None:
                self._kept.move_to_end((weights, kind))
            return found

    def get(self, model: Any, kind: str, progress: Any, cancel: Any) -> Basis:
        """A loaded model's; calibrated where its card has none, which takes seconds and can be cancelled."""
        from cmai_core.lab.calibration import lab_basis

        found = self.find(model.hash, kind)
        if found is None or found.calibration is None:
            pairs = partial(services.calibration_pairs, kind)
            found = lab_basis(model, kind, pairs, progress=progress, cancel=cancel)
            self._keep(model.hash, found)
        return found

    def note(self, model: Any, kind: str) -> None:
        """Keeps what a loaded model's card says, so that it is found without the model."""
        from cmai_core.evaluation.verification.calibration import calibration_for

        if self.find(model.hash, kind) is None:
            self._keep(model.hash, calibration_for(model, kind))

    def _keep(self, weights: str, basis: Basis) -> None:
        with self._lock:
            self._kept[weights, basis.kind] = basis
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)


@st.cache_resource(show_spinner=False)
def threshold_shelf() -> ThresholdShelf:
    return ThresholdShelf()


def basis_of(spec: str, weights: str, kind: str) -> Basis:
    """The thresholds of a model by its specification and the hash of its weights, as far as they are known now."""
    found = threshold_shelf().find(weights, kind)
    if found is None:
        found = _stored(spec, weights, kind)
    return Basis(kind, note=no_threshold(kind)) if found is None else found


def bases_of(result: LabResult, kind: str) -> dict[str, Basis]:
    """Role → the thresholds of a result's models."""
    return {role: basis_of(reading.spec, reading.hash, kind) for role, reading in result.readings.items()}


def bundled_basis(spec: str, kind: str) -> Basis:
    """The thresholds that a bundled model's card claims; none for other models."""
    card = next((card.card for card in services.catalogue() if card.name == spec), {})
    values = card.get(CARD_KEY)
    weights = values.get("model", "") if isinstance(values, dict) else ""
    return _stored(spec, weights, kind) or Basis(kind, note=no_threshold(kind))


def _stored(spec: str, weights: str, kind: str) -> Basis | None:
    card = next((card.card for card in services.catalogue() if card.name == spec), {})
    try:
        return stored_basis(card, weights, kind)
    except CmaiError:
        return None
