"""The link to what is on the page, and how the lab is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import address, flow, navigation, state
from app.components.common.experiment_files import experiment_drop

if TYPE_CHECKING:
    from cmai_core.lab.experiment_file import ExperimentFile


def share_panel() -> None:
    """Draw the link of the page as it stands, and the projector's switch."""
    st.caption("This link brings back the page as it stands; the lab's result with it.")
    st.code(address.link(navigation.shown()), language=None, wrap_lines=True)
    st.toggle(
        "Large, for a projector", value=state.get(state.VIEW) == address.PROJECTOR, key="view_projector",
        on_change=_turn, help="Letters of 20 pixels, one thing at a time. The link keeps it.",
    )  # fmt: skip
    st.divider()
    found = experiment_drop("experiment_drop")
    if found is not None:
        st.button(
            "Make it again, and compare", key="run_file", type="primary", icon=":material/play_arrow:",
            on_click=_run, args=(found,), help="Every number of the file is marked equal or different.",
        )  # fmt: skip


def _run(found: ExperimentFile) -> None:
    flow.run_file(found)
    navigation.head_for(next(iter(navigation.PAGES)))


def _turn() -> None:
    state.put(state.VIEW, address.PROJECTOR if st.session_state["view_projector"] else "")
