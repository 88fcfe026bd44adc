"""Explain: where the models look and why, clean and attacked, and what carries the attack to the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.stale import belongs_to
from app.components.explain.form import form, moved_on, request
from app.components.explain.result import VIEW, VIEWS, bundled, result
from app.needs import ANY_PAIR
from app.page import JobPage
from app.services.explanations import Request, explain

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation


def _models(wanted: Request) -> dict[str, str]:
    if wanted.result is None:
        return dict(wanted.experiment.models)
    return {role: prediction.spec for role, prediction in wanted.result.predictions.items()}


def _said(made: LabExplanation) -> str:
    return belongs_to(made.experiment) if made.attack else f"“{made.caption}”, not attacked"


def _query() -> dict[str, str]:
    view = st.session_state.get(VIEW)
    return {"show": VIEWS[view]} if view in VIEWS and view != next(iter(VIEWS)) else {}


def _read_query(query: Mapping[str, str]) -> None:
    for view, name in VIEWS.items():
        if query.get("show") == name:
            st.session_state[VIEW] = view


PAGE = JobPage(
    name="explain",
    title="Explain",
    icon=":material/visibility:",
    heading="Where do the models look, and why?",
    lead="Heat maps of a pair with numbers that say how far to trust them, the words behind the patches, and a causal "
    "trace: which states of a model carry the attack to its answer.",
    needs=(ANY_PAIR,),
    button="Explain",
    again="Explain the new one",
    noun="explanation",
    form=form,
    request=request,
    models=_models,
    work=explain,
    view=result,
    empty=bundled,
    said=_said,
    moved_on=moved_on,
    query=_query,
    read_query=_read_query,
    reads=("show",),
)
