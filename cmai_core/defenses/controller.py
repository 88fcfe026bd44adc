"""ARM in training: β, ε and λ follow how consistent pairs stay under a fixed reference attack.

The score is measured under an attack that never changes (same pairs, same ε, same steps), not under the current one:
raising ε would lower S_c, which would raise ε, and so on. With hysteresis, so that noise around the threshold moves
nothing, and with bounds, so that a training that cannot be saved does not run away.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from cmai_core.errors import OptionError
from cmai_core.options import number, whole


@dataclass(frozen=True)
class Range:
    """Where a setting may move, and by how much at once: [low, high], `step` > 0."""

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        number("low", self.low, 0.0)
        number("step", self.step, 0.0)
        if self.high < self.low:
            raise OptionError(f"A range from {self.low} to {self.high} is empty.", "Give high at least low.")

    def moved(self, value: float, direction: int) -> float:
        """Return one step up (+1) or down (−1), within the range."""
        return min(self.high, max(self.low, value + direction * self.step))

    def at(self, place: float) -> float:
        """Return the whole number of steps above the low end that is nearest to a place: 0 low, 1 high."""
        steps = (self.high - self.low) * place / self.step if self.step else 0
        return min(self.high, self.low + round(steps) * self.step)


@dataclass(frozen=True)
class Level:
    """What the inner and the outer problem use now: β, ε and λ."""

    beta: float
    epsilon: float
    share: float


@dataclass(frozen=True)
class ControllerSettings:
    """How ARM steers a training.

    Attributes:
        tau: τ_c: the moving average of S_c under the reference attack should stay above it.
        variance: the moving average of its variance should stay below this.
        hysteresis: the defence is let down again only when the average is above τ_c by this much (and the variance
            is below half its bound).
        momentum: of the moving averages.
        every: steps between measurements. patience: measurements on the same side before anything moves.
        after: steps before the first measurement, while consistency heads that begin from nothing would answer for
            themselves and not for the towers.
        beta, epsilon, share: ranges of β, ε (pixel units of [0, 1]) and λ. start: where they begin; None: at their
            low ends.
        pairs, reference_epsilon, reference_steps: the reference attack, PGD on −S_c, on so many validation pairs.
    """

    tau: float
    variance: float = 0.05
    hysteresis: float = 0.03
    momentum: float = 0.8
    every: int = 25
    after: int = 0
    patience: int = 2
    beta: Range = Range(0.5, 2.0, 0.25)
    epsilon: Range = Range(1 / 255, 2 / 255, 0.25 / 255)
    share: Range = Range(0.25, 0.75, 0.125)
    start: Level | None = None
    pairs: int = 32
    reference_epsilon: float = 2 / 255
    reference_steps: int = 5

    def __post_init__(self) -> None:
        number("tau", self.tau, -1.0, 1.0)
        number("variance", self.variance, 0.0, above_low=True)
        number("hysteresis", self.hysteresis, 0.0)
        number("momentum", self.momentum, 0.0, 1.0)
        number("share.high", self.share.high, 0.0, 1.0)
        whole("after", self.after, 0)
        for name in ("beta", "epsilon", "share") if self.start is not None else ():
            limits, value = getattr(self, name), getattr(self.start, name)
            if not limits.low <= value <= limits.high:
                raise OptionError(f"start.{name}={value} lies outside its range.", f"{limits.low} to {limits.high}.")
        for name in ("every", "patience", "pairs", "reference_steps"):
            whole(name, getattr(self, name), 1)

    def due(self, step: int) -> bool:
        """Say whether a measurement is due before a step."""
        return step >= self.after and step % self.every == 0


@dataclass(frozen=True)
class Controller:
    """ARM's state; `updated` gives the next one.

    Attributes:
        level: β, ε, λ in force. mean, variance: moving averages, None before the first measurement.
        waited: measurements in a row that asked for the direction `asked` (−1, 0, +1).
    """

    settings: ControllerSettings
    level: Level
    mean: float | None = None
    variance: float | None = None
    asked: int = 0
    waited: int = 0

    @staticmethod
    def start(settings: ControllerSettings) -> Controller:
        low = Level(settings.beta.low, settings.epsilon.low, settings.share.low)
        return Controller(settings, settings.start or low)

    def updated(self, mean: float, variance: float) -> Controller:
        """After a measurement of S_c under the reference attack: its mean and variance over the reference pairs."""
        s, m = self.settings, self.settings.momentum
        mean = mean if self.mean is None else m * self.mean + (1 - m) * mean
        variance = variance if self.variance is None else m * self.variance + (1 - m) * variance
        weak = mean < s.tau or variance > s.variance
        strong = mean > s.tau + s.hysteresis and variance < s.variance / 2
        asked = 1 if weak else -1 if strong else 0
        waited = 0 if asked == 0 else self.waited + 1 if asked == self.asked else 1
        level = self.level
        if asked and waited >= s.patience:
            level = Level(
                s.beta.moved(level.beta, asked),
                s.epsilon.moved(level.epsilon, asked),
                s.share.moved(level.share, asked),
            )
            waited = 0
        return replace(self, level=level, mean=mean, variance=variance, asked=asked, waited=waited)

    def shown(self) -> dict[str, float]:
        """Return what it goes by, for the log."""
        found = {"reference_s_c": self.mean, "reference_variance": self.variance}
        return {name: value for name, value in found.items() if value is not None}

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint or a log."""
        plain = {"mean": self.mean, "variance": self.variance, "asked": self.asked, "waited": self.waited}
        return plain | asdict(self.level)

    def restored(self, state: dict[str, Any]) -> Controller:
        """Return the controller that wrote `state`."""
        level = Level(**{name: float(state[name]) for name in ("beta", "epsilon", "share")})
        rest = {name: state[name] for name in ("mean", "variance", "asked", "waited")}
        return replace(self, level=level, **rest)
