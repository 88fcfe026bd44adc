"""Loads ahead, in the background, what the first attack and the first map would otherwise wait for.

It begins when a page has stood for a moment, never before the first paint. `CMAI_WARM_UP=0` turns it off.
"""

from __future__ import annotations

import logging
import os
import threading
import time

import streamlit as st

from app import services

_log = logging.getLogger("cmai.app")
_START = "first_drawn"
PATIENCE = 1.5
"""Seconds that a session's first page has stood before anything is loaded for it."""


class Background:
    """Pieces of work done once in a process, one after another, in a daemon thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: set[str] = set()

    def begin(self, name: str, work) -> None:
        """Starts `work` unless a piece of this name has been started before."""
        with self._lock:
            if name in self._begun:
                return
            self._begun.add(name)
        threading.Thread(target=_quietly, args=(name, work), name=f"cmai-warm-{name}", daemon=True).start()


def _quietly(name: str, work) -> None:
    try:
        work()
    except Exception:  # whoever needs it will be told in the page
        _log.warning("warming up %s failed", name, exc_info=True)


@st.cache_resource(show_spinner=False)
def _background() -> Background:
    return Background()


def _wanted() -> bool:
    return os.environ.get("CMAI_WARM_UP", "1") != "0"


def models() -> None:
    """Loads the bundled models that the lab opens with; called by the heartbeat of every page."""
    drawn = st.session_state.setdefault(_START, time.monotonic())
    if _wanted() and time.monotonic() - drawn > PATIENCE:
        names = [name for name in (services.default_model(False), services.default_model(True)) if name]
        if names:
            shelf = services.shelf()
            _background().begin("models", lambda: _load(names, shelf))


def _load(names: list[str], shelf: services.ModelShelf) -> None:
    """The models, and the pictures and sentences that every attack's gallery is made of."""
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.pair_in_context import OTHERS
    from cmai_core.lab.places import place_of

    for name in names:
        shelf.get(name)
    with services.quiet_thread():
        items = services.dataset(place_of(Experiment.pair))
    for k in range(min(len(items), OTHERS + 1)):
        items[k]


def projection() -> None:
    """Compiles UMAP; called by the page that draws with it, which needs it some ten seconds later at the earliest."""

    def work() -> None:
        from cmai_core.projection import warm_up

        warm_up()

    if _wanted():
        _background().begin("projection", work)
