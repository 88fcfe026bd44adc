"""The bundled example, which the lab shows before anything is loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import streamlit as st

from cmai_core.errors import DataError

if TYPE_CHECKING:
    from cmai_core.showcase import Showcase

_log = logging.getLogger("cmai.app")


@st.cache_resource(show_spinner=False)
def showcase() -> Showcase | None:
    """Return the bundled example, None if there is none or it cannot be read (which is logged)."""
    from cmai_core.showcase import load_showcase

    try:
        return load_showcase()
    except DataError:
        _log.exception("bundled example")
        return None


def threshold_words(bundle: Showcase, role: str) -> str:
    """Return the rate and the origin of a threshold of the bundled example, as a sentence."""
    if role not in bundle.tau:
        return ""
    rate = bundle.false_positive_rate
    return f"S_c below τ is flagged: at most {rate:.0%} of clean pairs ({bundle.origin[role]})."
