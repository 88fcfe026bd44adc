"""The chosen pair, its caption, and the ways to another one."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.attack_lab.browse import browse_dialog
from app.components.attack_lab.compose import compose_dialog
from app.components.attack_lab.truth_line import truth_line
from app.components.attack_lab.upload import upload_dialog
from app.components.common.guard import guard, plain
from app.components.common.theme import show
from app.services.caption_limits import limit_note
from app.services.pairs import chosen_thumbnail, truth_note
from app.subject import chosen_models
from cmai_core.data.plain import plain_line
from cmai_core.errors import CmaiError
from cmai_core.lab.experiment import MAX_CAPTION


def pair_panel() -> None:
    """Draw picture, caption, and the buttons of the three dialogs."""
    show('<div class="cm-step">1 · Pair</div>')
    picture, words = st.columns([1, 2], gap="small", vertical_alignment="top", wrap=False)
    with picture:
        _picture()
    with words:
        _caption()
    row = st.container(horizontal=True, gap="small")
    if row.button("Browse", key="open_browse", icon=":material/photo_library:"):
        browse_dialog()
    if row.button("Upload", key="open_upload", icon=":material/upload:"):
        upload_dialog()
    if row.button("Compose", key="open_compose", icon=":material/category:"):
        compose_dialog()


def _picture() -> None:
    with guard():
        url, source = chosen_thumbnail(state.get(state.PAIR), state.get(state.UPLOAD), state.get(state.SCENE))
        if url:
            show(f'<img src="{url}" alt="The chosen picture" style="width:100%;border-radius:6px;display:block">')
        else:
            show('<div class="cm-card cm-small cm-muted">no picture yet</div>')
        st.caption(source)


def _caption() -> None:
    """Draw the caption's field, whether it is true, and what of it the models will not read."""
    st.text_area(
        "Sentence",
        key=state.CAPTION,
        max_chars=MAX_CAPTION,
        height=92,
        on_change=_clean_caption,
        help="Edit it freely. For rendered scenes its truth is checked against the scene.",
    )
    caption = plain_line(state.get(state.CAPTION))
    if state.get(state.PAIR) and caption.strip():
        try:
            note = truth_note(state.get(state.PAIR), caption, state.get(state.SCENE))
        except CmaiError:  # the picture's own error is shown above
            note = None
        if note:
            truth_line(*note)
    with guard():
        cut = limit_note(tuple(chosen_models().values()), caption)
        if cut:
            st.caption(f":material/content_cut: {plain(cut)}")


def _clean_caption() -> None:
    """Make what was typed one line of visible text in the field, too, so that what is read is what is run."""
    typed = state.get(state.CAPTION)
    if plain_line(typed) != typed:
        state.put_caption(typed)
