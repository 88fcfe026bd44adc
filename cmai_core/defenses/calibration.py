"""What a model's consistency verification was calibrated to: thresholds, temperature, and what they realise.

Plain values, stored in the model's card under "cmcv" and read from there. `evaluation.cmcv` makes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.defenses.temperature import Scaling
from cmai_core.errors import DataError, ModelError, OptionError

if TYPE_CHECKING:
    from cmai_core.defenses.detector import AnyDetector, ConsistencyDetector, VerificationDetector

CARD_KEY = "cmcv"


@dataclass(frozen=True)
class Thresholds:
    """Thresholds at one stated false-positive rate, in [−1, 1] for S_c and as log V_verify (≤ 0) for the verifier.

    Attributes:
        fpr: the share of consistent pairs that each rule may flag.
        tau: of S_c alone. log_tau_v: of V_verify alone; None where the model has no verifier.
        both_tau, both_log_tau_v: of the rule that flags a pair where either is below its own; the two are set at equal
            rates, such that together they flag no more than `fpr`. None likewise.
        realised: rule ("S_c", "V", "either") → share of the calibration pairs that it flags.
    """

    fpr: float
    tau: float
    log_tau_v: float | None = None
    both_tau: float | None = None
    both_log_tau_v: float | None = None
    realised: Mapping[str, float] = field(default_factory=dict)

    @property
    def tau_v(self) -> float | None:
        """τ_V of V_verify alone, in [0, 1]."""
        return None if self.log_tau_v is None else math.exp(self.log_tau_v)

    def accepts(self, s_c: float, log_v: float | None = None) -> bool:
        """Say whether a pair passes: with a verifier by the rule "either", else by S_c alone."""
        if self.log_tau_v is None:
            return s_c >= self.tau
        return s_c >= self.both_tau and log_v >= self.both_log_tau_v

    def detector(self, rule: str = "") -> ConsistencyDetector | VerificationDetector | AnyDetector:
        """Return the detector of a rule, for the given pair. "": the strongest: "either" with a verifier, else "S_c".

        Raises:
            OptionError: another rule, or one of a verifier that is not there.
        """
        from cmai_core.defenses.detector import AnyDetector, ConsistencyDetector, VerificationDetector

        rules = ("S_c",) if self.log_tau_v is None else ("S_c", "V", "either")
        rule = rule or rules[-1]
        if rule not in rules:
            raise OptionError(f"There is no rule {rule!r}.", f"Accepted: {', '.join(rules)}.")
        if rule == "S_c":
            return ConsistencyDetector(self.tau)
        if rule == "V":
            return VerificationDetector(self.log_tau_v)
        return AnyDetector((ConsistencyDetector(self.both_tau), VerificationDetector(self.both_log_tau_v)))


@dataclass(frozen=True)
class Calibration:
    """Consistency verification of one model, calibrated on clean pairs.

    Attributes:
        model: hash of the model's weights. dataset: what it was calibrated on, such as "tabletop/validation".
        count: consistent pairs. guarantee: of the thresholds, as in `evaluation.detection.threshold_at_fpr`.
        thresholds: one record a stated rate, rising. scaling: score → probability.
        rates: what the thresholds realise elsewhere: set of pairs → rule → stated rate → {rate, low, high, flagged,
            count} (`evaluation.cmcv.rates`).
    """

    model: str
    dataset: str
    count: int
    guarantee: str
    thresholds: tuple[Thresholds, ...]
    scaling: Scaling
    rates: Mapping[str, Any] = field(default_factory=dict)

    def at(self, fpr: float) -> Thresholds:
        """Return the thresholds of a stated rate.

        Raises:
            OptionError: it was not calibrated for.
        """
        for found in self.thresholds:
            if math.isclose(found.fpr, fpr):
                return found
        known = ", ".join(f"{found.fpr:g}" for found in self.thresholds)
        raise OptionError(f"Not calibrated for a false-positive rate of {fpr:g}.", f"Calibrated: {known}.")

    def with_rates(self, rates: Mapping[str, Any]) -> Calibration:
        """Return the same with more sets of pairs reported."""
        return replace(self, rates={**self.rates, **rates})

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Calibration:
        """Return the inverse of `to_dict`.

        Raises:
            DataError: other values.
        """
        try:
            known = dict(values)
            thresholds = tuple(Thresholds(**entry) for entry in known.pop("thresholds"))
            return Calibration(thresholds=thresholds, scaling=Scaling(**known.pop("scaling")), **known)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"This is no calibration: {error}.", "Calibrate the model again.") from error


def calibration_of(model: Any) -> Calibration | None:
    """Return what the model's card holds; None where it holds none.

    Raises:
        ModelError: it belongs to other weights. DataError: it cannot be read.
    """
    values = getattr(model, "card", {}).get(CARD_KEY)
    if not values:
        return None
    found = Calibration.from_dict(values)
    if found.model != model.hash:
        raise ModelError(f"The calibration in the card of {model.name} is of other weights.", "Calibrate it again.")
    return found


def store_calibration(calibration: Calibration, folder: str | Path) -> None:
    """Write it into the card of a saved model, in the place of an earlier one.

    Raises:
        ModelError: the folder holds no model, or its card cannot be read.
    """
    store_in_card(CARD_KEY, calibration.to_dict(), folder)


def store_in_card(key: str, values: Mapping[str, Any], folder: str | Path) -> None:
    """Write plain values into the card of a saved model under a key, in the place of earlier ones.

    Raises:
        ModelError: the folder holds no model, or its card cannot be read.
    """
    from cmai_core.models.save import CARD_FILE, write_card

    path = Path(folder) / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise ModelError(f"The model card {path} is not valid JSON: {error}.", "Restore it.") from error
    write_card(folder, card | {key: dict(values)})
