"""No traceback reaches a visitor: what they can mend is shown with its hint, the rest is logged under a number."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from app import state
from app.components.common.visitor_words import for_visitors
from cmai_core.errors import Cancelled, CmaiError

_log = logging.getLogger("cmai.app")


def show_error(error: BaseException) -> None:
    """Show an error in words a visitor can use."""
    if isinstance(error, CmaiError):
        message, hint = for_visitors(error)
        if (message, hint) != (error.message, error.hint):
            _log.info("shown without paths and commands: %s", error)
        st.error(f"{plain(message)}  \n{plain(hint)}" if hint else plain(message), icon="⚠️")
    elif isinstance(error, Cancelled):
        st.info("Cancelled.", icon="⏹️")
    elif isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        _log.error("out of memory", exc_info=error)
        st.error(
            "There was not enough memory for this.  \nChoose fewer items, a smaller model or fewer restarts.", icon="⚠️"
        )
    else:
        number = uuid.uuid4().hex[:8]
        _log.error("unexpected error %s", number, exc_info=error)
        st.error(
            f"Something went wrong here that is not your doing (note {number} in the server's log).  \n"
            "Your settings are kept; try again or change one of them.",
            icon="⚠️",
        )


def show_notice() -> None:
    """Show the error of the last action once, if there was one."""
    error = state.get(state.NOTICE)
    if error is not None:
        state.put(state.NOTICE, None)
        show_error(error)


def plain(text: str) -> str:
    """Return text with Markdown's special characters made literal: messages quote what people typed."""
    return "".join("\\" + c if c in "\\`*_{}[]<>#$~|" else c for c in text)


@contextmanager
def guard() -> Iterator[None]:
    """Run a part of a page; an error is shown instead of it, and the rest of the page goes on.

    Streamlit's own control flow (rerun, stop) passes through: it does not derive from Exception.
    """
    try:
        yield
    except Exception as error:
        show_error(error)
