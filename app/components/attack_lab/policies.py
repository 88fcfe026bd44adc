"""What would be done about a flagged pair, measured when the verdict was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.attack_lab.answers import sign
from app.components.common.theme import escape, label, show
from cmai_core.lab.policies import PathwayAnswer
from cmai_core.lab.result import Answer
from cmai_core.lab.verdict import SIDES, LabVerdict

if TYPE_CHECKING:
    pass


def policies(made: LabVerdict, fpr: float) -> None:
    """Draw what each policy would answer about every flagged pair."""
    show('<div class="cm-h">What would be done about a flagged pair</div>')
    rows = [
        _policy_rows(role, side, found.pathway[side])
        for role, found in made.roles.items()
        for side in range(2)
        if found.pathway and found.consistent(side, fpr) is False
    ]
    if not rows:
        st.caption("No pair is flagged here, so every policy gives the model's plain answer.")
        return
    show("".join(rows))
    st.caption(
        "Each latency is that of this pair on this machine, from pixels to answer. Copies carry Gaussian noise of "
        "8/255, and their features are averaged; an answer that noise repairs is no proof of robustness."
    )


def _policy_rows(role: str, side: int, tried: PathwayAnswer) -> str:
    plain, robust = _said(tried.plain), _said(tried.robust)
    lines = (
        ("reject", "no answer is given."),
        ("flag", f"the plain answer is given, and a person looks at the pair: {plain}, {span(tried.plain_seconds)}."),
        (
            "robust pathway",
            f"answer by way of {tried.copies} noisy copies: {robust}, {span(tried.robust_seconds)} against "
            f"{span(tried.plain_seconds)}.",
        ),
    )
    rows = "".join(f"<li><b>{name}</b>: {words}</li>" for name, words in lines)
    return (
        f'<div class="cm-answer"><div>{label(role, role.capitalize())} · {label(SIDES[side])} pair · '
        f'{escape(tried.task)}</div><ul class="cm-small">{rows}</ul></div>'
    )


def _said(answer: Answer) -> str:
    return f"{sign(answer.correct)} “{escape(answer.text or '(nothing)')}”"


def span(seconds: float) -> str:
    """Return a latency with its unit."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
