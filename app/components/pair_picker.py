"""Choosing a pair: three dialogs (browse, upload, compose) and the panel that shows what is chosen."""

from __future__ import annotations

import streamlit as st

from app import services, state
from app.components.attack_form import chosen_specs
from app.components.gallery import gallery
from app.components.guard import guard, plain
from app.components.theme import escape, show
from app.sentence_limits import limit_note
from app.uploads import taken
from cmai_core.data.plain import plain_line
from cmai_core.errors import CmaiError
from cmai_core.lab.experiment import MAX_CAPTION

PAGE_SIZE = 24
SETS = {"tabletop": "Tabletop scenes", "photos": "Photographs"}


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
        top, find = st.columns([1, 2])
        name = top.segmented_control(
            "Collection", list(SETS), default="tabletop", format_func=SETS.get, key=state.BROWSE_SET, required=True
        )
        name = name if name in SETS else "tabletop"
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
    with guard():
        from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, MAX_OBJECTS, SHAPES, SIZES
        from cmai_core.lab import compose as core

        controls, view = st.columns([3, 2], gap="large")
        with controls:
            count = st.segmented_control(
                "Objects", list(range(1, MAX_OBJECTS + 1)), default=2, key=state.COMPOSE_COUNT, required=True
            )
            choices = []
            for k in range(count or 1):
                with st.container(border=True):
                    choices.append(_object_widgets(k, core, SHAPES, COLOURS, MATERIALS, SIZES))
            with st.container(border=True):
                st.markdown("**Light, camera, table**")
                a, b, c, d = st.columns(4)
                key = state.COMPOSE
                light = a.selectbox("Light from", list(core.LIGHT_FROM), index=3, key=f"{key}_light")
                height = b.selectbox("Light height", list(core.LIGHT_HEIGHT), index=1, key=f"{key}_height")
                tone = c.selectbox("Tone", list(core.LIGHT_TONE), index=1, key=f"{key}_tone")
                camera = d.selectbox("Camera", list(core.CAMERA_HEIGHT), index=1, key=f"{key}_camera")
                tables, backdrops = services.table_names()
                e, f = st.columns(2)
                table = e.selectbox("Table", range(len(tables)), format_func=lambda i: tables[i], key=f"{key}_table")
                back = f.selectbox(
                    "Backdrop", range(len(backdrops)), format_func=lambda i: backdrops[i], key=f"{key}_back"
                )
        with view, guard():
            scene, moved = core.compose(
                choices,
                light_from=light,
                light_height=height,
                light_tone=tone,
                camera_height=camera,
                table=table,
                background=back,
            )
            pair = services.composed(scene.to_json())
            show(
                f'<img src="{services.preview_url(scene.to_json())}" alt="The composed scene: '
                f'{escape(pair.captions[0])}" '
                'style="width:100%;border-radius:8px;display:block">'
            )
            st.caption("Drawn finer than the models see it: they get 128×128 pixels.")
            if moved:
                st.caption("Objects were moved a little, so that none touches, hides or lines up with another.")
            suggestion = st.selectbox(
                "A true sentence about it", [*pair.captions, _OWN], key=f"{key}_suggestion_{pair.id}"
            )
            caption = suggestion
            if suggestion == _OWN:
                caption = plain_line(st.text_input("Your sentence", key=state.COMPOSE_CAPTION, max_chars=MAX_CAPTION))
            truth, words = core.judge(caption, scene)
            _truth_line(truth, words)
            if st.button(
                "Use this scene", type="primary", key="compose_use", disabled=not caption.strip(), width="stretch"
            ):
                state.put(state.SCENE, scene.to_json())
                choose("scene", caption)
                st.rerun()


_OWN = "Write my own …"
_FIRST = (
    ("cube", "red", "matte", "large", "left", "middle"),
    ("sphere", "blue", "shiny", "small", "right", "towards front"),
    ("cone", "yellow", "matte", "small", "far right", "back"),
    ("cylinder", "green", "shiny", "small", "far left", "front"),
)


def _object_widgets(k: int, core, shapes, colours, materials, sizes):
    """Six selections of one object."""
    first = _FIRST[k]
    key = f"{state.COMPOSE}_{k}"
    a, b, c = st.columns(3)
    shape = a.selectbox(f"Object {k + 1}", shapes, index=shapes.index(first[0]), key=f"{key}_shape")
    colour = b.selectbox("Colour", colours, index=colours.index(first[1]), key=f"{key}_colour")
    material = c.selectbox("Material", materials, index=materials.index(first[2]), key=f"{key}_material")
    d, e, f = st.columns(3)
    size = d.selectbox("Size", sizes, index=sizes.index(first[3]), key=f"{key}_size")
    across = e.select_slider("Left – right", list(core.ACROSS), value=first[4], key=f"{key}_across")
    depth = f.select_slider("Front – back", list(core.DEPTH), value=first[5], key=f"{key}_depth")
    return core.ObjectChoice(shape, colour, material, size, across, depth)


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

**✓ and ✗** compare an answer with the truth. For Tabletop scenes the truth is known from the scene itself, also for
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
            help="Edit it freely. For Tabletop scenes its truth is checked against the scene.",
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
