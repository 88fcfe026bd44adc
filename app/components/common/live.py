"""A job while it runs: bar, curves, current picture, refreshed more than twice a second by a fragment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.common.chart import chart
from app.components.common.svg import line_chart
from app.components.common.theme import escape, number, show
from app.components.common.words import eta_words
from app.services.jobs import cancel_job, job_snapshot

if TYPE_CHECKING:
    from cmai_core.jobs import Job, JobSnapshot

REFRESH_SECONDS = 0.4
TRIED = 3
"""Sentences that are being tried, shown at once."""
QUEUE_SECONDS = 2.0
"""Between two looks at a place in the queue that is not the next: dozens may be waiting, and little changes."""


def cancel_button(job_key: str, key: str) -> None:
    """Draw Cancel for the session's job. Draw it in the main script, where a click does not wait for a fragment."""
    st.button(
        "Cancel",
        key=key,
        icon=":material/stop_circle:",
        width="stretch",
        on_click=lambda: cancel_job(st.session_state[job_key]),
    )


def live_job(handle: Job, noun: str = "attack") -> None:
    """Draw a job until it has ended: its place in the queue, then its progress."""
    snapshot = job_snapshot(handle)
    far = snapshot is not None and snapshot.position > 1
    (_far_back if far else _live)(handle, noun)


def _place(snapshot: JobSnapshot) -> None:
    st.progress(0.0, text=f"Waiting in the queue: {place_words(snapshot)}")


def place_words(snapshot: JobSnapshot) -> str:
    """Return how many are before a waiting job, and how long that is expected to take where anybody knows."""
    ahead = f"{snapshot.position} before you" if snapshot.position else "next"
    return ahead if not snapshot.wait else f"{ahead}, about {max(1.0, snapshot.wait):.0f} s"


@st.fragment(run_every=QUEUE_SECONDS)
def _far_back(handle: Job, noun: str) -> None:
    snapshot = job_snapshot(handle)
    if snapshot is None or snapshot.position <= 1:
        st.rerun()
    _place(snapshot)


@st.fragment(run_every=REFRESH_SECONDS)
def _live(handle: Job, noun: str) -> None:
    """Draw a job's progress; the page is run again when it has ended.

    The job may send with its progress: `objective` and `score` (traces of the sample shown), `steps`, `image` (uint8),
    `role`, `sentence` and `trying` (of attacks on words), `count` (words; without it, units finished of units in all).
    """
    snapshot = job_snapshot(handle)
    if snapshot is None or snapshot.finished:
        st.rerun()
    if snapshot.state == "queued":
        _place(snapshot)
        return
    progress = snapshot.progress
    data = progress.data if progress else {}
    stage = (progress.stage if progress else "") or f"Starting the {noun} …"
    count = data.get("count", f"{progress.done} of {progress.total}" if progress and progress.total else "")
    count = f" · {count}" if count else ""
    st.progress(progress.fraction if progress else 0.0, text=f"{stage}{count}{eta_words(snapshot.eta)}")
    if data.get("sentence"):
        _sentence(data)
    if len(data.get("score", ())) or data.get("image") is not None:
        _picture_and_curves(data)


def _sentence(data: Mapping[str, Any]) -> None:
    """Draw the sentence as it is now, and some of those that are being tried."""
    tried = "".join(f"<div>{escape(text)}</div>" for text in list(data.get("trying", ()))[:TRIED])
    more = f'<div class="cm-small cm-muted">tried now:{tried}</div>' if tried else ""
    show(f'<p class="cm-quote">{escape(data["sentence"])}</p>{more}')


def _picture_and_curves(data: Mapping[str, Any]) -> None:
    role = data.get("role", "A")
    left, right = st.columns([1, 1], gap="medium")
    with left:
        if data.get("image") is not None:
            st.image(
                data["image"],
                caption=f"current picture, crafted on model {role}",
                output_format="PNG",
                width="stretch",
                alt="The adversarial picture as it is now",
            )
    with right:
        score, objective = data.get("score", ()), data.get("objective", ())
        steps = int(data.get("steps", len(score)))
        if len(score):
            done = len(score) - 1
            now = f"S_c is {number(score[-1])} after {done} step{'' if done == 1 else 's'}"
            markup = line_chart({"S_c": (score, "adversarial")}, title=now, x_label="step", x_max=steps)
            chart(markup, key="live_score")
        if len(objective):
            now = f"The objective is {number(objective[-1])}"
            markup = line_chart({"objective": (objective, role)}, title=now, x_label="step", x_max=steps)
            chart(markup, key="live_objective")
