"""Self-checks: whether the figures measure the models or the weakness of the attacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.theme import escape, show
from app.components.common.visitor_words import plain_reason
from cmai_core.lab.benchmark.choices import recipe_words

if TYPE_CHECKING:
    from cmai_core.lab.benchmark.results import Results


MARKS = {"pass": "✓", "warn": "!", "fail": "✗", "skipped": "–"}

CHECK_WORDS = {"pass": "pass", "warn": "look", "fail": "fail", "skipped": "not made"}


def checks_view(made: Results) -> None:
    """Draw every check with its outcome and evidence."""
    counts = {status: sum(check.status == status for check in made.checks) for status in MARKS}
    words = [f"{counts[s]} {CHECK_WORDS[s]}" for s in MARKS if counts[s]]
    st.markdown(f"**Do these figures measure the models, or the weakness of the attacks?** {', '.join(words)}.")
    order = list(MARKS)
    made_first = sorted(made.checks, key=lambda check: ("fail", "warn", "pass", "skipped").index(check.status))
    rows = "".join(
        f'<div class="cm-check cm-check-{check.status}">'
        f'<span class="mark" aria-hidden="true">{MARKS[check.status]}</span>'
        f'<span class="word">{CHECK_WORDS[check.status]}</span>'
        f"<span><b>{escape(check.name[0].upper() + check.name[1:])}</b><br>"
        f'<span class="cm-muted">{escape(check.evidence)}</span></span></div>'
        for check in made_first
        if check.status in order
    )
    show(rows)
    if made.skipped:
        with st.expander(f"Cells left out ({len(made.skipped)})"):
            for source, task, recipe, why in made.skipped:
                st.caption(f"{recipe_words(recipe)} on {source}, {task or 'no task'}: {plain_reason(why)}")
    st.caption("After Carlini et al., On Evaluating Adversarial Robustness (2019), and AutoAttack's flags (2020).")
