"""Choosing a pair: three dialogs (browse, upload, compose) and the panel that shows what is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app import services, state
from app.components.attack_form import chosen_specs
from app.components.gallery import gallery
from app.components.guard import guard, plain
from app.components.theme import escape, show
from app.sentence_limits import limit_note
from app.uploads import taken
from cmai_core.data.plain import plain_line
from cmai_core.data.registry import COMPOSED
from cmai_core.errors import CmaiError
from cmai_core.lab.experiment import MAX_CAPTION
from cmai_core.lab.judgement import judge
from cmai_core.lab.places import shown_places

if TYPE_CHECKING:
    from cmai_core.data.composer import Choice
    from cmai_core.data.truth import Scene

PAGE_SIZE = 24


def choose(pair_id: str, caption: str) -> None:
    """Makes a pair the chosen one. The caption's widget is set before it is drawn again."""
    state.put(state.PAIR, pair_id)
    state.put_caption(caption)


@st.dialog("Browse examples", width="large", icon=":material/photo_library:")
def browse_dialog() -> None:
    browse_body()


def browse_body() -> None:
    """Search and thumbnails of the collections; a click chooses and closes."""
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
            found = services.search(name, plain_line(query))
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
        ids = services.ids_of(name)
        items = [
            {"id": ids[index], "src": services.thumbnail_url(name, index), "title": caption} for index, caption in shown
        ]
        with slot:
            picked = gallery(items, key="browse_gallery", selected=state.get(state.PAIR))
        if picked:
            choose(picked, next(item["title"] for item in items if item["id"] == picked))
            st.rerun()


@st.dialog("Use your own picture", width="medium", icon=":material/upload:")
def upload_dialog() -> None:
    upload_body()


def upload_body() -> None:
    """A picture of one's own and its sentence."""
    with guard():
        st.caption(
            "PNG, JPEG or WebP, up to 16 megapixels and 10 MB. It is decoded once, its metadata is dropped, a side "
            "longer than 1024 pixels is shrunk to that, and it stays in this session."
        )
        file = st.file_uploader("Picture", type=["png", "jpg", "jpeg", "webp"], key=state.UPLOAD_FILE)
        if file is None:
            return
        upload = taken(file)
        show(f'<img src="{upload.view}" alt="Your picture" style="max-width:100%;border-radius:6px;display:block">')
        st.caption(f"{upload.width}×{upload.height}")
        caption = st.text_input(
            "Sentence: what does it show?",
            key="upload_caption",
            max_chars=MAX_CAPTION,
            placeholder="two cats on a sofa",
        )
        if st.button("Use this picture", type="primary", key="upload_use", disabled=not plain_line(caption)):
            state.put(state.UPLOAD, upload)
            choose(f"upload/{upload.sha}", caption)
            st.rerun()


@st.dialog("Compose a scene", width="large", icon=":material/category:")
def compose_dialog() -> None:
    compose_body()


def compose_body() -> None:
    """A scene from a few choices, rendered as they change, with sentences known to be true of it."""
    composer = services.composer()
    if composer is None:
        st.info("No dataset here makes scenes to order.", icon="ℹ️")
        return
    with guard():
        controls, view = st.columns([3, 2], gap="large")
        with controls:
            counts = list(range(1, composer.most + 1))
            count = st.segmented_control(
                "Objects", counts, default=composer.first, key=state.COMPOSE_COUNT, required=True
            )
            objects = []
            for k in range(count or 1):
                with st.container(border=True):
                    objects.append(_choices(composer.object_choices(k), f"{state.COMPOSE}_{k}", 3))
            with st.container(border=True):
                st.markdown("**Light, camera, table**")
                chosen = _choices(composer.scene_choices(), state.COMPOSE, 4)
        with view, guard():
            scene, note = composer.compose(objects, chosen)
            _composed_view(scene, composer.note, note)


def _choices(offered: Sequence[Choice], key: str, columns: int) -> dict[str, str]:
    """The widgets of some choices, so many in a row; what is chosen, by name."""
    chosen = {}
    for start in range(0, len(offered), columns):
        row = offered[start : start + columns]
        for column, one in zip(st.columns(len(row)), row, strict=True):
            where = f"{key}_{one.name}"
            if one.ordered:
                chosen[one.name] = column.select_slider(one.title, list(one.values), value=one.default, key=where)
            else:
                usual = one.values.index(one.default)
                chosen[one.name] = column.selectbox(one.title, one.values, index=usual, key=where)
    return chosen


