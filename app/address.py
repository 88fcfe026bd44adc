"""The address: it always says what is on the page, and opening it brings that back.

It holds the experiment as the widgets stand, how the lab is shown, and whatever the page on show declares as its own
(`Page.query`, `Page.read_query`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import streamlit as st

from app import flow, state, subject
from app.components.common.guard import guard, plain
from app.registry import PAGES
from cmai_core.lab.experiment import FOREIGN, Experiment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.page import Page
    from cmai_core.lab.result import LabResult

VIEW = "view"
PROJECTOR = "projector"
LAB = "attack_lab"


def read(page: Page) -> None:
    """Set the session to what the address says, once: before any widget is drawn."""
    if state.get(state.LINK_READ):
        return
    state.put(state.LINK_READ, True)
    query = st.query_params.to_dict()
    state.put(state.VIEW, PROJECTOR if query.get(VIEW) == PROJECTOR else "")
    found = Experiment.from_query(query)
    own = () if page.query is None else page.query().keys()
    unknown = Experiment.unknown_in(query, {VIEW, *own, *page.reads}) if found else ()
    if found is None:
        subject.begin()
    else:
        flow.open_experiment(found, run=page.name == LAB)
    if page.read_query is not None:
        page.read_query(query)
    if unknown:
        words = ", ".join(f"“{name}”" for name in unknown)
        st.info(f"The link also speaks of {plain(words)}, which the lab does not know: left out.", icon="ℹ️")


def query(page: Page) -> dict[str, str]:
    """Return what the address holds for a page, as the session stands."""
    found = subject.described().to_query()
    if page.query is not None:
        found |= {name: value for name, value in page.query().items() if value}
    if state.get(state.VIEW):
        found[VIEW] = state.get(state.VIEW)
    return found


def write(page: Page) -> None:
    """Bring the address up to date. Called at the end of each whole run."""
    with guard():
        now = st.query_params.to_dict()
        kept = {name: value for name, value in now.items() if name in FOREIGN}
        wanted = query(page) | kept
        if wanted != now:
            st.query_params.from_dict(wanted)


def link(page: Page | None = None, found: Mapping[str, str] | None = None) -> str:
    """Return the whole address of a page as it stands (None: the lab's), or with another query."""
    page = PAGES.find(LAB) if page is None else page
    root = str(st.context.url or "").split("?")[0].rstrip("/")
    for name in PAGES:
        root = root.removesuffix(f"/{name}")
    place = "" if page.name == next(iter(PAGES)) else f"/{page.name}"
    return f"{root}{place}?{urlencode(query(page) if found is None else dict(found))}"


def link_of(result: LabResult) -> str:
    """Return the address that brings back a result."""
    with guard():
        return link(found=result.experiment.to_query())
    return ""
