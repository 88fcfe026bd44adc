"""Attention & attribution: where both models look on the clean and on the attacked picture, why, and how far to trust
it.
"""

import streamlit as st

from app import services, state
from app.components import explanation_view as view
from app.components.attack_flow import show_notice
from app.components.belongs import belonging, belongs_to
from app.components.guard import guard
from app.components.live import cancel_button, live_job
from app.components.models_choice import page_head

page_head(
    "Where do the models look, and why?",
    "Maps of the pair attacked last, clean and adversarial, for both models on one colour scale. Beside every "
    "map stand the "
    "numbers that say how far to trust it.",
)
running = services.collect(state.EXPLANATION_JOB, state.EXPLANATION)
with guard():
    subject = view.subject()
with st.container(border=True, key="card_explanation_form"):
    with guard():
        view.form(subject)
    if running:
        cancel_button(state.EXPLANATION_JOB, "cancel_explanation")
    else:
        st.button(
            "Explain",
            type="primary",
            key="start_explanation",
            icon=":material/play_arrow:",
            on_click=view.start,
            disabled=subject is None,
        )
show_notice()
with guard():
    if running:
        live_job(state.get(state.EXPLANATION_JOB), "explanation")
    elif state.get(state.EXPLANATION) is not None:
        made = state.get(state.EXPLANATION)
        with belonging(
            view.moved_on(made, subject), belongs_to(made.experiment), key="explanation", run=view.start,
            run_label="Explain the new one",
        ):  # fmt: skip
            view.result(made)
    else:
        st.info("Nothing explained yet. Press Explain.", icon="ℹ️")
