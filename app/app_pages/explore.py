"""Explore: a run of an attack over many pairs, to find failures by eye."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state
from app.components.explore import form
from app.components.explore.bench import bench, run_words
from app.components.explore.view import QUERY, RESULT, begin, put, query, read_query
from app.needs import MODEL
from app.page import JobPage
from app.services.explore import bundled
from cmai_core.lab.explore.where import Where

if TYPE_CHECKING:
    from cmai_core.lab.explore.run import ExploreRun


def first() -> None:
    """Draw the bundled run, which stands there until another is made."""
    run = bundled()
    if run is None:
        st.info("No run yet. Choose a split and press Run the attack.", icon="ℹ️")
        return
    bench(run)


def view(made: ExploreRun) -> None:
    """Draw a visitor's run."""
    if len(made) < made.asked:
        st.info(f"Cancelled: {len(made)} of {made.asked} pairs were finished.", icon="⏹️")
    if bundled() is not None:
        st.button("Back to the bundled run", key="explore_back", icon=":material/undo:", on_click=_back)
    bench(made)


def _back() -> None:
    state.put(RESULT, None)
    begin(bundled())
    put(bundled(), Where())


def work(wanted: form.Wanted, models: Mapping[str, Any], progress: Any, cancel: Any) -> ExploreRun:
    """Make a run and its map; runs in the worker thread."""
    from cmai_core.lab.explore.layout import with_maps
    from cmai_core.lab.explore.make import make_run
    from cmai_core.progress import Progress

    run = make_run(
        models, wanted.items(), count=wanted.count, experiment=wanted.experiment, epsilons=wanted.epsilons,
        progress=progress, cancel=cancel,
    )  # fmt: skip
    return with_maps(run, ("umap", "pca"), tell=lambda words: progress(Progress(0, 0, words)))


PAGE = JobPage(
    name="explore",
    title="Explore",
    icon=":material/travel_explore:",
    heading="Find failures by eye",
    lead="Pick bars, points or words of an attack on many pairs; everything else follows, and opens in the lab.",
    needs=(MODEL,),
    button="Run the attack",
    again="Run the new one",
    noun="run",
    folded="Another run: other pairs, ε, models",
    form=form.draw,
    request=form.request,
    models=lambda wanted: wanted.experiment.models,
    work=work,
    view=view,
    empty=first,
    said=run_words,
    moved_on=form.moved_on,
    query=query,
    read_query=read_query,
    reads=QUERY,
)
