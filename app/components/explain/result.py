"""An explanation: the sentences, and five views of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.caption_diff import caption_diff
from app.components.common.model_words import model_words
from app.components.common.theme import escape, mark, show
from app.components.explain.decoder import decoder
from app.components.explain.heads import heads
from app.components.explain.maps import one_method
from app.components.explain.methods import METHODS
from app.components.explain.patches import patches
from app.components.explain.trace import trace
from app.components.explain.words import words
from app.services.explanations import bundled_explanation

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation

VIEW = "explain_view"
VIEWS = {
    "Causal trace": "trace",
    "Heat maps": "maps",
    "Heads": "heads",
    "Written words": "decoder",
    "Picture ↔ words": "words",
}
"""Tab → its name in the address."""


def bundled() -> None:
    """Draw the bundled explanation, which stands there until something is explained."""
    made = bundled_explanation()
    if made is None:
        st.info("Nothing explained yet. Press Explain.", icon="ℹ️")
        return
    st.caption("Bundled: the example that the lab opens with. Press Explain for your own.")
    result(made)


def result(made: LabExplanation) -> None:
    """Draw what is open: the trace, the maps, the heads, the decoder's words, or words and patches."""
    _captions(made)
    specs = made.experiment.models
    show(" &nbsp; ".join(model_words(role, specs[role]) for role in made.roles if role in specs))
    tabs = st.tabs(list(VIEWS), key=VIEW, on_change="rerun")
    for tab, draw in zip(tabs, (trace, _maps, heads, decoder, _words), strict=True):
        if tab.open:
            with tab:
                draw(made)
    st.caption(f"Made in {made.seconds:.1f} s.")


def _maps(made: LabExplanation) -> None:
    for method in METHODS:
        if any(method in role.maps or method in role.missing for role in made.roles.values()):
            with st.container(border=True, key=f"card_{METHODS.index(method)}_map"):
                one_method(made, method)
    st.caption("Maps are of S_c of picture and sentence, one colour scale within each method. No heat map is causal.")


def _words(made: LabExplanation) -> None:
    with st.container(border=True, key="card_patches"):
        patches(made)
    with st.container(border=True, key="card_words"):
        words(made)


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
