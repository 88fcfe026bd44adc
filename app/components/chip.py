"""The status chip: device, model, queue. Quiet, and never the cause of a heavy import."""

from __future__ import annotations

import streamlit as st

from app import navigation, owner, services, warm_up
from app.components.theme import escape, show


@st.fragment(run_every=2.0)
def status_chip() -> None:
    """One line of words; the first time it says what is known without loading anything.

    It is also the heartbeat that warms the models up.
    """
    navigation.hold()
    warm_up.models()
    device = "GPU" if services.gpu_is_there() else "CPU"
    shelf = services.shelf()
    if shelf.loading:
        model = f"loading {owner.shown(shelf.loading)} …"
    elif shelf.loaded:
        model = f"models ready: {', '.join(map(owner.shown, shelf.loaded))}"
    else:
        model = "no model loaded yet"
    waiting = services.queue_length()
    queue = "queue empty" if waiting == 0 else f"{waiting} in the queue"
    show(
        f'<div class="cm-chip" role="status"><span>⚙ {device}</span><span>◌ {escape(model)}</span><span>≡ '
        f"{queue}</span></div>"
    )
