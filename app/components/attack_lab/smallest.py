"""How little is enough: the smallest ε that breaks each model's answer, with the picture at every rung."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app import state, subject
from app.components.attack_lab.answers import sign
from app.components.common.fold import fold_table
from app.components.common.live import cancel_button, live_job
from app.components.common.stale import result_of
from app.components.common.theme import escape, label, number, show
from app.services.attacks import smallest
from app.services.jobs import collect_job, submit_job
from app.services.models import model_cache
from app.services.pictures import picture_url
from cmai_core.errors import CmaiError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.smallest import why_no_smallest

if TYPE_CHECKING:
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.smallest import ModelLimit, Rung, SmallestEpsilon


def smallest_tab() -> None:
    """Draw the button, the search while it runs, and what it found."""
    running = collect_job(state.SMALLEST_JOB, state.SMALLEST)
    reason = why_no_smallest(subject.described())
    if running:
        cancel_button(state.SMALLEST_JOB, "cancel_smallest")
        live_job(state.get(state.SMALLEST_JOB), "search")
        return
    st.button(
        "How little is enough?", key="start_smallest", icon=":material/straighten:", on_click=_start,
        disabled=bool(reason), help="The attack of the form on each model in turn, with ever larger ε until its answer "
        "breaks, then between.",
    )  # fmt: skip
    if reason:
        st.caption(reason)
    found = state.get(state.SMALLEST)
    if found is not None:
        said = f"“{found.experiment.caption}”, {', '.join(limit.name for limit in found.models.values())}"
        with result_of(_moved_on(found.experiment), said, key="smallest", run=_start, run_label="Look for the new one"):
            _limits(found)


def _start() -> None:
    """Queue the search; an error is shown in the next run."""
    try:
        wanted = replace(subject.requested(), craft_on="each")
        upload, cache = state.get(state.UPLOAD), model_cache()
        handle = submit_job(
            "smallest ε",
            lambda progress, cancel: smallest(wanted, upload, cache, progress, cancel),
            models=wanted.models.values(),
        )
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.SMALLEST_JOB, handle)


def _moved_on(shown: Experiment) -> tuple[Difference, ...]:
    """Return how the form has moved on; ε and where the attack is crafted are the search's own."""
    wanted = replace(subject.described(), craft_on=shown.craft_on, epsilon=shown.epsilon)
    return differences(shown, wanted)


def _limits(found: SmallestEpsilon) -> None:
    """Draw a bar a model, and the pictures of its rungs."""
    if found.cancelled:
        st.info("Cancelled: this is what was found until then.", icon="⏹️")
    for role, limit in found.models.items():
        show(_bar(role, limit, found.top) + _rungs(limit))
    fold_table("As a table", lambda: _rows(found), key="fold_smallest")


def _bar(role: str, limit: ModelLimit, top: float) -> str:
    """Return where a model's answer breaks, in words and as a bar up to the top of the ladder."""
    broken = limit.breaking
    share = 1.0 if limit.holds else 0.0 if broken is None else broken.epsilon / top
    name = f"{label(role)} <b>{escape(limit.name)}</b>"
    return (
        f'<div class="cm-limit"><div class="cm-row">{name}<span>{escape(_words(limit))}</span></div>'
        f'<div class="cm-bar cm-bar-wide" aria-hidden="true"><span style="width:{100 * share:.1f}%;'
        f'background:var(--cm-{role})"></span></div></div>'
    )


def _words(limit: ModelLimit) -> str:
    if limit.note:
        return limit.note
    if limit.already:
        return "is wrong without any attack"
    if limit.holds:
        return f"holds up to {limit.rungs[-1].words}"
    return "nothing was found yet" if limit.breaking is None else f"breaks at {limit.breaking.words}"


def _rungs(limit: ModelLimit) -> str:
    figures = "".join(_figure(rung) for rung in limit.rungs)
    return f'<div class="cm-pictures cm-rungs">{figures}</div>' if figures else ""


def _figure(rung: Rung) -> str:
    word = "broken" if rung.broken else "holds"
    return (
        f'<figure><img src="{picture_url(rung.picture, side=96)}" alt="The attacked picture at {escape(rung.words)}">'
        f"<figcaption><b>{escape(rung.words)}</b> {word}<br>{sign(rung.answer.correct)} {escape(rung.answer.text)}"
        f"<br>S<sub>c</sub> {number(rung.s_c)}</figcaption></figure>"
    )


def _rows(found: SmallestEpsilon) -> list[dict[str, object]]:
    return [
        {"model": limit.name, "place": role, "ε": r.words, "broken": r.broken, "answer": r.answer.text, "S_c": r.s_c}
        for role, limit in found.models.items()
        for r in limit.rungs
    ]
