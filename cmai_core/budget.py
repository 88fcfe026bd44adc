"""How much an attacker may change, in the units that people use, and the only place that turns it into pixel units.

A person says 4/255 for L∞ and for L2, 1/255 for L1, 100 pixels, or 5 % of the area; a `ThreatModel` says 4/255, 3.48
and 192.75 (lengths over all values of a 128×128 picture), 100 and 0.05. L2 is told as the root mean square change of
the pixel values and L1 as their mean absolute change, so that k/255 serves these norms and any size of picture, and
numbers compare: the L∞ ball of k/255 lies in the L2 ball of k/255, and that in the L1 ball of k/255.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real

from cmai_core.errors import OptionError
from cmai_core.registry import Registry


@dataclass(frozen=True)
class Norm:
    """What a threat model measures.

    Attributes:
        name: as in `ThreatModel.norm`. word: its sign for people. note: what is bounded, in a sentence.
        unit: what stands behind an amount ("/255", " pixels", " %"). shown: what an amount is multiplied with when it
            is written (an area is a share, written in per cent).
        ladder: amounts that are offered. usual: the amount where none is given. highest: the largest accepted.
        scale: pixel units per unit of amount, of the number of values in a picture (3·H·W).
        region: "module:class" of the images it allows around a clean one (`attacks.threats.regions`).
        convex: whether the mean of two allowed images is allowed, so that searches may project and mix.
    """

    name: str
    word: str
    note: str
    unit: str
    ladder: tuple[float, ...]
    usual: float
    highest: float
    scale: Callable[[int], float]
    shown: float = 1.0
    region: str = ""
    convex: bool = True

    @property
    def in_255(self) -> bool:
        """Whether amounts are k/255, so that one ladder and one figure serve it and the others that are."""
        return self.unit == "/255"


_REGIONS = "cmai_core.attacks.threats.regions"
_K = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_ALL = (
    Norm(
        "linf",
        "L∞",
        "No pixel value changes by more than ε.",
        "/255",
        _K,
        4.0,
        255.0,
        lambda n: 1 / 255,
        region=f"{_REGIONS}.linf:LinfRegion",
    ),
    Norm(
        "l2",
        "L2",
        "The root mean square change of the pixel values is at most ε.",
        "/255",
        _K,
        4.0,
        255.0,
        lambda n: math.sqrt(n) / 255,
        region=f"{_REGIONS}.l2:L2Region",
    ),
    Norm(
        "l1",
        "L1",
        "The mean absolute change of the pixel values is at most ε.",
        "/255",
        (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0),
        1.0,
        255.0,
        lambda n: n / 255,
        region=f"{_REGIONS}.l1:L1Region",
    ),
    Norm(
        "l0",
        "few pixels",
        "At most so many pixel positions change, each as much as it likes.",
        " pixels",
        (10.0, 30.0, 100.0, 300.0, 1000.0),
        100.0,
        math.inf,
        lambda n: 1.0,
        region=f"{_REGIONS}.l0:L0Region",
        convex=False,
    ),
    Norm(
        "patch",
        "patch",
        "All pixels of one square change, the others stay.",
        " %",
        (0.01, 0.02, 0.05, 0.1, 0.2, 1.0),
        0.05,
        1.0,
        lambda n: 1.0,
        100.0,
        region=f"{_REGIONS}.patch:PatchRegion",
    ),
)


def _refuse(name: str, norm: object) -> str:
    """Say why a package's norm cannot be used; "" where it can."""
    if not isinstance(norm, Norm):
        return "it is no Norm (cmai_core.budget)."
    if norm.name != name:
        return f"its name is {norm.name!r}."
    return "" if ":" in norm.region else f"region={norm.region!r}; accepted: module:class of its region."


NORMS: Registry[Norm] = Registry("norm", "cmai.norms", {norm.name: norm for norm in _ALL}, _refuse)
"""Every norm by name. A package adds one by an entry point whose value is a `Norm`."""


def convex_norms() -> tuple[str, ...]:
    """Return the norms under which searches may project and mix."""
    return tuple(name for name, norm in NORMS.items() if norm.convex)


