"""The pairs that are left, as pictures in an order, and the chosen one with what both models made of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import streamlit as st

from app import navigation, state
from app.components.common.fields import one_of
from app.components.common.gallery import gallery
from app.components.common.theme import escape, label, number, show, signed
from app.components.explore.view import ALIKE, CHOSEN, PAGE, SORT, View
from app.services.datasets import lab_dataset, thumbnail_url
from app.services.pictures import picture_url
from cmai_core.lab.explore.order import PICTURE, TEXT, alike, orders, sorted_rows
from cmai_core.lab.explore.run import OUTCOMES, ExploreRun, Reading
from cmai_core.lab.places import is_offered

PAGE_SIZE = 20
SORT_WORDS = {
    "hardest": "hardest first", "largest change": "largest Δ first", "smallest ε": "smallest ε first",
    "first fails, second holds": "A fails and B holds", "disagreement": "models disagree most",
    "dataset": "as in the dataset",
}  # fmt: skip


def pairs(view: View, place: Any, beside: Any) -> None:
    """Draw the order and a page of the gallery in one place, the chosen pair in another."""
    with place:
        rows, words = _ordered(view)
        if len(rows):
            _gallery(view, rows, words)
        else:
            st.info("No pair is left. Take a part of the filter away.", icon="🔍")
    chosen = state.get(CHOSEN)
    chosen = int(rows[0]) if chosen is None and len(rows) else chosen
    if chosen is not None and 0 <= chosen < len(view.run):
        with beside:
            _chosen(view, chosen)


def _ordered(view: View) -> tuple[np.ndarray, str]:
    """Return the pairs in the order that is asked for, and that in words."""
    like = state.get(ALIKE)
    row = st.container(horizontal=True, gap="small", vertical_alignment="bottom")
    if like is not None and like[0] < len(view.run):
        row.markdown(f"**Most like “{escape(view.run.captions[like[0]][:60])}” by its {like[1]}**", width="stretch")
        row.button("Back to the order", key="explore_like_end", icon=":material/undo:", on_click=_like, args=(None,))
        return alike(view.run, view.role, *like, view.mask), "like"
    names = orders(view.run)
    state.put(SORT, one_of(state.get(SORT), names))
    row.selectbox("Order", names, key=SORT, format_func=SORT_WORDS.get, width=230)
    name = one_of(state.get(SORT), names)
    return sorted_rows(view.run, name, view.role, view.level, view.mask), name


def _gallery(view: View, rows: np.ndarray, words: str) -> None:
    pages = -(-len(rows) // PAGE_SIZE)
    slot, page = st.container(), 1
    if pages > 1:
        page = min(pages, max(1, st.pagination(pages, key=f"{PAGE}_{words}_{len(rows)}")))
    with slot, st.spinner("Drawing the pictures …", show_time=False):
        items = [_item(view, int(row)) for row in rows[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]]
        chosen = state.get(CHOSEN)
        picked = gallery(items, key="explore_gallery", selected=str(chosen), cell=118)
    if picked is not None and int(picked) != chosen:
        state.put(CHOSEN, int(picked))
        st.rerun()


def _item(view: View, row: int) -> dict[str, str]:
    run = view.run
    outcomes = ", ".join(f"{role} {OUTCOMES[part.outcome(view.level)[row]]}" for role, part in run.parts.items())
    return {
        "id": str(row), "src": thumbnail_url(run.place, run.rows[row]), "title": f"{outcomes}: {run.captions[row]}",
    }  # fmt: skip


def _chosen(view: View, row: int) -> None:
    """Draw the chosen pair: picture, sentence, scores and answers, and the ways on."""
    run = view.run
    picture = lab_dataset(run.place)[run.rows[row]].image
    with st.container(border=True, key="card_explore_pair"):
        show(
            f'<div class="cm-chosen"><img src="{picture_url(picture)}" alt="{escape(run.captions[row])}">'
            f'<div><p class="cm-quote">{escape(run.captions[row])}</p>'
            f'<p class="cm-small cm-muted">{escape(run.ids[row])}</p></div></div>'
        )
        show(_table(view, row))
        _ways_on(view, row)


def _table(view: View, row: int) -> str:
    lines = ""
    for role, part in view.run.parts.items():
        before, after = part.clean, part.attacked[view.level]
        score = (float(before.score[row]), float(after.score[row]))
        flag = "flagged" if score[1] < view.taus[role] else "passed"
        lines += (
            f"<tr><th>{label(role, role)}</th><td>{number(score[0])} → {number(score[1])} "
            f'({signed(score[1] - score[0])}) <span class="cm-tag">{flag}</span></td></tr>'
            f"<tr><td></td><td>{_answer(view.run, before, row)}<br>→ {_answer(view.run, after, row)}</td></tr>"
        )
    return (
        f'<table class="cm-table"><thead><tr><th></th><th>S<sub>c</sub> clean → attacked, and the answer</th></tr>'
        f"</thead><tbody>{lines}</tbody></table>"
    )


def _answer(run: ExploreRun, reading: Reading, row: int) -> str:
    signs = {1: '<span role="img" aria-label="right">✓</span>', 0: '<span role="img" aria-label="wrong">✗</span>'}
    return f"{signs.get(int(reading.right[row]), '·')} {escape(run.said(reading, row) or '–')}"


def _ways_on(view: View, row: int) -> None:
    run, offered = view.run, is_offered(view.run.ids[row])
    if st.button(
        "Open in the lab with its attack", key="explore_open", icon=":material/experiment:", width="stretch",
        type="primary", disabled=not offered, help=None if offered else "The attack lab does not have this split.",
    ):  # fmt: skip
        state.put(state.LINK_READ, False)
        state.put(state.RESULT, None)
        navigation.go("attack_lab", run.experiment_of(row, view.level).to_query())
    one, two = st.columns(2)
    one.button(
        "Pictures like this", key="explore_like_picture", icon=":material/image_search:", width="stretch",
        on_click=partial(_like, (row, PICTURE)),
    )  # fmt: skip
    two.button(
        "Texts like this", key="explore_like_text", icon=":material/manage_search:", width="stretch",
        on_click=partial(_like, (row, TEXT)),
    )  # fmt: skip


def _like(what: tuple[int, str] | None) -> None:
    state.put(ALIKE, what)
