"""Distributions: S_c over a split, clean and attacked, and what a threshold on it would catch."""

import streamlit as st

from app import services, state
from app.components import distribution_view as view
from app.components.attack_flow import show_notice
from app.components.belongs import belonging
from app.components.guard import guard
from app.components.live import cancel_button, live_job
from app.components.models_choice import models_line, page_head

page_head(
    "Where would a threshold on S_c lie?",
    "Clean pairs and attacked pairs of a whole split, scored by both models. Move the threshold and read what it "
    "costs.",
)
running = services.collect(state.DISTRIBUTION_JOB, state.DISTRIBUTION)
with guard():
    models_line()
with st.container(border=True, key="card_distribution_form"):
    with guard():
        view.form()
    if running:
        cancel_button(state.DISTRIBUTION_JOB, "cancel_distribution")
    else:
        st.button(
            "Measure", type="primary", key="start_distribution", icon=":material/play_arrow:", on_click=view.start
        )
show_notice()
with guard():
    if running:
        live_job(state.get(state.DISTRIBUTION_JOB), "measurement")
    elif state.get(state.DISTRIBUTION) is not None:
        made = state.get(state.DISTRIBUTION)
        with belonging(
            view.moved_on(made, view.asked), view.of_many(made), key="distribution", run=view.start,
            run_label="Measure the new one",
        ):  # fmt: skip
            view.result(made)
    else:
        view.bundled()
