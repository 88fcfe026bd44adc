"""The pages in the navigation, and the way from one to another, for certain.

What refreshes itself on a page (the status bar, a running job) names in each of its requests the page that the browser
knows. Such a request, sent while the server was switching pages, names the old page, and Streamlit goes back to it or
shows nothing but the status bar. So where a visitor is going is written down until the page is reached, and where the
visitor is, until the next page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app import state
from app.registry import PAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamlit.navigation.page import StreamlitPage

    from app.page import Page

TRIES = 5
"""How often a visitor who ended up elsewhere is sent on."""


def listed() -> dict[str, StreamlitPage]:
    """Return name → page as `st.navigation` takes it, in order."""
    first = next(iter(PAGES))
    return {
        name: st.Page(page.draw, title=page.title, icon=page.icon, url_path=name, default=name == first)
        for name, page in PAGES.items()
    }


def go(page: str, query: Mapping[str, Any] | None = None) -> None:
    """Switch to the page of this name, with this query in the address."""
    given = None if query is None else dict(query)
    state.put(state.GOING, (page, given, TRIES))
    _switch(page, given)


def head_for(page: str) -> None:
    """Have the next run switch to a page, unless it is on show. For callbacks, which cannot switch themselves."""
    if state.get(state.SHOWN)[1] != page:
        state.put(state.GOING, (page, None, TRIES))


def arrived(page: StreamlitPage) -> None:
    """Note the page that `st.navigation` returned, or switch to the one that the visitor was going to.

    Called in each run of the whole script.
    """
    going, reached = state.get(state.GOING), page.url_path or next(iter(PAGES))
    if going is not None and going[0] != reached and going[2] > 0:
        state.put(state.GOING, (*going[:2], going[2] - 1))
        _switch(*going[:2])
    state.put(state.GOING, None)
    state.put(state.SHOWN, (_hash(), reached))


def shown() -> Page:
    """Return the page on show."""
    return PAGES.find(state.get(state.SHOWN)[1])


def hold() -> None:
    """Show the visitor's page again, with its query, if the status bar's request names another one.

    Called in each refresh of the status bar.
    """
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
    st.switch_page(listed()[page], query_params=query)