def _composed_view(scene: Scene, *notes: str) -> None:
    """The scene, a sentence about it, and the button that takes both."""
    pair = services.composed(scene.to_json())
    show(
        f'<img src="{services.preview_url(scene.to_json())}" alt="The composed scene: {escape(pair.captions[0])}" '
        'style="width:100%;border-radius:8px;display:block">'
    )
    for note in filter(None, notes):
        st.caption(note)
    caption = st.selectbox(
        "A true sentence about it", [*pair.captions, _OWN], key=f"{state.COMPOSE}_suggestion_{pair.id}"
    )
    if caption == _OWN:
        caption = plain_line(st.text_input("Your sentence", key=state.COMPOSE_CAPTION, max_chars=MAX_CAPTION))
    _truth_line(*judge(caption, scene))
    if st.button("Use this scene", type="primary", key="compose_use", disabled=not caption.strip(), width="stretch"):
        state.put(state.SCENE, scene.to_json())
        choose(COMPOSED, caption)
        st.rerun()


_OWN = "Write my own …"


def _truth_line(truth: bool | None, words: str) -> None:
    sign = {True: "✓", False: "✗", None: "·"}[truth]
    show(f'<div class="cm-small" role="status">{sign} {escape(words)}</div>')


@st.dialog("How to read this", width="medium", icon=":material/help:")
def help_dialog() -> None:
    st.markdown(
        """
**S_c, the consistency score**, is the cosine between what a model makes of the picture and what it makes of the
sentence: 1 means the same direction, 0 nothing in common. It is measured on the picture as an 8-bit file would hold
it.

**● clean → ◆ adversarial.** The attack changes every pixel by at most ε and looks for the change that hurts most. ε
is counted in steps of 1/255, the smallest step an 8-bit picture knows: at 4/255 almost nobody sees it.

**▲ undefended, ■ defended.** Two models look at the same picture. The one the attack was crafted on faces a
*white-box* attack; for the other it is *transferred*, which is easier to withstand. Craft on each to compare like
with like.

**τ, the threshold**, is set so that 5 in 100 clean pairs lie below it. A pair below it is flagged: picture and
sentence no longer agree. A pair can fool a model and stay above τ; then there is no alarm.

**Verification** says of each pair whether sentence and picture belong together, and which words and patches do not. A
pair can be sent to **Review**, where a person judges it.

**✓ and ✗** compare an answer with the truth. For rendered scenes the truth is known from the scene itself, also for
sentences you type; for photographs it is known from the pairing only.
"""
    )


def _clean_sentence() -> None:
    """What was typed becomes one line of visible text in the field, too, so that what is read is what is run."""
    typed = state.get(state.CAPTION)
    if plain_line(typed) != typed:
        state.put_caption(typed)


def pair_panel() -> None:
    """The chosen pair, its sentence, and the three ways to another one."""
    show('<div class="cm-step">1 · Pair</div>')
    pair_id = state.get(state.PAIR)
    picture, words = st.columns([1, 2], gap="small", vertical_alignment="top", wrap=False)
    with guard():
        url, source = services.chosen_thumbnail(pair_id, state.get(state.UPLOAD), state.get(state.SCENE))
        with picture:
            if url:
                show(f'<img src="{url}" alt="The chosen picture" style="width:100%;border-radius:6px;display:block">')
            else:
                show('<div class="cm-card cm-small cm-muted">no picture yet</div>')
            st.caption(source)
    with words:
        st.text_area(
            "Sentence",
            key=state.CAPTION,
            max_chars=MAX_CAPTION,
            height=92,
            on_change=_clean_sentence,
            help="Edit it freely. For rendered scenes its truth is checked against the scene.",
        )
        if pair_id and state.get(state.CAPTION).strip():
            try:
                note = services.truth_note(pair_id, plain_line(state.get(state.CAPTION)), state.get(state.SCENE))
            except CmaiError:
                note = None
            if note:
                _truth_line(*note)
        with guard():
            cut = limit_note(chosen_specs(), plain_line(state.get(state.CAPTION)))
            if cut:
                st.caption(f":material/content_cut: {plain(cut)}")
    row = st.container(horizontal=True, gap="small")
    if row.button("Browse", key="open_browse", icon=":material/photo_library:"):
        browse_dialog()
    if row.button("Upload", key="open_upload", icon=":material/upload:"):
        upload_dialog()
    if row.button("Compose", key="open_compose", icon=":material/category:"):
        compose_dialog()
