"""What the lab shows of a finding: plain values, which pages draw and printed sheets write down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of column → value, under a title that states the finding."""

    title: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        value: on the axis of its chart. low, high: its interval, None without one. said: the value as people read it.
        role: whose it is, for its look ("clean", "adversarial", "A", "B", "undefended", "defended").
    """

    label: str
    value: float
    said: str
    role: str = "clean"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bars:
    """Bars on one axis from `least` to `most`, under a title that states the finding.

    Attributes:
        level: where a line is drawn (chance, a threshold), with its word.
    """

    title: str
    bars: Sequence[Bar]
    least: float = 0.0
    most: float = 1.0
    level: tuple[float, str] | None = None


@dataclass(frozen=True)
class Curves:
    """Values after 0, 1, 2 … steps: name → (values, role)."""

    title: str
    x_label: str
    curves: Mapping[str, tuple[Sequence[float], str]]
    level: float | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture: uint8 H×W×3, with its caption and what it shows, for people who do not see it."""

    pixels: np.ndarray
    caption: str
    alt: str


@dataclass(frozen=True)
class Pictures:
    """Pictures beside each other."""

    pictures: Sequence[Picture]


Exhibit = Words | Table | Bars | Curves | Pictures


def share_bar(label: str, found: Mapping[str, float], role: str) -> Bar:
    """Return the bar of a share with its interval and counts, as `comparison.verdicts.share` gives it."""
    said = f"{100 * found['value']:.0f} % ({found['hits']:.0f} of {found['total']:.0f})"
    return Bar(label, found["value"], said, role, found["low"], found["high"])
