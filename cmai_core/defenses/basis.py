"""The one owner of a model's thresholds: for pairs of one kind, their values, their rate and where they come from.

Whatever shows or uses a τ asks here: score cards, verification, Explore, the bundled example, attacks on a
detector, the command line. A threshold keeps its rate on pairs like those that it was set on and on no others, so a
model's thresholds belong to a kind of pairs, and for the other kind there are none.

`evaluation.calibration.calibration_for` makes one for a loaded model; `stored_basis` reads one off a card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmai_core.data.registry import PHOTOGRAPHS, kind_of, kind_title
from cmai_core.defenses.calibration import CARD_KEY, Calibration, Thresholds
from cmai_core.errors import CmaiError

USUAL_RATE = 0.05
"""The false-positive rate at which a threshold is shown where nobody has chosen another."""


@dataclass(frozen=True)
class Basis:
    """What is known of one model's thresholds for pairs of one kind.

    Attributes:
        kind: as `data.registry.kind_of` names it. calibration: None where no threshold is known.
        stored: whether it stands in the model's card; else it was made when it was asked for.
        note: why there is none, or what else must be known of it ("" where nothing).
    """

    kind: str
    calibration: Calibration | None = None
    stored: bool = False
    note: str = ""

    @property
    def rates(self) -> tuple[float, ...]:
        """Return the false-positive rates that there are thresholds for, rising."""
        return () if self.calibration is None else tuple(known.fpr for known in self.calibration.thresholds)

    def at(self, fpr: float) -> Thresholds | None:
        """Return the thresholds of a stated rate; None where there are none."""
        return self.calibration.at(fpr) if fpr in self.rates else None

    def tau(self, fpr: float = USUAL_RATE) -> float | None:
        """Return τ of S_c alone: at most the share `fpr` of clean pairs lies below it. None where it is not known."""
        known = self.at(fpr)
        return None if known is None else known.tau

    @property
    def origin(self) -> str:
        """Say what the thresholds were set on, in words; "" without any."""
        known = self.calibration
        if known is None:
            return ""
        where = "in the model's card" if self.stored else "made here"
        return f"{where}, on {known.count:,} clean pairs of {known.dataset}"

    def said(self, fpr: float = USUAL_RATE) -> str:
        """Say τ's value, rate and origin in a sentence, or that no threshold is known."""
        tau = self.tau(fpr)
        if tau is None:
            return self.note or f"No threshold is known for {self.kind}."
        return f"S_c below τ = {tau:.3f} is flagged: at most {fpr:.0%} of clean pairs ({self.origin})."


def no_threshold(kind: str) -> str:
    """Say in a sentence why there is no threshold for a kind of pairs."""
    if kind == PHOTOGRAPHS:
        return "No threshold is known for photographs: one that was set on pictures of another kind does not hold."
    return f"No threshold is known for this model on {kind_title(kind)} pictures."


def stored_basis(card: Mapping[str, Any], weights: str, kind: str) -> Basis | None:
    """Return the thresholds of a model's card for pairs of a kind; None where the card has none for them.

    Args:
        card: of the model. weights: hash of the weights that are really there.

    Raises:
        DataError: they cannot be read. CmaiError: they belong to other weights.
    """
    values = card.get(CARD_KEY)
    if not values:
        return None
    found = Calibration.from_dict(values)
    if found.model != weights:
        raise CmaiError("The calibration in the model's card is of other weights.", "Calibrate it again.")
    return Basis(kind, found, stored=True) if kind_of(found.dataset) == kind else None
