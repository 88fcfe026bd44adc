"""The counts of classes: the file in the data folder, and what visitors are told of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cmai_core.errors import DataError

if TYPE_CHECKING:
    from cmai_core.lab.lessons.classes import ClassBook

_log = logging.getLogger("cmai.app")


def class_book() -> ClassBook:
    """Return the counts in the user's data folder.

    Raises:
        ClassFileError: their file cannot be used.
    """
    from cmai_core.lab.lessons.classes import ClassBook

    return ClassBook()


@contextmanager
def without_paths() -> Iterator[None]:
    """Log an error of the file, and raise one that names no file to visitors."""
    from cmai_core.lab.lessons.classes import ClassFileError

    try:
        yield
    except ClassFileError as error:
        _log.error("%s %s", error.message, error.hint)
        raise DataError("The class's counts cannot be used at the moment.", "The lab's log says why.") from None
