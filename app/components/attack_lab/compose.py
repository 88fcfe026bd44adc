"""The dialog in which a scene is composed from a few choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state
from app.components.attack_lab.truth_line import truth_line
from app.components.common.guard import guard
from app.components.common.theme import escape, show
from app.services.pairs import composed, preview_url, table_names
from app.subject import choose_pair
from cmai_core.data.plain import plain_line
from cmai_core.lab.experiment import MAX_CAPTION

if TYPE_CHECKING:
    from cmai_core.data.pair import Pair
    from cmai_core.data.tabletop.scene import Scene
    from cmai_core.lab.compose import ObjectChoice

_OWN = "Write my own …"
_FIRST = (
    ("cube", "red", "matte", "large", "left", "middle"),
    ("sphere", "blue", "shiny", "small", "right", "towards front"),
    ("cone", "yellow", "matte", "small", "far right", "back"),
    ("cylinder", "green", "shiny", "small", "far left", "front"),
)


@st.dialog("Compose a scene", width="large", icon=":material/category:")
def compose_dialog() -> None:
    """Open the composer."""
    compose_body()


def compose_body() -> None:
    """Draw choices, the scene as they change it, and captions known to be true of it."""
    with guard():
        from cmai_core.data.tabletop.scene import MAX_OBJECTS
        from cmai_core.lab import compose as core

        controls, view = st.columns([3, 2], gap="large")
        with controls:
            count = st.segmented_control(
                "Objects", list(range(1, MAX_OBJECTS + 1)), default=2, key=state.COMPOSE_COUNT, required=True
            )
            objects = []
            for k in range(count or 1):
                with st.container(border=True):
                    objects.append(_object(k))
            with st.container(border=True):
                surroundings = _surroundings()
        with view, guard():
            scene, moved = core.compose(objects, **surroundings)
            pair = composed(scene.to_json())
            show(
                f'<img src="{preview_url(scene.to_json())}" alt="The composed scene: '
                f'{escape(pair.captions[0])}" '
                'style="width:100%;border-radius:8px;display:block">'
            )
            st.caption("Drawn finer than the models see it: they get 128×128 pixels.")
            if moved:
                st.caption("Objects were moved a little, so that none touches, hides or lines up with another.")
            _use(scene, pair)


def _object(k: int) -> ObjectChoice:
    """Draw six selections of one object."""
    from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, SHAPES, SIZES
    from cmai_core.lab import compose as core

    first = _FIRST[k]
    key = f"{state.COMPOSE}_{k}"
    a, b, c = st.columns(3)
    shape = a.selectbox(f"Object {k + 1}", SHAPES, index=SHAPES.index(first[0]), key=f"{key}_shape")
    colour = b.selectbox("Colour", COLOURS, index=COLOURS.index(first[1]), key=f"{key}_colour")
    material = c.selectbox("Material", MATERIALS, index=MATERIALS.index(first[2]), key=f"{key}_material")
    d, e, f = st.columns(3)
    size = d.selectbox("Size", SIZES, index=SIZES.index(first[3]), key=f"{key}_size")
    across = e.select_slider("Left – right", list(core.ACROSS), value=first[4], key=f"{key}_across")
    depth = f.select_slider("Front – back", list(core.DEPTH), value=first[5], key=f"{key}_depth")
    return core.ObjectChoice(shape, colour, material, size, across, depth)


def _surroundings() -> dict[str, Any]:
    """Draw the selections of light, camera and table."""
    from cmai_core.lab import compose as core

    key, chosen = state.COMPOSE, {}
    st.markdown("**Light, camera, table**")
    a, b, c, d = st.columns(4)
    chosen["light_from"] = a.selectbox("Light from", list(core.LIGHT_FROM), index=3, key=f"{key}_light")
    chosen["light_height"] = b.selectbox("Light height", list(core.LIGHT_HEIGHT), index=1, key=f"{key}_height")
    chosen["light_tone"] = c.selectbox("Tone", list(core.LIGHT_TONE), index=1, key=f"{key}_tone")
    chosen["camera_height"] = d.selectbox("Camera", list(core.CAMERA_HEIGHT), index=1, key=f"{key}_camera")
    tables, backdrops = table_names()
    e, f = st.columns(2)
    chosen["table"] = e.selectbox("Table", range(len(tables)), format_func=lambda i: tables[i], key=f"{key}_table")
    chosen["background"] = f.selectbox(
        "Backdrop", range(len(backdrops)), format_func=lambda i: backdrops[i], key=f"{key}_back"
    )
    return chosen


def _use(scene: Scene, pair: Pair) -> None:
    """Draw the choice of a caption, its truth, and the button that takes the scene."""
    from cmai_core.lab.compose import judge

    caption = st.selectbox(
        "A true sentence about it", [*pair.captions, _OWN], key=f"{state.COMPOSE}_suggestion_{pair.id}"
    )
    if caption == _OWN:
        caption = plain_line(st.text_input("Your sentence", key=state.COMPOSE_CAPTION, max_chars=MAX_CAPTION))
    truth_line(*judge(caption, scene))
    if st.button("Use this scene", type="primary", key="compose_use", disabled=not caption.strip(), width="stretch"):
        state.put(state.SCENE, scene.to_json())
        choose_pair("scene", caption)
        st.rerun()
