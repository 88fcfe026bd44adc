"""Embedding map: pictures and captions in the shared space, and how far the attack carries the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.common.survey import Survey, SurveyForm, survey_words
from app.components.embedding_map.result import result
from app.needs import MODEL
from app.page import JobPage
from app.services import warm_up

if TYPE_CHECKING:
    from cmai_core.lab.embedding import EmbeddingMap

FORM = SurveyForm("embedding", (16, 32, 64, 128, 200))


def empty() -> None:
    """Say that there is no map yet."""
    st.info("No map yet. Choose how many pairs, and press Draw the map.", icon="ℹ️")


def work(wanted: Survey, models: Mapping[str, Any], progress: Any, cancel: Any) -> EmbeddingMap:
    """Embed and project a split; runs in the worker thread."""
    from cmai_core.lab.embedding import embedding_map

    return embedding_map(
        models, wanted.items(), count=wanted.count, experiment=wanted.experiment, progress=progress, cancel=cancel
    )


PAGE = JobPage(
    name="embedding_map",
    title="Embedding map",
    icon=":material/scatter_plot:",
    heading="How far does an attack carry a picture?",
    lead="Pictures and sentences in a model's shared space, with an arrow from each clean picture to its attacked "
    "self. Click a point to open its pair.",
    needs=(MODEL,),
    button="Draw the map",
    again="Draw the new map",
    noun="map",
    form=FORM.draw,
    request=FORM.request,
    models=lambda wanted: wanted.experiment.models,
    work=work,
    view=result,
    empty=empty,
    said=survey_words,
    moved_on=FORM.moved_on,
    warm_up=warm_up.projection,
)
