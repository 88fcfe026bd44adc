"""The attack in a few fields, Start, and everything else behind one button."""

from __future__ import annotations

import streamlit as st

from app import flow, state
from app.components.attack_lab.form import search_fields, who_is_attacked
from app.components.attack_lab.parts import budget_field, choosers, recipe_field, settle_parts
from app.components.attack_lab.target import target_field
from app.components.common.guard import guard
from app.components.common.live import cancel_button
from app.services.results import expected_seconds
from app.subject import described


def attack_fields() -> None:
    """Draw recipe and budget, and all settings behind one button."""
    replaced = settle_parts()
    with guard():
        recipe_field()
        budget_field()
        target_field()
        who_is_attacked()
    if replaced:
        st.caption(f"Changed to what combines: {replaced}")
    settings = st.popover(
        "All settings", icon=":material/tune:", key=state.SETTINGS_OPEN, on_change="rerun", width="stretch"
    )
    if settings.open:
        with settings, guard():
            choosers()
            search_fields()


def start_button(running: bool) -> None:
    """Draw the button that starts or cancels."""
    with st.container(key="start_bar"):
        if running:
            cancel_button(state.ATTACK_JOB, "cancel_attack")
        else:
            st.button(
                "Start the attack", type="primary", key="start_attack", icon=":material/play_arrow:", width="stretch",
                on_click=flow.start,
            )  # fmt: skip
            seconds = expected_seconds(described())
            if seconds is not None:
                st.caption(f"about {seconds:.0f} s" if seconds >= 1 else "less than a second")
