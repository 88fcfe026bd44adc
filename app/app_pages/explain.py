"""Attention & attribution: where both models look, clean and attacked, why, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.common.stale import belongs_to
from app.components.explain.form import Request, form, moved_on, request
from app.components.explain.result import result
from app.needs import ATTACKED_PAIR
from app.page import JobPage

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation


def empty() -> None:
    """Say that there is no explanation yet."""
    st.info("Nothing explained yet. Press Explain.", icon="ℹ️")


def work(wanted: Request, models: Mapping[str, Any], progress: Any, cancel: Any) -> LabExplanation:
    """Explain a result; runs in the worker thread."""
    from cmai_core.lab.explanation import explain_result

    return explain_result(
        wanted.result, models, methods=wanted.methods, steps=wanted.steps, progress=progress, cancel=cancel
    )


PAGE = JobPage(
    name="attention",
    title="Attention & attribution",
    icon=":material/visibility:",
    heading="Where do the models look, and why?",
    lead="Maps of the pair attacked last, clean and adversarial, for both models on one colour scale. Beside every "
    "map stand the numbers that say how far to trust it.",
    needs=(ATTACKED_PAIR,),
    button="Explain",
    again="Explain the new one",
    noun="explanation",
    form=form,
    request=request,
    models=lambda wanted: {role: prediction.spec for role, prediction in wanted.result.predictions.items()},
    work=work,
    view=result,
    empty=empty,
    said=lambda made: belongs_to(made.experiment),
    moved_on=moved_on,
)
