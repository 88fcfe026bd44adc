"""The link to what is on the page, and how the lab is shown."""

from __future__ import annotations

import streamlit as st

from app import address, navigation, state


def share_panel() -> None:
    """Draw the link of the page as it stands, and the projector's switch."""
    st.caption("This link brings back the page as it stands; the lab's result with it.")
    st.code(address.link(navigation.shown()), language=None, wrap_lines=True)
    st.toggle(
        "Large, for a projector", value=state.get(state.VIEW) == address.PROJECTOR, key="view_projector",
        on_change=_turn, help="Letters of 20 pixels, one thing at a time. The link keeps it.",
    )  # fmt: skip


def _turn() -> None:
    state.put(state.VIEW, address.PROJECTOR if st.session_state["view_projector"] else "")
