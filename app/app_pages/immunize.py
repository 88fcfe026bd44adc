"""Immunize: how the cure works, part by part."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app import state
from app.components.common.guard import guard, show_notice
from app.components.immunize import answering, inner
from app.components.immunize.arm import controller_view
from app.components.immunize.published import comparison_view, policies_view
from app.needs import MODEL
from app.page import JobPage, Page
from app.services import warm_up

PART = "immunize_part"
PARTS = {
    "inner": "MBAT’s inner loop",
    "answering": "Verified answering",
    "controller": "ARM’s controller",
    "comparison": "Ablation and comparison",
    "policies": "Policies",
}

INNER = JobPage(
    name="immunize_inner",
    title="Inner loop",
    icon=":material/vaccines:",
    needs=(MODEL,),
    button="Run the loop",
    again="Run the new one",
    noun="inner loop",
    form=inner.form,
    request=inner.request,
    models=lambda wanted: {wanted.role: wanted.spec},
    work=inner.work,
    view=inner.view,
    empty=inner.empty,
    said=inner.said,
    moved_on=inner.moved_on,
)
ANSWERING = JobPage(
    name="immunize_answering",
    title="Verified answering",
    icon=":material/vaccines:",
    needs=(MODEL,),
    button="Attack and answer",
    again="Answer the new one",
    noun="answering",
    form=answering.form,
    request=answering.request,
    models=lambda wanted: {wanted.role: wanted.spec},
    work=answering.work,
    view=answering.view,
    empty=answering.empty,
    said=answering.said,
    moved_on=answering.moved_on,
)


def body() -> None:
    """Draw the choice of a part, and the part."""
    state.ensure(PART, "inner")
    if state.get(PART) not in PARTS:
        state.put(PART, "inner")
    st.segmented_control(
        "Part", list(PARTS), key=PART, format_func=PARTS.get, required=True, label_visibility="collapsed"
    )
    warm_up.results()
    part = state.get(PART)
    if part in ("inner", "answering"):
        (INNER if part == "inner" else ANSWERING).draw()
        return
    show_notice()
    with guard():
        {"controller": controller_view, "comparison": comparison_view, "policies": policies_view}[part]()


def query() -> dict[str, str]:
    """Return the part on show, and the numbers of its form where they are not the usual ones."""
    part = st.session_state.get(PART, "")
    terms = {"inner": inner.query, "answering": answering.query}.get(part)
    return {"part": part, "terms": "" if terms is None else terms()}


def read_query(found: Mapping[str, str]) -> None:
    """Take part and numbers from an address; what is none is left out."""
    part = found.get("part")
    if part in PARTS:
        state.put(PART, part)
    if found.get("terms") and part in ("inner", "answering"):
        (inner if part == "inner" else answering).read_query(found["terms"])


PAGE = Page(
    name="immunize",
    title="Immunize",
    icon=":material/vaccines:",
    heading="How does the cure work?",
    lead="Training against its own worst perturbations, verifying before answering, and a controller that says how "
    "much is enough: each part as it runs, as it was recorded, and as it was measured.",
    body=body,
    query=query,
    read_query=read_query,
)
