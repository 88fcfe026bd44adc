"""The shortlist before and after verification: the likeliest captions by cosine, and as CMCV puts them in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.attack_lab.answers import sign
from app.components.common.fold import fold_table
from app.components.common.live import cancel_button, live_job
from app.components.common.theme import escape, label, mark, number, show
from app.services.attacks import shortlist
from app.services.jobs import collect_job, submit_job
from app.services.models import model_cache
from cmai_core.errors import CmaiError
from cmai_core.lab.verdict import SIDES, content_key

if TYPE_CHECKING:
    from cmai_core.lab.result import LabResult
    from cmai_core.lab.shortlist import Entry, ModelShortlist

LEAD = (
    "Retrieval by cosine alone answers with the nearest caption. Verified answering reads the likeliest ones word by "
    "word against the picture, and answers with the one that it supports best."
)


def shortlist_tab(result: LabResult) -> None:
    """Draw the shortlists of the result, their progress, or the button that asks for them."""
    show(f'<p class="cm-small cm-muted">{LEAD}</p>')
    running = collect_job(state.SHORTLIST_JOB, state.SHORTLIST)
    made = state.get(state.SHORTLIST)
    if running:
        cancel_button(state.SHORTLIST_JOB, "cancel_shortlist")
        live_job(state.get(state.SHORTLIST_JOB), "verification")
    elif made is not None and made[0] == content_key(result):
        for role, found in made[1].items():
            _model(result, role, found)
    else:
        st.button(
            "Verify the shortlist", key="start_shortlist", type="primary", icon=":material/low_priority:",
            on_click=_start, args=(result,), disabled=not result.attacked,
        )  # fmt: skip


def _start(result: LabResult) -> None:
    """Queue the verification; an error is shown in the next run."""
    upload, cache, key = state.get(state.UPLOAD), model_cache(), content_key(result)
    try:
        handle = submit_job(
            "shortlist",
            lambda progress, cancel: (key, shortlist(result, upload, cache, progress, cancel)),
            models=[prediction.spec for prediction in result.attacked.values()],
        )
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.SHORTLIST_JOB, handle)


def _model(result: LabResult, role: str, found: ModelShortlist) -> None:
    """Draw one model's captions, clean and attacked side by side."""
    with st.container(border=True, key=f"card_shortlist_{role}"):
        show(f'<div class="cm-h">{label(role)} {escape(result.predictions[role].name)}</div>')
        if found.note:
            st.caption(found.note)
        for place, side, entries in zip(st.columns(2), SIDES, (found.clean, found.attacked), strict=True):
            with place:
                show(_list(side, entries))
        fold_table("As a table", lambda: _rows(found), key=f"fold_shortlist_{role}")


def _list(side: str, entries: tuple[Entry, ...]) -> str:
    """Return one side's captions in their order as verified, with where each stood by cosine."""
    rows = "".join(
        f"<tr><td>{e.verified_rank}</td><td>{_move(e)}</td><td>{sign(e.true)} {escape(e.text)}</td>"
        f"<td>{number(e.cosine)}</td><td>{'–' if e.log_v is None else number(e.log_v)}</td></tr>"
        for e in entries
    )
    return (
        f'<div class="cm-small">{mark(side)}{escape(side)}</div><table class="cm-shortlist"><thead><tr><th>rank</th>'
        f"<th>by cosine</th><th>caption</th><th>cosine</th><th>log V</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _move(entry: Entry) -> str:
    """Return where a caption stood by cosine, with an arrow for where it went."""
    arrow = "▲" if entry.verified_rank < entry.rank else "▼" if entry.verified_rank > entry.rank else "="
    return f"{entry.rank} {arrow}"


def _rows(found: ModelShortlist) -> list[dict[str, object]]:
    return [
        {
            "pair": side, "caption": e.text, "true": e.true, "rank by cosine": e.rank,
            "rank as verified": e.verified_rank,
            "cosine": e.cosine, "log V": e.log_v, "fused": e.fused,
        }
        for side, entries in zip(SIDES, (found.clean, found.attacked), strict=True)
        for e in entries
    ]  # fmt: skip
