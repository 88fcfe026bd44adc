"""Picture ↔ words: pick a word of the sentence and see its patches, pick a patch and see its words."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.common.colour_scale import colour_bar
from app.components.common.fold import fold_table
from app.components.common.theme import escape, label, mark, show
from cmai_core.lab.explanation_tables import said_rows, sharpest_word, words_at, words_scale
from cmai_core.lab.images import overlay

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation

SIDES = ("clean", "adversarial")


def patches(made: LabExplanation) -> None:
    """Draw the chosen word's patches, and the chosen patch's words."""
    show('<div class="cm-h">Which patches a word looks at, and which words look at a patch</div>')
    known = {role: explained for role, explained in made.roles.items() if explained.said is not None}
    if not known:
        reasons = {explained.missing.get("decoder", "") for explained in made.roles.values()}
        st.caption(f"Not available: {' '.join(sorted(reasons))}")
        return
    side = 0
    if made.attack:
        chosen = st.segmented_control("Picture", SIDES, default=SIDES[0], key="patches_side", persist_state="session")
        side = SIDES.index(chosen or SIDES[0])
    sentence = next(iter(known.values())).said.words[side]
    words = [f"{place + 1} {word}" for place, word in enumerate(sentence)]
    first = sharpest_word(next(iter(known.values())), side)
    picked = st.pills("Word", words, default=words[first], key=f"patches_word_{side}") or words[first]
    place, scale = words.index(picked), words_scale(made, "said")
    for column, (role, explained) in zip(st.columns(max(4, len(known))), known.items(), strict=False):
        with column:
            show(f'<div class="cm-small">{label(role)} · {mark(SIDES[side])}{SIDES[side]}</div>')
            if place < len(explained.said.words[side]):
                st.image(
                    overlay(
                        (explained.clean, explained.adversarial)[side],
                        explained.said.word_maps[side][place], 0.0, scale,
                    ),
                    output_format="PNG",
                    width="stretch",
                    alt=f"where {role} looks at the word {sentence[place]}",
                )  # fmt: skip
    colour_bar(scale, False)
    _words_of_patch(known, side)
    fold_table("As a table", partial(said_rows, made, side), key="fold_patches")


def _words_of_patch(known: dict[str, Any], side: int) -> None:
    """Draw which words look at one patch, most first."""
    height, width = next(iter(known.values())).said.word_maps[side].shape[1:]
    one, two = st.columns(2)
    row = one.selectbox("Row of the patch", range(1, height + 1), index=height // 2, key="patch_row")
    column = two.selectbox("Column of the patch", range(1, width + 1), index=width // 2, key="patch_column")
    for place, (role, explained) in zip(st.columns(max(2, len(known))), known.items(), strict=False):
        with place:
            found = words_at(explained, side, row - 1, column - 1)
            lines = "".join(f"<tr><td>{escape(word)}</td><td>{value:.3f}</td></tr>" for word, value in found[:6])
            show(
                f'<div class="cm-small">{label(role)}: attention to row {row}, column {column}</div>'
                f"<table><tbody>{lines}</tbody></table>"
            )
