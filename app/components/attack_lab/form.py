"""The settings of an attack. All is validated again when it is submitted."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import state
from app.components.attack_lab.parts import needs_task
from app.components.common.fields import number_field
from app.components.common.words import TASK_WORDS
from app.subject import chosen_models
from cmai_core.lab.choices import SEARCHES, free_step
from cmai_core.lab.experiment import EACH
from cmai_core.tasks import TASKS


def who_is_attacked() -> None:
    """Draw the task that is attacked, where there is one, and the model that the attack is crafted on."""
    if needs_task() and not state.get(state.TARGET):  # a target says itself which task it belongs to
        st.selectbox("Attacked task", list(TASKS), key=state.TASK, format_func=TASK_WORDS.get)
    st.radio(
        "Craft on",
        [*chosen_models(), EACH],
        key=state.CRAFT_ON,
        horizontal=True,
        format_func=lambda place: "each (white box each)" if place == EACH else place,
        help="The other models are shown the same picture, and their results are labelled as transferred.",
    )


def search_fields() -> None:
    """Draw the numbers of the chosen search, two in a row."""
    search = SEARCHES[state.get(state.RECIPE)]
    fields: list[tuple[str, str, dict[str, Any]]] = []
    if search.counts == "steps":
        fields.append(("Steps", state.STEPS, {"low": search.least, "step": 5}))
    if search.counts == "queries":
        fields.append(("Queries", state.QUERIES, {"step": 100}))
    if free_step(search, state.get(state.NORM)):
        fields.append(("Step size (k/255)", state.STEP_SIZE, {"step": 0.25}))
    if search.restarts:
        fields.append(("Restarts", state.RESTARTS, {}))
    fields.append(("Seed", state.SEED, {}))
    if state.get(state.OBJECTIVE) == "both":
        fields.append(("α (task loss)", state.ALPHA, {"step": 0.5}))
        fields.append(("β (S_c)", state.BETA, {"step": 0.5}))
    for first in range(0, len(fields), 2):
        for place, (label, key, options) in zip(st.columns(2), fields[first : first + 2], strict=False):
            number_field(place, label, key, **options)
