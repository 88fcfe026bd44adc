"""The status chip: device, model, queue. Quiet, and never the cause of a heavy import."""

from __future__ import annotations

import sys

import streamlit as st

from app import services, state
from app.components.theme import escape, show


@st.fragment(run_every=2.0)
def status_chip() -> None:
    """One line of words; before the first job it says what is known without loading anything.

    It is also the heartbeat by which the queue knows that this page is still open.
    """
    device = "GPU" if services.gpu_is_there() else "CPU"
    if "cmai_core.jobs" in sys.modules:
        shelf = services.shelf()
        services.queue().touch(state.get(state.OWNER))
        if shelf.loading:
            model = f"loading {shelf.loading} …"
        elif shelf.loaded:
            model = f"warm: {', '.join(shelf.loaded)}"
        else:
            model = "models cold"
        waiting = services.queue_length()
    else:
        model, waiting = "models cold (load on first use)", 0
    queue = "queue empty" if waiting == 0 else f"{waiting} in the queue"
    show(
        f'<div class="cm-chip" role="status"><span>⚙ {device}</span><span>◌ {escape(model)}</span><span>≡ '
        f"{queue}</span></div>"
    )
