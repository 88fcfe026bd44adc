"""From one page of the lab to another, for certain.

What refreshes itself on a page (the status chip, a running job) names in each of its requests the page that the browser
knows. Such a request, sent while the server was switching pages, names the old page, and Streamlit goes back to it or
shows nothing but the chip. So where a visitor is going is written down until the page is reached, and where the visitor
is, until the next page.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app import state

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = "attack_lab"
"""The page that has no path of its own in the address."""
TRIES = 5
"""How often a visitor who ended up elsewhere is sent on."""


def go(page: str, query: Mapping[str, Any] | None = None) -> None:
    """Switches to a page (a file name of app_pages without its ending), with this query in the address."""
    given = None if query is None else dict(query)
    state.put(state.GOING, (page, given, TRIES))
    _switch(page, given)


def arrived(page: Any) -> None:
    """Called in each run of the whole script with what `st.navigation` gave: goes on to where the visitor was going."""
    going, reached = state.get(state.GOING), page.url_path or DEFAULT
    if going is not None and going[0] != reached and going[2] > 0:
        state.put(state.GOING, (*going[:2], going[2] - 1))
        _switch(*going[:2])
    state.put(state.GOING, None)
    state.put(state.SHOWN, (_hash(), reached))


def hold() -> None:
    """Called in each refreshing of the chip: where that names another page than the one on show, the latter is shown
    again, with its query."""
    shown = state.get(state.SHOWN)
    if shown is not None and _hash() not in (None, shown[0]):
        query = state.get(state.LINK)
        if query:
            state.put(state.LINK_READ, False)
        _switch(shown[1], query)


def _hash() -> str | None:
    context = get_script_run_ctx()
    return None if context is None else context.page_script_hash


def _switch(page: str, query: Mapping[str, Any] | None) -> None:
    st.switch_page(str(Path("app_pages") / f"{page}.py"), query_params=query)
