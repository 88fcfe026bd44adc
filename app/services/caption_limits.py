"""The part of a caption that the chosen models will not read, reported before anything is run."""

from __future__ import annotations

import streamlit as st

from app.services.models import model_cards

SHORT = 12
"""Characters that fit into every context: even four tokens each take no more than a context."""


@st.cache_data(show_spinner=False, max_entries=256)
def _bundled_note(caption: str) -> str:
    from cmai_core.models.truncation import bundled_truncation

    found = bundled_truncation(caption)
    return "" if found is None else found.said("Each bundled model")


def limit_note(specs: tuple[str, ...], caption: str) -> str:
    """Return a sentence if a chosen bundled model cuts the caption, else "".

    Other models report it with their result, when they are loaded.
    """
    if len(caption) < SHORT or model_cards().keys().isdisjoint(specs):
        return ""
    return _bundled_note(caption)
