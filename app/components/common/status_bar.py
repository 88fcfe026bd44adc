"""The status bar: device, model, queue. It never causes a heavy import."""

from __future__ import annotations

import streamlit as st

from app import navigation, state
from app.access import permissions
from app.components.common.live import place_words
from app.components.common.theme import escape, show
from app.services import warm_up
from app.services.jobs import job_queue, job_snapshot
from app.services.models import gpu_is_visible, model_cache


@st.fragment(run_every=2.0)
def status_bar() -> None:
    """Draw the bar with what is known without loading anything; it also starts the warm-up of the models."""
    navigation.hold()
    warm_up.models()
    device = "GPU" if gpu_is_visible() else "CPU"
    mine, waiting = job_snapshot(state.get(state.ATTACK_JOB)), job_queue().pending
    queue = "queue empty" if waiting == 0 else f"{waiting} in the queue"
    if mine is not None and mine.state == "queued":
        queue = f"your attack: {place_words(mine)}"
    show(
        f'<div class="cm-status" role="status"><span>⚙ {device}</span><span>◌ {escape(_models())}</span><span>≡ '
        f"{queue}</span></div>"
    )


def _models() -> str:
    cache = model_cache()
    if cache.loading:
        return f"loading {permissions.display_name(cache.loading)} …"
    if cache.loaded:
        return f"models ready: {', '.join(map(permissions.display_name, cache.loaded))}"
    return "no model loaded yet"
