"""The thresholds of a model: those of its card, or made on clean pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cmai_core.data.pair import PairDataset
from cmai_core.data.registry import kind_of, kinds
from cmai_core.defenses.basis import Basis, no_threshold, stored_basis
from cmai_core.errors import CmaiError, DataError
from cmai_core.models.scoring import has_heads
from cmai_core.options import one_of


def calibration_for(
    model: Any,
    kind: str,
    *,
    pairs: Callable[[], PairDataset] | None = None,
    fprs: Sequence[float] | None = None,
) -> Basis:
    """Return the thresholds of a model for pairs of a kind: those of its card, else made on the pairs given.

    Args:
        model: a loaded model. kind: as `data.registry.kind_of` names it.
        pairs: gives the clean pairs to calibrate on where the card has nothing for this kind; they are not used where
            they are of another kind. None: only the card counts.
        fprs: the rates where it is calibrated here; None: the usual ones.

    Raises:
        DataError: too few pairs for a threshold. Whatever `pairs` raises, such as Cancelled.
    """
    from cmai_core.evaluation.verification.cmcv import FPRS, calibrate_cmcv

    one_of("kind", kind, kinds())
    note = ""
    try:
        stored = stored_basis(getattr(model, "card", {}), model.hash, kind)
        if stored is None or _fits(stored, model):
            found = stored
        else:
            found, note = None, "The calibration in the model's card does not fit its heads."
    except CmaiError as error:
        found, note = None, error.message
    if found is not None:
        return found
    dataset = None if pairs is None else pairs()
    if dataset is None:
        return Basis(kind, note=f"{no_threshold(kind)} {note}".strip())
    if kind_of(f"{dataset.name}/{dataset.split}") != kind:
        raise DataError(f"Pairs of {dataset.name} give no threshold for {kind}.", "Give pairs of that kind.")
    made = calibrate_cmcv(model, dataset, FPRS if fprs is None else fprs)
    return Basis(kind, made, note=f"{note} It was made anew." if note else "")


def _fits(basis: Basis, model: Any) -> bool:
    """Say whether thresholds have a verifier's part exactly where the model has one."""
    return all((known.log_tau_v is not None) == has_heads(model) for known in basis.calibration.thresholds)
