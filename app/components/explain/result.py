"""An explanation: the captions, a row of maps for each method, the words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.caption_diff import caption_diff
from app.components.common.theme import escape, mark, show
from app.components.explain.maps import one_method
from app.components.explain.methods import METHODS
from app.components.explain.words import words

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation


def result(made: LabExplanation) -> None:
    """Draw the maps of all models, one method below the other, and the words."""
    _captions(made)
    for method in METHODS:
        if any(method in role.maps or method in role.missing for role in made.roles.values()):
            with st.container(border=True, key=f"card_{method.replace(' ', '_')}"):
                one_method(made, method)
    with st.container(border=True, key="card_words"):
        words(made)
    st.caption(
        f"{made.seconds:.1f} s. Maps are computed for S_c of picture and sentence; one colour scale within each method."
    )


def _captions(made: LabExplanation) -> None:
    """Draw the caption; if it was attacked, which side has which."""
    attacked = {role: explained.attacked for role, explained in made.roles.items() if explained.attacked}
    if not attacked:
        show(f'<p class="cm-quote">{escape(made.caption)}</p>')
        return
    lines = [f"{mark('clean')}clean: {escape(made.caption)}"]
    for text in dict.fromkeys(attacked.values()):
        whose = [role for role, its in attacked.items() if its == text]
        note = "" if len(whose) == len(made.roles) else f" ({', '.join(whose)})"
        lines.append(f"{mark('adversarial')}adversarial{note}: {caption_diff(made.caption, text)}")
    show(f'<p class="cm-quote">{"<br>".join(lines)}</p>')
    st.caption(
        "Clean maps are of the clean picture and sentence, adversarial ones of the attacked picture and sentence."
    )
