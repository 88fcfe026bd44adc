"""Verdicts, rates and thresholds in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from app import state
from app.components.common.theme import number
from cmai_core.lab.result import PairPrediction
from cmai_core.lab.verdict import LabVerdict, RoleVerdict

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis


def chosen_rate(made: LabVerdict) -> float:
    """Return the false-positive rate that verdicts are shown at: the chosen one if there are thresholds for it."""
    return _settled_rate(made.rates)


def shown_rate(bases: Mapping[str, Basis]) -> float:
    """Return the same for the score cards, whose thresholds are known before anything is verified."""
    return _settled_rate(tuple(sorted({rate for basis in bases.values() for rate in basis.rates})))


def _settled_rate(rates: tuple[float, ...]) -> float:
    fpr = state.get(state.VERDICT_FPR)
    if rates and fpr not in rates:
        fpr = rates[-1]
        state.put(state.VERDICT_FPR, fpr)
    return fpr


def card_words(made: LabVerdict | None, prediction: PairPrediction) -> str:
    """Return what CMCV says of a model with consistency heads, for its score card; "" for a model without."""
    found = None if made is None else made.roles.get(prediction.role)
    if found is None or not found.has_heads:
        return ""
    clean, adversarial = (found.consistent(side, chosen_rate(made)) for side in range(2))
    if clean is None:
        return ""
    if not clean:
        said = "flagged even when clean."
    else:
        said = "accepted after the attack." if adversarial else "flagged after the attack."
    return f"S_c and V_verify together (CMCV): {said}"


def decision(accepted: bool | None) -> str:
    """Return the verdict as a tag: a mark and a word."""
    if accepted is None:
        return '<span class="cm-tag">no verdict</span>'
    mark, word, kind = ("✓", "consistent", "passed") if accepted else ("⚑", "flagged", "flagged")
    return f'<span class="cm-tag cm-tag-{kind}"><span aria-hidden="true">{mark}</span> {word}</span>'


def basis_line(found: RoleVerdict, fpr: float) -> str:
    """Return what the thresholds rest on, in a sentence or two."""
    parts = ["consistency heads" if found.has_heads else "no consistency heads: S_c is the cosine of the embeddings"]
    known = found.basis.calibration
    if known is not None:
        parts.append(f"thresholds ({found.basis.origin}) flag at most {fpr:.0%} of those pairs")
    bounds = found.bounds(fpr)
    if bounds is not None:
        parts.append(
            f"so that the two scores together flag no more than that, the verdict asks for S_c ≥ {number(bounds[0])} "
            f"and V_verify ≥ {number(bounds[1])}, less than each one's own τ"
        )
    said = "; ".join(parts)
    note = found.basis.note
    return f"{said[0].upper()}{said[1:]}. {'Scores without a verdict. ' if known is None else ''}{note}".strip()


def against(tau: float | None) -> str:
    """Return the threshold beside a score, "" if there is none."""
    return "" if tau is None else f"τ {number(tau)}"


def percent(share: float | None) -> str:
    """Return a probability in whole per cent, never rounded to certainty; an en dash if there is none."""
    if share is None:
        return "–"
    return "<1%" if share < 0.01 else ">99%" if share > 0.99 else f"{share:.0%}"
