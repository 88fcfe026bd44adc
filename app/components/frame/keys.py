"""The keys that work on every page, and the sheet that lists them."""

from __future__ import annotations

import streamlit as st

from app.components.common.static_files import component
from app.components.common.theme import escape, show
from app.registry import PAGES

_listener = component("keys", "<span></span>")
KEYS = {
    "s": "start the attack",
    "Esc": "cancel it",
    "b": "blink between clean and attacked",
    "d": "show the difference, enlarged",
    "← →": "a step of the attack back, forward",
    "u": "back to the experiment before",
    "?": "this sheet",
}


def keys() -> None:
    """Listen for keys, and draw the button of the sheet."""
    _listener(key="keys", data={"pages": list(PAGES)})
    with st.container(key="keys_button"):
        if st.button("Keys", key="open_keys", icon=":material/keyboard:", help="Keys (?)"):
            _sheet()


@st.dialog("Keys", icon=":material/keyboard:")
def _sheet() -> None:
    rows = [*KEYS.items(), *((str(n), f"page {page.title}") for n, page in enumerate(PAGES.values(), 1) if n < 10)]
    body = "".join(f"<tr><td><kbd>{escape(key)}</kbd></td><td>{escape(what)}</td></tr>" for key, what in rows)
    show(f"<table class='cm-keys'>{body}</table>")
    st.caption("They rest while you type in a field.")
