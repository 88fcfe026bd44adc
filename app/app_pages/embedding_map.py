"""Embedding map: pictures and sentences in the shared space, and how far the attack carries the pictures."""

import streamlit as st

from app import services, state, warm_up
from app.components import embedding_view as view
from app.components.attack_flow import show_notice
from app.components.belongs import belonging
from app.components.distribution_view import moved_on, of_many
from app.components.guard import guard
from app.components.live import cancel_button, live_job
from app.components.models_choice import models_line, page_head

page_head(
    "How far does an attack carry a picture?",
    "Pictures and sentences in a model's shared space, with an arrow from each clean picture to its attacked self. "
    "Click a point to open its pair.",
)
running = services.collect(state.EMBEDDING_JOB, state.EMBEDDING)
with guard():
    models_line()
with st.container(border=True, key="card_embedding_form"):
    with guard():
        view.form()
    if running:
        cancel_button(state.EMBEDDING_JOB, "cancel_embedding")
    else:
        st.button(
            "Draw the map", type="primary", key="start_embedding", icon=":material/play_arrow:", on_click=view.start
        )
show_notice()
with guard():
    if running:
        live_job(state.get(state.EMBEDDING_JOB), "map")
    elif state.get(state.EMBEDDING) is not None:
        made = state.get(state.EMBEDDING)
        with belonging(
            moved_on(made, view.asked), of_many(made), key="embedding", run=view.start, run_label="Draw the new map"
        ):
            view.result(made)
    else:
        st.info("No map yet. Choose how many pairs, and press Draw the map.", icon="ℹ️")
warm_up.projection()
