"""What a page cannot do without. A page declares its needs, and the lab says what is missing and where to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.subject import Subject


@dataclass(frozen=True)
class Need:
    """Something of the subject that a page cannot do without.

    Attributes:
        why_not: subject → what is missing, as a sentence for visitors; "" if it is there.
        page: name of the page where it can be had; "" if that is the page itself.
    """

    why_not: Callable[[Subject], str]
    page: str = ""


MODEL = Need(lambda subject: "" if subject.models else "No model is chosen yet: pick one of the list.")
"""At least one chosen model."""

ANY_PAIR = Need(
    lambda subject: "" if subject.pair or subject.attacked else "There is no pair yet: choose one in the attack lab.",
    "attack_lab",
)
"""A pair, attacked or not."""


def unmet(needs: Iterable[Need], subject: Subject) -> tuple[Need, str] | None:
    """Return the first need that is not met, and why; None if all are."""
    return next(((need, reason) for need in needs if (reason := need.why_not(subject))), None)
