"""What a model shall see: free text, and what it is read as."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.common.guard import guard, plain
from app.services.targets import target_note
from cmai_core.data.plain import plain_line
from cmai_core.lab.experiment import MAX_CAPTION


def target_field() -> None:
    """Draw the field, and below it what is aimed at."""
    st.text_input(
        "Make it see …", key=state.TARGET, max_chars=MAX_CAPTION, placeholder="white cone", on_change=_clean,
        help="A class, an answer to the question, or any sentence. Empty: the attack is on whatever is right.",
    )  # fmt: skip
    text = state.get(state.TARGET)
    if not text or not state.get(state.PAIR):
        return
    with guard():
        asked = (text, state.get(state.PAIR), state.get(state.CAPTION), state.get(state.SCENE))
        good, words = target_note(*asked, state.get(state.UPLOAD))
        st.caption(f"{'' if good else ':material/error: '}{plain(words)}")


def _clean() -> None:
    """Make what was typed one line of visible text in the field, too."""
    state.put(state.TARGET, plain_line(state.get(state.TARGET)))
