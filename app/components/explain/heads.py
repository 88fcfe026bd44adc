"""Where each head of each layer looks: a grid of small maps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.common.colour_scale import colour_bar
from app.components.common.fold import fold_table
from app.components.common.theme import escape, label, show
from app.services.pictures import picture_url
from cmai_core.lab.explanation_tables import head_rows, head_scale
from cmai_core.lab.images import colour_map

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation

SIDES = ("clean", "adversarial")


def heads(made: LabExplanation) -> None:
    """Draw the heads of every model on one scale, of the side that is chosen."""
    show('<div class="cm-h">Attention from the class token, a row a layer, a column a head</div>')
    side = 0
    if made.attack:
        chosen = st.segmented_control("Picture", SIDES, default=SIDES[1], key="heads_side", persist_state="session")
        side = SIDES.index(chosen or SIDES[1])
    scale = head_scale(made)
    columns = st.columns(max(1, len(made.roles)), gap="medium")
    for column, (role, explained) in zip(columns, made.roles.items(), strict=True):
        with column:
            show(f'<div class="cm-small">{label(role)} <b>{escape(explained.name)}</b></div>')
            if explained.heads is None:
                st.caption(f"Not available: {explained.missing.get('heads', '')}")
            else:
                show(_grid(explained.heads[side], scale, f"{role}, {SIDES[side]}"))
    colour_bar(scale, False)
    st.caption("Raw weights: where heads look, not what they do with it. Tokens have mixed with others by then.")
    fold_table("As a table", partial(head_rows, made), key="fold_heads")


def _grid(maps: Any, scale: float, whose: str) -> str:
    """Return layers×heads small maps as HTML."""
    layers, count = maps.shape[:2]
    cells = "".join(
        f'<img src="{picture_url(colour_map(maps[layer, head], 0.0, scale))}" loading="lazy" '
        f'alt="{escape(whose)}: layer {layer + 1}, head {head + 1}" title="layer {layer + 1}, head {head + 1}" '
        'class="cm-cells">'
        for layer in range(layers)
        for head in range(count)
    )
    return f'<div class="cm-head-grid" style="grid-template-columns:repeat({count},minmax(0,1fr))">{cells}</div>'
