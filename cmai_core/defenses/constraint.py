"""ARM as a constraint: as much defence as the accuracy on clean pictures pays for.

Two constraints, each with a dual variable (its price, 0 to 1) that rises while the constraint is broken and falls while
there is slack, the faster the further (dual ascent on the averages: Stooke et al. 2020, arXiv 2007.03964, eq. 6):

    clean accuracy ≥ that of the starting model − drop      its price lowers ε, λ and β
    mean S_c under the reference attack ≥ τ_c               its price raises β

The levels are functions of the prices, so they are bounded: ε and λ go from their high ends at a price of 0 to their
low ends at 1; β stands as high as the second constraint asks, but no higher than the first allows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cmai_core.defenses.controller import Level, Range
from cmai_core.options import number, whole


@dataclass(frozen=True)
class ConstraintSettings:
    """How ARM steers a training under constraints.

    Attributes:
        tau: τ_c, from which on the mean of S_c under the reference attack is high enough.
        drop: how much of the starting model's clean accuracy may be lost (a share: 0.025 is 2.5 points).
        price: of clean accuracy, where it begins; the other begins where β may stand as high as that allows.
        rate: the most that a price moves after a measurement: where no accuracy is lost or twice the permitted drop, or
            where S_c lies `band` beside τ_c.
        momentum: of the moving averages of accuracy and S_c.
        every: steps between measurements. after: steps before anything moves, while the heads learn what S_c is; at
            step 0 the starting model is measured.
        beta, epsilon, share: ranges of β, ε (pixel units of [0, 1]) and λ; levels are whole steps above the low ends.
        clean_pairs: validation pairs that retrieve among each other.
        pairs, reference_epsilon, reference_steps: the reference attack, PGD on −S_c, on so many validation pairs.
    """

    tau: float
    drop: float = 0.025
    price: float = 0.6
    rate: float = 0.1
    band: float = 0.05
    momentum: float = 0.5
    every: int = 25
    after: int = 0
    beta: Range = field(default_factory=lambda: Range(0.5, 2.0, 0.25))
    epsilon: Range = field(default_factory=lambda: Range(1 / 255, 6 / 255, 0.25 / 255))
    share: Range = field(default_factory=lambda: Range(0.25, 0.75, 0.0625))
    clean_pairs: int = 1000
    pairs: int = 32
    reference_epsilon: float = 2 / 255
    reference_steps: int = 5

    def __post_init__(self) -> None:
        number("tau", self.tau, -1.0, 1.0)
        number("drop", self.drop, 0.0, 1.0, above_low=True)
        number("band", self.band, 0.0, above_low=True)
        for name in ("price", "rate", "momentum"):
            number(name, getattr(self, name), 0.0, 1.0)
        number("share.high", self.share.high, 0.0, 1.0)
        whole("after", self.after, 0)
        for name in ("every", "clean_pairs", "pairs", "reference_steps"):
            whole(name, getattr(self, name), 1)

    def due(self, step: int) -> bool:
        """Say whether a measurement is due before a step."""
        return step == 0 or (step >= self.after and step % self.every == 0)


@dataclass(frozen=True)
class Constraint:
    """ARM's state under constraints; `updated` gives the next one.

    Attributes:
        price: of clean accuracy. need: the price of consistency. start: the starting model's clean accuracy.
        clean, mean: moving averages of clean accuracy and of mean S_c. All three are None before they are measured.
    """

    settings: ConstraintSettings
    price: float
    need: float
    start: float | None = None
    clean: float | None = None
    mean: float | None = None

    @staticmethod
    def begin(settings: ConstraintSettings) -> Constraint:
        return Constraint(settings, settings.price, 1 - settings.price)

    @property
    def level(self) -> Level:
        """β, ε and λ in force."""
        s, allowed = self.settings, 1 - self.price
        return Level(s.beta.at(min(self.need, allowed)), s.epsilon.at(allowed), s.share.at(allowed))

    def updated(self, mean: float, clean: float) -> Constraint:
        """After a measurement: mean S_c under the reference attack, and clean accuracy.

        The first is of the starting model, and moves nothing.
        """
        s, m = self.settings, self.settings.momentum
        if self.start is None or self.clean is None:
            return replace(self, start=clean, clean=clean)
        clean = m * self.clean + (1 - m) * clean
        mean = mean if self.mean is None else m * self.mean + (1 - m) * mean
        broken = (self.start - clean) / s.drop - 1
        lacking = (s.tau - mean) / s.band
        price, need = _moved(self.price, broken, s.rate), _moved(self.need, lacking, s.rate)
        return replace(self, price=price, need=need, clean=clean, mean=mean)

    def shown(self) -> dict[str, float]:
        """Return what it goes by, for the log."""
        found = {"clean_start": self.start, "clean": self.clean, "reference_s_c": self.mean}
        known = {name: value for name, value in found.items() if value is not None}
        return {"price": self.price, "need": self.need, **known}

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint or a log."""
        names = ("price", "need", "start", "clean", "mean")
        return {name: getattr(self, name) for name in names} | asdict(self.level)

    def restored(self, state: dict[str, Any]) -> Constraint:
        """Return the controller that wrote `state`."""
        return replace(self, **{name: state[name] for name in ("price", "need", "start", "clean", "mean")})


def _moved(price: float, violation: float, rate: float) -> float:
    """Return a price after a violation (negative: slack), of which no more than 1 counts."""
    return min(1.0, max(0.0, price + rate * min(1.0, max(-1.0, violation))))
