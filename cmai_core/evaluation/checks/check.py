"""What a self-check comes to, how two attacks are compared, and a table of checks for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cmai_core.budget import Budget

STATUSES = ("pass", "warn", "fail", "skipped")

# The usual level of a test: an attack of equal strength would look better by so much once in twenty checks.
SIGNIFICANCE = 0.05
# Where the test cannot decide (few samples), a lead of more than a twentieth of the samples is worth a second look. One
# sample is not: two runs of one and the same attack differ by one.
NET_SHARE, NET_LEAST = 0.05, 2

# An attack that has not fooled a sample should lie at the edge of its budget (more is better for it): below half of it,
# it has barely tried. A tenth of the samples may have their reasons (a picture at the edge of the pixels' range); where
# it is every second one, the attack is broken.
BARELY, SOME_SHARE, LAZY_SHARE = 0.5, 0.1, 0.5
# Successes lost when the picture is rounded to 8 bits, as a share of them: more than a tenth is a finding, more than
# half means that the attack works on numbers no picture has.
ROUNDING_SOME, ROUNDING_MOST = 0.1, 0.5
# What may still be right under a budget that turns any picture grey: nothing. A tenth may be answers that a language
# prior gives whatever the picture; more is chance for no task here.
LARGE_SHARE = 0.1


@dataclass(frozen=True)
class Check:
    """One self-check.

    Attributes:
        name: what ought to hold, in words.
        status: "pass"; "warn": worth a look before the figures are quoted; "fail": the figures say more about the
            attack or the harness than about the model; "skipped": it could not be made, and the evidence says why.
        evidence: one or two sentences with numbers.
        numbers: the same as plain values (JSON).
    """

    name: str
    status: str
    evidence: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status={self.status!r}; accepted: {', '.join(STATUSES)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is not a finite number is None."""
        return {"name": self.name, "status": self.status, "evidence": self.evidence, "numbers": _plain(self.numbers)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def skipped(name: str, why: str) -> Check:
    """Return a check that could not be made."""
    return Check(name, "skipped", why)


def worst(statuses: Sequence[str]) -> str:
    """Return the gravest of some statuses: fail, warn, pass; "skipped" where nothing else is there."""
    for status in ("fail", "warn", "pass"):
        if status in statuses:
            return status
    return "skipped"


@dataclass(frozen=True)
class Lead:
    """How far another attack is ahead of the one under test, sample by sample.

    Attributes:
        extra: samples only the other fooled. missing: samples only the one under test fooled. total: samples.
        p: chance of so many extra ones (or more) among those where they differ, were both equally strong: a one-sided
            sign test.
    """

    extra: int
    missing: int
    total: int

    @property
    def p(self) -> float:
        differing = self.extra + self.missing
        if not differing:
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(self.extra, differing, 0.5, alternative="greater").pvalue)

    @property
    def status(self) -> str:
        net = self.extra - self.missing
        if net > 0 and self.p < SIGNIFICANCE:
            return "fail"
        return "warn" if net >= NET_LEAST and net > NET_SHARE * self.total else "pass"

    def numbers(self) -> dict[str, Any]:
        return {"only_other": self.extra, "only_tested": self.missing, "samples": self.total, "p": self.p}


def lead(other: Any, own: Any) -> Lead:
    """Compare two bool sequences of equal length: who was fooled by the other attack, and by the one under test."""
    pairs = [(bool(a), bool(b)) for a, b in zip(other, own, strict=True)]
    return Lead(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))


def share(hits: int, total: int) -> str:
    """Return "3 of 8 (38 %)"."""
    return f"{hits} of {total}" + (f" ({100 * hits / total:.0f} %)" if total else "")


def levels(epsilon: float) -> str:
    """Say ε of [0, 1] under L∞ as a person reads it: "4/255"."""
    return Budget.of_pixels("linf", epsilon, 1).words


def rounding(name: str, found: int, kept: int) -> Check:
    """Make a check from the number of successes as floats, and of those that are successes in 8 bits too."""
    lost, numbers = found - kept, {"float": found, "kept": kept}
    if not found:
        return skipped(name, "The attack has no success that could be lost.")
    evidence = f"{share(lost, found)} of the successes are lost when the picture is rounded to 8 bits."
    if lost > max(1, ROUNDING_MOST * found):
        return Check(name, "fail", evidence, numbers)
    return Check(name, "warn" if lost > max(1, ROUNDING_SOME * found) else "pass", evidence, numbers)


def report(checks: Sequence[Check], width: int = 110) -> str:
    """Return a table for a terminal: status, name and evidence, and a last line that counts."""
    if not checks:
        return "No check was made."
    column = max(len(check.name) for check in checks)
    indent = " " * 9
    lines = []
    for check in checks:
        lines.append(f"{check.status.upper():<7}  {check.name:<{column}}".rstrip())
        lines += textwrap.wrap(check.evidence, width, initial_indent=indent, subsequent_indent=indent)
    counts = [f"{sum(c.status == s for c in checks)} {s}" for s in STATUSES]
    return "\n".join([*lines, "", ", ".join(counts)])
