"""ARM's controller as a training recorded it: what it measured, what it asked for, and what it did, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cmai_core.errors import DataError


@dataclass(frozen=True)
class ArmStep:
    """One measurement.

    Attributes:
        step: of the training. measured: S_c under the reference attack. mean, variance: moving averages.
        asked: +1 for more defence, −1 for less, 0 for neither. waited: measurements in a row that asked for it.
        beta, epsilon (in 1/255), share (λ): in force from here on. moved: whether they are others than before.
    """

    step: int
    measured: float
    mean: float
    variance: float
    asked: int
    waited: int
    beta: float
    epsilon: float
    share: float
    moved: bool


@dataclass(frozen=True)
class ArmLog:
    """A training's log.

    Attributes:
        tau: τ_c; hysteresis: above it by so much the defence may be let down. variance: bound of it. patience.
        ranges: "beta", "epsilon" (in 1/255), "share" → (low, high, step).
    """

    name: str
    tau: float
    hysteresis: float
    variance: float
    patience: int
    ranges: Mapping[str, tuple[float, float, float]]
    steps: tuple[ArmStep, ...]

    def reason(self, place: int) -> str:
        """Say in a sentence why a measurement asked for what it asked."""
        s = self.steps[place]
        if s.asked > 0:
            why = f"the average {s.mean:.3f} is below τ_c = {self.tau:.3f}"
            if s.mean >= self.tau:
                why = f"the variance {s.variance:.3f} is above its bound {self.variance:.3f}"
            return f"More defence is asked for: {why}."
        if s.asked < 0:
            return f"Less is asked for: the average {s.mean:.3f} is above τ_c + {self.hysteresis:g}."
        return f"Nothing is asked for: the average {s.mean:.3f} lies within the hysteresis, or its variance is high."

    def effect(self, place: int) -> str:
        """Say in a sentence what became of β, ε and λ."""
        s = self.steps[place]
        now = f"β = {s.beta:g}, ε = {s.epsilon:g}/255, λ = {s.share:g}"
        if s.moved:
            return f"They move: {now}."
        if s.asked and s.waited == 0:
            return f"They stand at the end of their ranges: {now}."
        return f"They stay: {now}."


def arm_log(name: str) -> ArmLog:
    """Return the log in a bundled model's card.

    Raises:
        DataError: it was not trained with ARM, or its log cannot be read.
    """
    from cmai_core.models import bundled_models

    card = next((card for card in bundled_models() if card.name == name), None)
    training = {} if card is None else card.training
    history, settings = training.get("steering"), (training.get("recipe") or {}).get("controller")
    if not history or not settings:
        raise DataError(f"{name} was not trained with ARM.", "Choose a model that was.")
    try:
        return _log(name, settings, history)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"The log of {name} cannot be read.", "Train (and bundle) that model again.") from error


def _log(name: str, settings: Mapping[str, Any], history: list[Mapping[str, Any]]) -> ArmLog:
    ranges = {}
    for part in ("beta", "epsilon", "share"):
        unit = 255 if part == "epsilon" else 1
        low, high, step = (unit * float(settings[part][end]) for end in ("low", "high", "step"))
        ranges[part] = (round(low, 6), round(high, 6), round(step, 6))
    start = settings.get("start") or {part: settings[part]["low"] for part in ranges}
    before = (start["beta"], start["epsilon"], start["share"])
    steps = []
    for entry in history:
        level = (entry["beta"], entry["epsilon"], entry["share"])
        steps.append(
            ArmStep(
                int(entry["step"]), float(entry["measured"]), float(entry["mean"]), float(entry["variance"]),
                int(entry["asked"]), int(entry["waited"]), float(level[0]), round(255 * float(level[1]), 4),
                float(level[2]), level != before,
            )
        )  # fmt: skip
        before = level
    s = settings
    return ArmLog(name, s["tau"], s["hysteresis"], s["variance"], s["patience"], ranges, tuple(steps))


def models_with_log() -> tuple[str, ...]:
    """Return the bundled models that were trained with ARM; a replay of its schedule records none of its own."""
    from cmai_core.models import bundled_models

    return tuple(card.name for card in bundled_models() if card.training.get("steering"))
