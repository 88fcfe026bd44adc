"""The chosen pair: its picture, its sentence, and the ways to another one."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.common.guard import guard, plain
from app.components.common.theme import escape, show
from app.components.frame.browse import browse_dialog
from app.components.frame.compose import compose_dialog
from app.components.frame.truth_line import truth_line
from app.components.frame.upload import upload_dialog
from app.services.caption_limits import limit_note
from app.services.pairs import chosen_thumbnail, truth_note
from app.subject import chosen_models
from cmai_core.data.plain import plain_line
from cmai_core.errors import CmaiError
from cmai_core.lab.experiment import MAX_CAPTION

THUMBNAIL = 44
"""Side of the picture in the bar, in pixels."""


def picture(side: int = THUMBNAIL) -> None:
    """Draw the chosen picture, small."""
    url, source = _thumbnail()
    if url:
        words = f"The chosen picture, {source}"
        body = f'<img class="cm-thumb" src="{url}" alt="{escape(words)}" width="{side}" height="{side}">'
    else:
        body = '<span class="cm-small cm-muted">no picture yet</span>'
    st.html(f'<div class="cm">{body}</div>', width="content")


def caption_field() -> None:
    """Draw the sentence's field, and in a word whether it is true."""
    st.text_input(
        "Sentence", key=state.CAPTION, max_chars=MAX_CAPTION, on_change=_clean_caption, label_visibility="collapsed",
        placeholder="What does the picture show?", icon=_truth_icon(),
    )  # fmt: skip


def pair_panel() -> None:
    """Draw the picture, what is known of the sentence, and the buttons of the three dialogs."""
    with guard():
        url, source = _thumbnail()
        if url:
            show(f'<img src="{url}" alt="The chosen picture" style="width:160px;border-radius:6px;display:block">')
        st.caption(source or "No picture is chosen yet.")
    with guard():
        _sentence_notes()
    row = st.container(horizontal=True, gap="small")
    if row.button("Browse", key="open_browse", icon=":material/photo_library:"):
        browse_dialog()
    if row.button("Upload", key="open_upload", icon=":material/upload:"):
        upload_dialog()
    if row.button("Compose", key="open_compose", icon=":material/category:"):
        compose_dialog()


def _thumbnail() -> tuple[str, str]:
    return chosen_thumbnail(state.get(state.PAIR), state.get(state.UPLOAD), state.get(state.SCENE))


def _truth() -> tuple[bool | None, str] | None:
    """Return whether the sentence is true, and a sentence about that; None where nobody can say."""
    caption = plain_line(state.get(state.CAPTION))
    if not state.get(state.PAIR) or not caption.strip():
        return None
    try:
        return truth_note(state.get(state.PAIR), caption, state.get(state.SCENE))
    except CmaiError:  # the picture's own error is shown beside it
        return None


def _truth_icon() -> str | None:
    found = _truth()
    icons = {True: ":material/check_circle:", False: ":material/cancel:", None: ":material/help:"}
    return None if found is None else icons[found[0]]


def _sentence_notes() -> None:
    """Say whether the sentence is true, and what of it the models will not read."""
    note = _truth()
    if note:
        truth_line(*note)
    cut = limit_note(tuple(chosen_models().values()), plain_line(state.get(state.CAPTION)))
    if cut:
        st.caption(f":material/content_cut: {plain(cut)}")


def _clean_caption() -> None:
    """Make what was typed one line of visible text in the field, too, so that what is read is what is run."""
    typed = state.get(state.CAPTION)
    if plain_line(typed) != typed:
        state.put_caption(typed)
