"""Loads in the background what the first attack would otherwise wait for.

It begins when a page has been shown for a moment, never before the first paint. `CMAI_WARM_UP=0` turns it off.
"""

from __future__ import annotations

import logging
import os
import threading
import time

import streamlit as st

from app.services.datasets import lab_dataset
from app.services.jobs import quiet_thread
from app.services.models import ModelCache, default_model, model_cache

_log = logging.getLogger("cmai.app")
_START = "first_drawn"
PATIENCE = 1.5
"""Seconds that a session's first page has been shown before anything is loaded for it."""


class Background:
    """Work that is done once in a process, in daemon threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: set[str] = set()

    def begin(self, name: str, work) -> None:
        """Start `work` unless work of this name has been started before."""
        with self._lock:
            if name in self._begun:
                return
            self._begun.add(name)
        threading.Thread(target=_quietly, args=(name, work), name=f"cmai-warm-{name}", daemon=True).start()


def _quietly(name: str, work) -> None:
    try:
        work()
    except Exception:  # the page that needs it will say so
        _log.warning("warming up %s failed", name, exc_info=True)


@st.cache_resource(show_spinner=False)
def _background() -> Background:
    return Background()


def _wanted() -> bool:
    return os.environ.get("CMAI_WARM_UP", "1") != "0"


def models() -> None:
    """Load the bundled models that the lab opens with; called by the status bar of every page."""
    drawn = st.session_state.setdefault(_START, time.monotonic())
    if _wanted() and time.monotonic() - drawn > PATIENCE:
        names = [name for name in (default_model(False), default_model(True)) if name]
        if names:
            cache = model_cache()
            _background().begin("models", lambda: _load(names, cache))


def _load(names: list[str], cache: ModelCache) -> None:
    """Load the models, and the pictures and captions that every attack is shown among."""
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.pair_in_context import OTHERS
    from cmai_core.lab.places import place_of

    for name in names:
        cache.get(name)
    with quiet_thread():
        items = lab_dataset(place_of(Experiment.pair))
    for k in range(min(len(items), OTHERS + 1)):
        items[k]


def results() -> None:
    """Read the published results, for which torch is imported; called by the pages that show them."""

    def work() -> None:
        from cmai_core.lab.published import published

        time.sleep(PATIENCE)  # after the first paint
        published()

    if _wanted():
        _background().begin("results", work)
