"""What a class has answered: anonymous counts by class word, lesson and step, in a file of the data folder.

Nothing but counts is kept: no name, no address, no time of a single answer. The file is bounded: so many classes, so
many answers of each; a class that nobody has used for a while makes room for a new one.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmai_core.errors import DataError, OptionError
from cmai_core.lab.lessons.lesson import MOST_OPTIONS
from cmai_core.lab.lessons.registry import LESSONS
from cmai_core.paths import data_dir

WORD = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,22})[a-z0-9]")
MOST_CLASSES = 200
MOST_ANSWERS = 10_000
"""Of one class; later ones are not counted."""
IDLE_SECONDS = 30 * 24 * 3600.0
"""After so long without an answer a class makes room, where there are as many as may be."""
_VERSION = 1
_TABLES = """
CREATE TABLE classes (word TEXT PRIMARY KEY, used REAL NOT NULL);
CREATE TABLE answers (word TEXT NOT NULL, lesson TEXT NOT NULL, step INTEGER NOT NULL, answer INTEGER NOT NULL,
    count INTEGER NOT NULL, PRIMARY KEY (word, lesson, step, answer));
"""


class ClassFileError(DataError):
    """The file of the classes cannot be used, or is none."""


def class_word(text: str) -> str:
    """Return a class's word as it is kept: small letters, digits and dashes, 3 to 24 of them.

    Raises:
        OptionError: anything else.
    """
    word = text.strip().lower() if isinstance(text, str) else ""
    if WORD.fullmatch(word) is None:
        raise OptionError(
            "This is no word for a class.", "3 to 24 letters a to z, digits and dashes, such as “spring-2”."
        )
    return word


class ClassBook:
    """The counts in a file; made where there is none.

    Args:
        path: of the file (None: in the data folder). most: classes at a time. answers: of one class.

    Raises:
        ClassFileError: the file cannot be opened, or is another one.
    """

    def __init__(self, path: Path | None = None, most: int = MOST_CLASSES, answers: int = MOST_ANSWERS):
        self.path = path if path is not None else data_dir() / "classes.sqlite"
        self.most, self.answers = most, answers
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClassFileError(f"{self.path} cannot be made: {error.strerror}.") from error
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # somebody else may be making it
            found = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if found and (version != _VERSION or not {"classes", "answers"} <= found):
                raise ClassFileError(f"{self.path} holds no classes of this version.", "Move it away.")
            if not found:
                for statement in filter(str.strip, _TABLES.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for one transaction."""
        try:
            connection = sqlite3.connect(self.path, timeout=5)
            try:
                with connection:
                    yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OverflowError) as error:
            message = f"The file {self.path} cannot be used: {error}."
            raise ClassFileError(message, "Check the file, or move it away.") from error

    def add(self, word: str, lesson: str, step: int, answer: int) -> bool:
        """Count one answer.

        Args:
            answer: the place among the question's groups.

        Returns:
            Whether it was counted; not where the class has as many answers as may be.

        Raises:
            OptionError: no such word, lesson, step or answer. DataError: there is no room for another class.
        """
        word = class_word(word)
        if not 0 <= step < len(LESSONS.find(lesson).steps) or not 0 <= answer < MOST_OPTIONS:
            raise OptionError("There is no such step or answer.")
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._enter(connection, word)
            (total,) = connection.execute("SELECT TOTAL(count) FROM answers WHERE word = ?", (word,)).fetchone()
            if total >= self.answers:
                return False
            connection.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                (word, lesson, step, answer),
            )
        return True

    def _enter(self, connection: sqlite3.Connection, word: str) -> None:
        """Note that a class is used, a new one if there is room."""
        now = time.time()
        if connection.execute("UPDATE classes SET used = ? WHERE word = ?", (now, word)).rowcount:
            return
        if connection.execute("SELECT COUNT(*) FROM classes").fetchone()[0] >= self.most:
            oldest, used = connection.execute("SELECT word, used FROM classes ORDER BY used LIMIT 1").fetchone()
            if used > now - IDLE_SECONDS:
                raise DataError("There is no room for another class.", "Use the word of an existing one.")
            for table in ("answers", "classes"):
                connection.execute(f"DELETE FROM {table} WHERE word = ?", (oldest,))
        connection.execute("INSERT INTO classes VALUES (?, ?)", (word, now))

    def counts(self, word: str, lesson: str, step: int, groups: int) -> tuple[int, ...]:
        """Return how many of a class gave each of `groups` answers at a step; zeros of an unknown class.

        Raises:
            OptionError: no word for a class.
        """
        query = "SELECT answer, count FROM answers WHERE word = ? AND lesson = ? AND step = ?"
        with self._open() as connection:
            found = dict(connection.execute(query, (class_word(word), lesson, step)).fetchall())
        return tuple(int(found.get(k, 0)) for k in range(groups))
