"""Models & about: cards of the bundled models and of the dataset, and how to use a model of one's own."""

from __future__ import annotations

import streamlit as st

from app.components.about import guides
from app.components.about.cards import bundled
from app.components.common.guard import guard
from app.page import Page
from app.services.models import catalogue


def body() -> None:
    """Draw the four tabs."""
    models, own, data, words = st.tabs(["Bundled models", "Your own model", "Data", "Words"], key="about_tabs")
    with models, guard():
        bundled(catalogue())
    with own:
        guides.own_model()
    with data, guard():
        guides.data()
    with words:
        guides.words()


PAGE = Page(
    name="about",
    title="Models & about",
    icon=":material/info:",
    heading="Models, data and how to bring your own",
    lead="What is bundled, what it was trained on, and what its numbers are.",
    body=body,
)
