"""What of a sentence the chosen models will not read, told beside the sentence, before anything is run."""

from __future__ import annotations

import streamlit as st

from app import services


@st.cache_data(show_spinner=False, max_entries=256)
def _bundled_note(caption: str) -> str:
    from cmai_core.models.truncation import bundled_truncation

    found = bundled_truncation(caption)
    return "" if found is None else found.said("Each bundled model")


def limit_note(specs: tuple[str, ...], caption: str) -> str:
    """A sentence where a chosen bundled model cuts the caption, else "".

    Other models are asked when they are loaded: their result says the same.
    """
    bundled = {card.name for card in services.catalogue()}
    if len(caption) < SHORT or not bundled.intersection(specs):
        return ""
    return _bundled_note(caption)


SHORT = 12
"""Characters that fit into every context, whatever they are: even four tokens each take no more than a context."""
