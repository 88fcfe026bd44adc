"""Pictures of visitors: decoded once, in a process of their own, and kept small under the uploaded file's id."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.images import data_url, encode, sha256, thumbnail

if TYPE_CHECKING:
    import numpy as np

DECODED_AT_ONCE = 2
PATIENCE = 60.0
"""Seconds that an upload waits for its turn to be decoded."""
KEPT = 2
"""Uploads a session keeps: the one in use and those tried last."""
_TAKEN = "uploads_taken"


@dataclass(frozen=True)
class Upload:
    """A decoded upload, made smaller where it was large.

    Attributes:
        sha: digest of its pixels. png: the pixels. width, height: of them.
        view, small: the picture as a data: URL for the dialog and for the chosen pair's panel, lossy.
    """

    sha: str
    png: bytes
    width: int
    height: int
    view: str
    small: str


def take_upload(data: bytes) -> Upload:
    """Decode an upload, safely and within bounds of time and memory.

    Raises:
        DataError: for anything that is not a proper picture.
    """
    from cmai_core.data.apart import decode_apart

    with turn():
        image = decode_apart(data)
    return upload_of(image)


def upload_of(image: np.ndarray) -> Upload:
    """Return a picture (uint8 H×W×3, decoded) as the lab keeps a visitor's own."""
    from cmai_core.data.apart import shrunk

    view, small = (data_url(picture, "WEBP", 85) for picture in (shrunk(image, 360), thumbnail(image, 192)))
    return Upload(sha256(image.tobytes()), encode(image), image.shape[1], image.shape[0], view, small)


def taken(file: Any) -> Upload:
    """Return the picture of an uploaded file, which is decoded in the first run that sees it.

    Args:
        file: as `st.file_uploader` gives it. Its bytes are let go of as soon as they have been decoded.

    Raises:
        DataError: as from `take_upload`, in each run the same.
    """
    return taken_once(file, take_upload)


def taken_once(file: Any, read: Callable[[bytes], Any]) -> Any:
    """Return what `read` makes of an uploaded file, in the first run that sees it; the session keeps the last few.

    Raises:
        CmaiError: as from `read`, in each run the same.
    """
    kept: dict[str, Any] = st.session_state.setdefault(_TAKEN, {})
    if file.file_id not in kept:
        try:
            found: Any = read(file.getvalue())
        except CmaiError as error:  # kept without its traceback, whose frames hold the file
            found = type(error)(error.message, error.hint)
        kept[file.file_id] = found
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
        _let_go(file)
    found = kept[file.file_id]
    if isinstance(found, CmaiError):
        raise type(found)(found.message, found.hint)  # a new one, for the same reason
    return found


@st.cache_resource(show_spinner=False)
def _turns() -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(DECODED_AT_ONCE)


@contextmanager
def turn() -> Iterator[None]:
    """Hold one of the few places in which strangers' files are decoded.

    Raises:
        DataError: there was none for a minute.
    """
    turns = _turns()
    if not turns.acquire(timeout=PATIENCE):
        raise DataError("Many pictures are being read at the moment.", "Try again in a minute.")
    try:
        yield
    finally:
        turns.release()


def _let_go(file: Any) -> None:
    """Drop the bytes that Streamlit keeps of an uploaded file, and leave the widget its name."""
    from streamlit.runtime.scriptrunner import get_script_run_ctx
    from streamlit.runtime.uploaded_file_manager import UploadedFileRec

    context = get_script_run_ctx(suppress_warning=True)
    manager = getattr(context, "uploaded_file_mgr", None)
    if hasattr(manager, "add_file"):
        manager.add_file(context.session_id, UploadedFileRec(file.file_id, file.name, file.type, b""))
