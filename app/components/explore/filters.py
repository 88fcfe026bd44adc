"""The filter: words, attributes and outcomes as widgets, brushes as chips; and what of the run is left."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import streamlit as st

from app import state
from app.components.common.theme import ROLES
from app.components.explore.view import (
    EPSILON,
    ROLE,
    WHERE,
    WORDS,
    View,
    facet_key,
    level_of,
    outcome_key,
    put,
    role_of,
)
from cmai_core.budget import Budget
from cmai_core.lab.explore.attributes import values_of
from cmai_core.lab.explore.run import OUTCOMES, ExploreRun
from cmai_core.lab.explore.where import MOST_WORDS, Where

OUTCOME_WORDS = {"held": "held", "fooled": "fooled", "wrong": "wrong when clean", "open": "not known"}


def choices(run: ExploreRun) -> None:
    """Draw the choice of ε and of the model in focus, the words, attributes and outcomes."""
    state.put(EPSILON, level_of(run))
    state.put(ROLE, role_of(run))
    row = st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="explore_filters")
    levels = list(range(len(run.epsilons)))
    row.segmented_control("ε", levels, key=EPSILON, required=True, format_func=lambda k: epsilon_words(run, k))
    row.segmented_control(
        "In focus", list(run.parts), key=ROLE, required=True,
        format_func=lambda role: f"{ROLES[role].mark} {role}", help="The model of the map, the order and the ranking.",
    )  # fmt: skip
    row.text_input("Words", key=WORDS, max_chars=MOST_WORDS, placeholder="red cube", width=170)
    for role in run.parts:
        row.multiselect(
            f"{ROLES[role].mark} {role}", OUTCOMES, key=outcome_key(role), placeholder="any outcome",
            format_func=OUTCOME_WORDS.get, width=190,
        )  # fmt: skip
    with row.popover("Attributes", icon=":material/filter_alt:"):
        for name, column in run.attributes.items():
            counts = values_of(column)
            st.multiselect(
                name.capitalize(), list(counts), key=facet_key(run, name), placeholder="any",
                format_func=lambda value, counts=counts: f"{value} ({counts[value]})",
            )  # fmt: skip


def chips(view: View) -> None:
    """Draw how much is left, and each part of the filter as a button that takes it away."""
    run = view.run
    if not view.where:
        return
    row = st.container(horizontal=True, gap="small", vertical_alignment="center", key="explore_chips")
    row.markdown(f"**{view.count:,} of {len(run):,} pairs**", width="content")
    for number, (words, without) in enumerate(parts(view.where, run)):
        row.button(
            words, key=f"explore_chip_{number}", icon=":material/close:", on_click=partial(put, run, without),
            help="Take this part of the filter away.",
        )  # fmt: skip
    row.button("Show all", key="explore_all", type="tertiary", on_click=partial(put, run, Where()))


def parts(where: Where, run: ExploreRun) -> list[tuple[str, Where]]:
    """Return each part of a filter in words, with the filter that is left without it."""
    found = [(f"“{where.words}”", replace(where, words=""))] if where.words else []
    for name, values in where.facets.items():
        rest = {n: v for n, v in where.facets.items() if n != name}
        found.append((f"{name}: {' or '.join(values)}", replace(where, facets=rest)))
    for role, values in where.outcomes.items():
        rest = {r: v for r, v in where.outcomes.items() if r != role}
        words = " or ".join(OUTCOME_WORDS[value] for value in values)
        found.append((f"{role} {words}", replace(where, outcomes=rest)))
    for place, (low, high) in where.ranges.items():
        ranges = {p: ends for p, ends in where.ranges.items() if p != place}
        side = "clean" if place[1] == "clean" else "attacked"
        found.append((f"{place[0]} S_c {side} {low:.3f} to {high:.3f}", replace(where, ranges=ranges)))
    if where.rows is not None:
        found.append((f"picked on the map: {len(where.rows)}", replace(where, rows=None)))
    return found


def epsilon_words(run: ExploreRun, level: int) -> str:
    """Return an ε of a run as people read it."""
    return Budget(run.experiment.norm, run.epsilons[level]).words


def add_facet(run: ExploreRun, name: str, value: str) -> None:
    """Narrow the filter to an attribute's value."""
    where: Where = state.get(WHERE)
    put(run, replace(where, facets={**where.facets, name: (value,)}))
