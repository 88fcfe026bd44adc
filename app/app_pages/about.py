"""Models & about: cards of the bundled models and of the dataset, and how to use a model of one's own."""

import streamlit as st

from app import services
from app.components import about_view as view
from app.components.guard import guard
from app.components.models_choice import page_head

page_head(
    "Models, data and how to bring your own", "What is bundled, what it was trained on, and what its numbers are."
)
models, own, data, words = st.tabs(["Bundled models", "Your own model", "Data", "Words"], key="about_tabs")
with models, guard():
    view.bundled(services.catalogue())
with own:
    view.own_model()
with data, guard():
    view.data()
with words:
    view.words()
