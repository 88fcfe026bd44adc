"""The subject bar, the same on every page: the pair, the models, and the experiments before."""

from __future__ import annotations

import streamlit as st

from app import flow, state
from app.components.common.guard import guard
from app.components.common.help import help_dialog
from app.components.common.model_words import model_words
from app.components.frame.keys import keys
from app.components.frame.model_choice import foreign_warning, model_panel
from app.components.frame.pair import caption_field, pair_panel, picture
from app.components.frame.recent import recent_panel
from app.components.frame.share import share_panel
from app.subject import chosen_models


def subject_bar() -> None:
    """Draw what all pages are about, and the ways to another subject."""
    with (
        st.container(key="subject_bar", border=True),
        st.container(horizontal=True, vertical_alignment="center", gap="small", key="subject_row"),
    ):
        with guard():
            _pair()
        with guard():
            _models()
        with guard():
            _history()
    with guard():
        foreign_warning()
    keys()


def _pair() -> None:
    picture()
    with st.container(width="stretch", key="subject_sentence", gap=None):
        caption_field()
    with st.popover("Pair", icon=":material/photo_library:", key="pair_menu", help="Another pair"):
        pair_panel()


def _models() -> None:
    names = [model_words(role, spec) for role, spec in chosen_models().items()]
    st.html(f'<div class="cm cm-models-line">{"".join(names) or "No model is chosen."}</div>', width="content")
    with st.popover("Models", icon=":material/swap_horiz:", key="open_models", help="Other models, up to four"):
        model_panel()


def _history() -> None:
    kept = state.get(state.RECENT)
    with st.popover("Recent", icon=":material/history:", key="open_recent", disabled=not kept):
        recent_panel()
    st.button(
        "Undo", key="undo", icon=":material/undo:", on_click=flow.undo, disabled=len(kept) < 2,
        help="Back to the experiment before",
    )  # fmt: skip
    with st.popover("Share", icon=":material/share:", key="open_share"):
        share_panel()
    if st.button("Help and keys", key="open_help", icon=":material/help:", help="How to read this, and keys (?)"):
        help_dialog()
