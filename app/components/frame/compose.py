"""The dialog in which a scene is composed from a few choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.common.guard import guard
from app.components.common.theme import escape, show
from app.components.frame.truth_line import truth_line
from app.services.pairs import composed, composer, preview_url
from app.subject import choose_pair
from cmai_core.data.plain import plain_line
from cmai_core.data.registry import COMPOSED
from cmai_core.lab.experiment import MAX_CAPTION
from cmai_core.lab.judgement import judge

if TYPE_CHECKING:
    from cmai_core.data.composer import Choice
    from cmai_core.data.pair import Pair
    from cmai_core.data.truth import Scene

_OWN = "Write my own …"


@st.dialog("Compose a scene", width="large", icon=":material/category:")
def compose_dialog() -> None:
    """Open the composer."""
    compose_body()


def compose_body() -> None:
    """Draw choices, the scene as they change it, and captions known to be true of it."""
    made_by = composer()
    if made_by is None:
        st.info("No dataset here makes scenes to order.", icon="ℹ️")
        return
    with guard():
        controls, view = st.columns([3, 2], gap="large")
        with controls:
            counts = list(range(1, made_by.most + 1))
            count = st.segmented_control(
                "Objects", counts, default=made_by.first, key=state.COMPOSE_COUNT, required=True
            )
            objects = []
            for k in range(count or 1):
                with st.container(border=True):
                    objects.append(_choices(made_by.object_choices(k), f"{state.COMPOSE}_{k}", 3))
            with st.container(border=True):
                st.markdown("**Light, camera, table**")
                chosen = _choices(made_by.scene_choices(), state.COMPOSE, 4)
        with view, guard():
            scene, note = made_by.compose(objects, chosen)
            pair = composed(scene.to_json())
            show(
                f'<img src="{preview_url(scene.to_json())}" alt="The composed scene: '
                f'{escape(pair.captions[0])}" '
                'style="width:100%;border-radius:8px;display:block">'
            )
            for line in filter(None, (made_by.note, note)):
                st.caption(line)
            _use(scene, pair)


def _choices(offered: Sequence[Choice], key: str, columns: int) -> dict[str, str]:
    """Draw the widgets of some choices, so many in a row; returns what is chosen, by name."""
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


def _use(scene: Scene, pair: Pair) -> None:
    """Draw the choice of a caption, its truth, and the button that takes the scene."""
    caption = st.selectbox(
        "A true sentence about it", [*pair.captions, _OWN], key=f"{state.COMPOSE}_suggestion_{pair.id}"
    )
    if caption == _OWN:
        caption = plain_line(st.text_input("Your sentence", key=state.COMPOSE_CAPTION, max_chars=MAX_CAPTION))
    truth_line(*judge(caption, scene))
    if st.button("Use this scene", type="primary", key="compose_use", disabled=not caption.strip(), width="stretch"):
        state.put(state.SCENE, scene.to_json())
        choose_pair(COMPOSED, caption)
        st.rerun()