def norms_in_255() -> tuple[str, ...]:
    """Return the norms whose amounts are k/255: those of the grid's ε."""
    return tuple(name for name, norm in NORMS.items() if norm.in_255)


@dataclass(frozen=True, order=True)
class Budget:
    """An amount under a norm.

    Attributes:
        norm: a key of `NORMS`.
        amount: in k/255 for linf (the largest change) and l2 (the root mean square change of the pixel values); pixel
            positions for l0; the share of the area, 0 to 1, for patch.

    Raises:
        OptionError: an unknown norm, or an amount outside its range.
    """

    norm: str
    amount: float

    def __post_init__(self) -> None:
        norm = norm_of(self.norm)
        amount = self.amount
        plain = isinstance(amount, Real) and not isinstance(amount, bool)
        # Compared, not converted: a whole number may be too large for a float.
        if not plain or not 0 <= amount <= min(norm.highest, sys.float_info.max):
            bound = "" if math.isinf(norm.highest) else f" to {norm.highest:g}"
            raise OptionError(
                f"epsilon={amount!r} is not accepted for {self.norm}.", f"Accepted: numbers from 0{bound}{_said(norm)}."
            )
        object.__setattr__(self, "amount", float(amount))

    @staticmethod
    def usual(norm: str) -> Budget:
        """Return the budget where none is given."""
        return Budget(norm, norm_of(norm).usual)

    @staticmethod
    def of_pixels(norm: str, epsilon: float, value_count: int) -> Budget:
        """Return the budget of a `ThreatModel`'s ε; `value_count`: 3·H·W of the pictures."""
        amount = epsilon / norm_of(norm).scale(value_count)
        # 4/255·255 is 4.000000000000001 in binary: what a person said is what a person reads again.
        return Budget(norm, min(float(f"{amount:.12g}"), norm_of(norm).highest))

    def pixels(self, value_count: int) -> float:
        """ε as a `ThreatModel` takes it.

        Args:
            value_count: 3·H·W of the pictures, in which a length over all values is measured.
        """
        return self.amount * norm_of(self.norm).scale(value_count)

    @property
    def needs_size(self) -> bool:
        """Whether its size in pixel units depends on that of the pictures."""
        scale = norm_of(self.norm).scale
        return scale(1) != scale(4)

    @property
    def words(self) -> str:
        """As people read it: "4/255", "100 pixels", "5 %"."""
        return f"{self.shown:.6g}{norm_of(self.norm).unit}"

    @property
    def shown(self) -> float:
        """The amount as it is written: per cent of the area for a patch, else the amount itself."""
        return self.amount if norm_of(self.norm).shown == 1 else _shifted(self.amount, norm_of(self.norm).shown)

    @staticmethod
    def of_shown(norm: str, shown: float) -> Budget:
        """Return the budget of an amount as it is written (`shown`)."""
        factor = norm_of(norm).shown
        return Budget(norm, shown if factor == 1 else _shifted(shown, 1 / factor))

    @property
    def on_ladder(self) -> bool:
        """Whether it is one of the amounts offered."""
        return self.amount in norm_of(self.norm).ladder

    def ladder(self) -> tuple[Budget, ...]:
        """Return the amounts offered for its norm, this one in its place among them."""
        amounts = sorted({*norm_of(self.norm).ladder, self.amount})
        return tuple(Budget(self.norm, amount) for amount in amounts)


def _shifted(amount: float, factor: float) -> float:
    """Multiply as people do: 0.07 by 100 is 7, not 7.000000000000001."""
    return float(Decimal(repr(amount)) * Decimal(repr(factor))) if math.isfinite(amount) else amount


def norm_of(name: str) -> Norm:
    """Return what is known of a norm.

    Raises:
        OptionError: there is none of this name.
    """
    if name not in NORMS:
        raise OptionError(f"norm={name!r} is not known.", f"Accepted: {', '.join(NORMS)}.")
    return NORMS[name]


def _said(norm: Norm) -> str:
    said = {"/255": ", in units of 1/255", " pixels": ", pixel positions", " %": ", a share of the area"}
    return said.get(norm.unit, "")
