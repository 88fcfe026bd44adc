"""The durable queue of flagged pairs: who may judge it, who sent a pair, and what visitors are told of its file."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.access import permissions
from app.services import presence
from cmai_core.errors import DataError

if TYPE_CHECKING:
    from cmai_core.defenses.review import ReviewQueue

_log = logging.getLogger("cmai.app")


def review_queue() -> ReviewQueue:
    """Return the queue in the user's data folder.

    Raises:
        ReviewFileError: its file cannot be used.
    """
    from cmai_core.defenses.review import ReviewQueue

    return ReviewQueue()


@contextmanager
def without_paths() -> Iterator[None]:
    """Log an error of the queue's file, and raise one that names no file to visitors."""
    from cmai_core.defenses.review import ReviewFileError

    try:
        yield
    except ReviewFileError as error:
        _log.error("%s %s", error.message, error.hint)
        raise DataError("The review queue cannot be used at the moment.", "The lab's log says why.") from None


@st.cache_resource(show_spinner=False)
def _salt() -> bytes:
    return secrets.token_bytes(16)


def sender() -> str:
    """Return who sends a pair: the visitor's address (see `presence`), hashed with a salt of this process."""
    who = presence.owner().address
    return f"visitor:{hashlib.sha256(_salt() + who.encode()).hexdigest()[:16]}"


def is_reviewer() -> bool:
    """Tell whether this visitor may see and judge the pairs that others have sent."""
    return permissions.rules().reviewer(st.session_state.get(state.REVIEWER) or "")
