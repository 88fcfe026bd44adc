"""The dialog in which a pair of the lab's datasets is chosen."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.common.gallery import gallery
from app.components.common.guard import guard
from app.services.datasets import ids_of, search_captions, thumbnail_url
from app.subject import choose_pair
from cmai_core.data.plain import plain_line
from cmai_core.lab.places import shown_places

PAGE_SIZE = 24


@st.dialog("Browse examples", width="large", icon=":material/photo_library:")
def browse_dialog() -> None:
    """Open the browser of examples."""
    browse_body()


def browse_body() -> None:
    """Draw search and thumbnails of the datasets; a click chooses a pair and closes the dialog."""
    with guard():
        places = shown_places()
        usual = next(iter(places))
        top, find = st.columns([1, 2])
        name = top.segmented_control(
            "Collection", list(places), default=usual, format_func=places.get, key=state.BROWSE_SET, required=True
        )
        name = name if name in places else usual
        query = find.text_input("Search the captions", key=state.BROWSE_QUERY, placeholder="red cube", max_chars=100)
        with st.spinner("Reading the captions …", show_time=False):
            found = search_captions(name, plain_line(query))
        if not found:
            st.info("No caption holds all of these words. Try fewer, for example just a colour.", icon="🔍")
            return
        st.caption(f"{len(found)} picture{'s' if len(found) != 1 else ''}. Choose one.")
        pages = -(-len(found) // PAGE_SIZE)
        page = 1
        slot = st.container()
        if pages > 1:
            page = min(pages, max(1, st.pagination(pages, key=f"{state.BROWSE_PAGE}_{name}_{query}")))
        shown = found[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        ids = ids_of(name)
        items = [{"id": ids[index], "src": thumbnail_url(name, index), "title": caption} for index, caption in shown]
        with slot:
            picked = gallery(items, key="browse_gallery", selected=state.get(state.PAIR))
        if picked:
            choose_pair(picked, next(item["title"] for item in items if item["id"] == picked))
            st.rerun()
