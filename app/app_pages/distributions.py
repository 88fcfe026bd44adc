"""Distributions: S_c over a split, clean and attacked, and what a threshold on it would catch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.common.survey import Survey, SurveyForm, survey_words
from app.components.distributions.result import bundled, result
from app.needs import MODEL
from app.page import JobPage

if TYPE_CHECKING:
    from cmai_core.lab.distribution import ScoreDistribution

FORM = SurveyForm("distribution", (16, 64, 128, 256, 512, 1000), norms=True)


def form() -> None:
    """Draw what to measure."""
    FORM.draw()
    st.caption(
        "The attacker lowers S_c itself, on each model separately (white box): the hardest case for a threshold."
    )


def work(wanted: Survey, models: Mapping[str, Any], progress: Any, cancel: Any) -> ScoreDistribution:
    """Score a split; runs in the worker thread."""
    from cmai_core.lab.distribution import score_distribution

    return score_distribution(
        models, wanted.items(), count=wanted.count, experiment=wanted.experiment, progress=progress, cancel=cancel
    )


PAGE = JobPage(
    name="distributions",
    title="Distributions",
    icon=":material/bar_chart:",
    heading="Where would a threshold on S_c lie?",
    lead="Clean pairs and attacked pairs of a whole split, scored by both models. Move the threshold and read what it "
    "costs.",
    needs=(MODEL,),
    button="Measure",
    again="Measure the new one",
    noun="measurement",
    form=form,
    request=FORM.request,
    models=lambda wanted: wanted.experiment.models,
    work=work,
    view=result,
    empty=bundled,
    said=survey_words,
    moved_on=FORM.moved_on,
)
