"""How roles and models look in a report: colour, mark and dash, so that none is told by colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """Attributes: colour: CSS. mark: a character. dash: SVG stroke-dasharray."""

    colour: str
    mark: str
    dash: str = ""


ROLES = {
    "clean": Look("#0072B2", "●"),
    "adversarial": Look("#D55E00", "◆", "6 4"),
    "A": Look("#785EF0", "▲"),
    "B": Look("#009E73", "■", "2 3"),
    "C": Look("#B8467E", "★", "8 3"),
    "D": Look("#8A6A00", "✚", "8 3 2 3"),
}
"""The lab's own looks of these roles."""
_MORE = (Look("#0072B2", "●", "12 3"), Look("#D55E00", "◆", "6 4"))


def of_models(names: Sequence[str]) -> dict[str, Look]:
    """Return model → look, by its place in the list."""
    looks = (*(ROLES[role] for role in "ABCD"), *_MORE)
    return {name: looks[place % len(looks)] for place, name in enumerate(names)}
