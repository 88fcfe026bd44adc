"""The workbench: everything of a run, brushed together."""

from __future__ import annotations

import streamlit as st

from app.access import permissions
from app.components.common.guard import guard
from app.components.explore import embedding, filters, pairs, predict, scores, slices
from app.components.explore.form import SETS
from app.components.explore.view import begin, current
from cmai_core.lab.belonging import in_force
from cmai_core.lab.explore.run import ExploreRun
from cmai_core.tasks import DEFAULT_TASK


def bench(run: ExploreRun) -> None:
    """Draw a run: the filter, scores, map and detection side by side, then pairs and what predicts success."""
    begin(run)
    with st.container(border=True, key="card_explore_filter"):
        filters.choices(run)
        view = current(run)
        filters.chips(view)
    with guard():
        scores.finding(view)
    left, middle, right = st.columns([1, 1.55, 1], gap="medium")
    with left, guard():
        scores.histograms(view)
        view = current(run)  # the sliders have just been drawn
    with middle, guard():
        embedding.embedding_map(view)
    with right, guard():
        scores.detection(view)
        slices.actions(view)
    gallery = st.container()
    beside, ranking = st.columns([1, 1.55], gap="medium")
    with ranking, guard():
        predict.predictors(view)
    st.caption(about(run))
    with guard():  # last: pictures may take a moment
        pairs.pairs(view, gallery, beside)


def run_words(run: ExploreRun) -> str:
    """Return what a run is of, as a sentence without a full stop."""
    parts = in_force(run.experiment)
    names = " and ".join(f"{role} {permissions.display_name(part.spec)}" for role, part in run.parts.items())
    levels = ", ".join(filters.epsilon_words(run, level) for level in range(len(run.epsilons)))
    attack = f"{parts['search'][1]}, {parts['threat model'][1]}, ε = {levels}"
    return f"{len(run):,} pairs of {SETS.get(run.place, run.place)}, {attack}, on {names}"


def about(run: ExploreRun) -> str:
    """Return how a run was made."""
    e = run.experiment
    gallery = f" among the captions of all {len(run):,} pairs" if e.task == DEFAULT_TASK else ""
    return (
        f"{run_words(run)}: a white box on each model, {e.steps} steps, objective {in_force(e)['objective'][1]}, seed "
        f"{e.seed}; asked for {e.task}{gallery}. The lab asks about one pair among fewer, so single answers can differ."
    )
