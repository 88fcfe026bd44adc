"""Where the decoder looks at each word of the caption that it writes, clean and attacked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.colour_scale import colour_bar
from app.components.common.fold import fold_table
from app.components.common.theme import escape, label, mark, show
from app.services.pictures import picture_url
from cmai_core.lab.explanation_tables import words_scale, written_rows
from cmai_core.lab.images import overlay

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation

SIDES = ("clean", "adversarial")


def decoder(made: LabExplanation) -> None:
    """Draw the written captions of every model, a map over the picture for each word."""
    show('<div class="cm-h">Cross-attention of the decoder, word by word of what it writes</div>')
    scale = words_scale(made, "written")
    for role, explained in made.roles.items():
        show(f'<div class="cm-small">{label(role)} <b>{escape(explained.name)}</b></div>')
        if explained.written is None:
            st.caption(f"Not available: {explained.missing.get('decoder', '')}")
            continue
        for row, side in enumerate(SIDES if made.attack else SIDES[:1]):
            picture = (explained.clean, explained.adversarial)[row]
            tiles = "".join(
                f'<figure><img src="{picture_url(overlay(picture, found, 0.0, scale))}" loading="lazy" '
                f'alt="where {role} looked while it wrote {escape(word)}"><figcaption>{escape(word)}</figcaption>'
                "</figure>"
                for word, found in zip(explained.written.words[row], explained.written.word_maps[row], strict=True)
            )
            show(f'<div class="cm-small">{mark(side)}{side}</div><div class="cm-tiles">{tiles}</div>')
    colour_bar(scale, False)
    st.caption("Mean of the decoder's layers and heads. Where it looked is no reason for what it wrote.")
    fold_table("As a table", partial(written_rows, made), key="fold_decoder")
