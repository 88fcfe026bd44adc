"""What heads the bundled example: what this is, and how to begin."""

from __future__ import annotations

import streamlit as st

from app.components.common.help import help_dialog
from app.components.common.theme import show

HEADLINE = "Same picture to you, different meaning to the model"


def first_words(*, empty: bool = False) -> None:
    """Draw the first screen's headline.

    Args:
        empty: whether there is no bundled example to show.
    """
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    with row:
        st.html(
            f'<div class="cm"><h1 class="cm-headline cm-lab-headline">{HEADLINE}</h1></div>',
            width="stretch",
        )
        if st.button("How to read this", key="hero_help", icon=":material/help:", type="tertiary"):
            help_dialog()
    if empty:
        st.info(
            "There is no bundled example yet: it is made from the bundled models. "
            "Choose a picture and a model above and start an attack; everything else works.",
            icon="ℹ️",
        )
        return
    show(
        '<p class="cm-lead cm-lab-lead">A change too small to see makes a vision-language model lose what a picture '
        "means. Move the divider, read the consistency score S<sub>c</sub>, then attack a picture of your own.</p>"
    )
