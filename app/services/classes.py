"""The counts of classes: the file in the data folder, and what visitors are told of it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from app.services import presence
from cmai_core.errors import DataError

if TYPE_CHECKING:
    from cmai_core.lab.lessons.classes import ClassBook

_log = logging.getLogger("cmai.app")
CLASSES_PER_ADDRESS = 10
"""Classes that one address may answer in while the lab runs, so that nobody fills the file with words."""
_ADDRESSES = 4096


def class_book() -> ClassBook:
    """Return the counts in the user's data folder.

    Raises:
        ClassFileError: their file cannot be used.
    """
    from cmai_core.lab.lessons.classes import ClassBook

    return ClassBook()


class _Begun:
    """Which classes an address has answered in; the addresses seen last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._words: OrderedDict[str, set[str]] = OrderedDict()

    def enter(self, address: str, word: str) -> None:
        """Note a class of an address.

        Raises:
            DataError: it is one more than an address may have.
        """
        with self._lock:
            words = self._words.setdefault(address, set())
            self._words.move_to_end(address)
            if word not in words and len(words) >= CLASSES_PER_ADDRESS:
                raise DataError("Too many classes have been begun from here.", "Use the word of one of them.")
            words.add(word)
            while len(self._words) > _ADDRESSES:
                self._words.popitem(last=False)


@st.cache_resource(show_spinner=False)
def _begun() -> _Begun:
    return _Begun()


def count_answer(word: str, lesson: str, step: int, answer: int) -> bool:
    """Count an answer of this visitor in a class; returns whether it was counted (`ClassBook.add`).

    Raises:
        DataError: no room, or too many classes from one address.
    """
    _begun().enter(presence.owner().address, word)
    with without_paths():
        return class_book().add(word, lesson, step, answer)


@contextmanager
def without_paths() -> Iterator[None]:
    """Log an error of the file, and raise one that names no file to visitors."""
    from cmai_core.lab.lessons.classes import ClassFileError

    try:
        yield
    except ClassFileError as error:
        _log.error("%s %s", error.message, error.hint)
        raise DataError("The class's counts cannot be used at the moment.", "The lab's log says why.") from None
