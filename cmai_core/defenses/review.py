"""The human-review queue: flagged pairs, kept until a person has judged them.

A SQLite file: any number of processes may add, list and resolve, in turn. An entry holds the picture as PNG, its
texts, the score with its threshold, and why it was flagged.
"""

from __future__ import annotations

import io
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmai_core.errors import DataError, OptionError
from cmai_core.paths import data_dir

VERDICTS = ("attack", "false caption", "harmless", "unclear")
LIMIT = 1000
_VERSION = 1
_TABLE = """
CREATE TABLE review (
    id INTEGER PRIMARY KEY, added REAL NOT NULL, model TEXT NOT NULL, item TEXT NOT NULL, texts TEXT NOT NULL,
    picture BLOB NOT NULL, score REAL, tau REAL, reason TEXT NOT NULL,
    verdict TEXT, note TEXT NOT NULL DEFAULT '', resolved REAL
)
"""


@dataclass(frozen=True, eq=False)
class Entry:
    """A flagged pair.

    Attributes:
        id: of the entry. added, resolved: seconds since 1970; resolved None while open.
        model: what flagged it. item: the pair's id. texts: its sentences. picture: uint8 H×W×3.
        score, tau: the detector's score and threshold (None where there was none). reason: why it was flagged.
        verdict: one of `VERDICTS`, None while open. note: the reviewer's.
    """

    id: int
    added: float
    model: str
    item: str
    texts: tuple[str, ...]
    picture: np.ndarray
    score: float | None
    tau: float | None
    reason: str
    verdict: str | None
    note: str
    resolved: float | None


def default_file() -> Path:
    """The queue in the user's data folder."""
    return data_dir() / "review.sqlite"


class ReviewQueue:
    """The queue in a file; made where there is none.

    Args:
        path: of the file (None: `default_file()`). limit: most entries that are kept open; the oldest resolved ones go
            first when there are more than that in all.

    Raises:
        DataError: the file cannot be opened, or is no review queue.
    """

    def __init__(self, path: str | Path | None = None, limit: int = LIMIT):
        self.path = Path(path) if path is not None else default_file()
        self.limit = limit
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path} cannot be made: {error.strerror}.", "Choose another place.") from error
        with self._open() as connection:
            if not self._made(connection):
                connection.execute("BEGIN IMMEDIATE")  # somebody else may be making it
                if not self._made(connection):
                    connection.execute(_TABLE)
                    connection.execute(f"PRAGMA user_version = {_VERSION}")  # of the same transaction

    def _made(self, connection: sqlite3.Connection) -> bool:
        """Whether the file holds a queue; False for an empty one."""
        # Tables first: where the table is there, so is the version, which came with it.
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if tables and ("review" not in tables or version != _VERSION):
            raise DataError(f"{self.path} is no review queue of this version.", "Choose another file.")
        return bool(tables)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction."""
        try:
            connection = sqlite3.connect(self.path, timeout=10)
            try:
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise DataError(f"The review queue {self.path} cannot be used: {error}.", "Check the file.") from error

    def add(
        self,
        picture: np.ndarray,
        texts: Sequence[str],
        *,
        model: str,
        reason: str,
        item: str = "",
        score: float | None = None,
        tau: float | None = None,
        once: bool = False,
    ) -> int | None:
        """Puts a pair into the queue; its id, or None where the queue is full.

        Args:
            picture: uint8 H×W×3. The others: see `Entry`.
            once: where this model's same picture with the same texts is in the queue already, open or resolved, that
                entry's id is returned and nothing is added.
        """
        from PIL import Image

        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise DataError(f"A picture of the form {picture.dtype} {picture.shape}.", "Give uint8 H×W×3.")
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        row = (time.time(), model, item, json.dumps(list(texts)), file.getvalue(), score, tau, reason)
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # nobody adds between the look and the insertion
            if once:
                same = "SELECT id FROM review WHERE model = ? AND texts = ? AND picture = ?"
                known = connection.execute(same, (model, row[3], row[4])).fetchone()
                if known:
                    return known[0]
            if self._count(connection, "verdict IS NULL") >= self.limit:
                return None
            columns = "added, model, item, texts, picture, score, tau, reason"
            key = connection.execute(f"INSERT INTO review ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row).lastrowid
            over = self._count(connection, "1") - self.limit
            if over > 0:
                connection.execute(
                    "DELETE FROM review WHERE id IN (SELECT id FROM review WHERE verdict IS NOT NULL ORDER BY resolved"
                    " LIMIT ?)",
                    (over,),
                )
            return key

    def entries(self, *, open_only: bool = True, limit: int = 100, skip: int = 0) -> list[Entry]:
        """Entries, the lowest score below its threshold first (those without score or threshold last); resolved ones
        after, the one resolved last first.

        Args:
            limit: most that are returned. skip: of the first ones, so many are left out.
        """
        where = "WHERE verdict IS NULL" if open_only else ""
        order = "ORDER BY verdict IS NOT NULL, resolved DESC, score - tau IS NULL, score - tau, id LIMIT ? OFFSET ?"
        with self._open() as connection:
            return [_entry(row) for row in connection.execute(f"SELECT * FROM review {where} {order}", (limit, skip))]

    def resolve(self, key: int, verdict: str, note: str = "") -> None:
        """Closes an entry.

        Raises:
            OptionError: an unknown verdict. DataError: no such entry, or one that is resolved already.
        """
        if verdict not in VERDICTS:
            raise OptionError(f"verdict={verdict!r} is not accepted.", f"Accepted: {', '.join(VERDICTS)}.")
        with self._open() as connection:
            changed = connection.execute(
                "UPDATE review SET verdict = ?, note = ?, resolved = ? WHERE id = ? AND verdict IS NULL",
                (verdict, note, time.time(), key),
            ).rowcount
        if not changed:
            raise DataError(f"Entry {key} is not open.", "It may have been resolved by somebody else.")

    def reopen(self, key: int) -> None:
        """Takes a verdict back.

        Raises:
            DataError: no such entry, one that is open, or as many open ones as may be.
        """
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if self._count(connection, "verdict IS NULL") >= self.limit:
                raise DataError(f"The queue is full: {self.limit} pairs are open.", "Resolve some of them first.")
            changed = connection.execute(
                "UPDATE review SET verdict = NULL, resolved = NULL WHERE id = ? AND verdict IS NOT NULL", (key,)
            ).rowcount
        if not changed:
            raise DataError(f"Entry {key} is not resolved.", "It may be open again, or have made room for others.")

    def counts(self) -> dict[str, int]:
        """Open entries ("open"), and resolved ones by verdict."""
        with self._open() as connection:
            found = connection.execute("SELECT verdict, COUNT(*) FROM review GROUP BY verdict").fetchall()
        return {"open": 0, **dict.fromkeys(VERDICTS, 0), **{verdict or "open": number for verdict, number in found}}

    @staticmethod
    def _count(connection: sqlite3.Connection, where: str) -> int:
        return connection.execute(f"SELECT COUNT(*) FROM review WHERE {where}").fetchone()[0]


def _entry(row: tuple) -> Entry:
    from PIL import Image

    key, added, model, item, texts, picture, score, tau, reason, verdict, note, resolved = row
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return Entry(key, added, model, item, tuple(json.loads(texts)), pixels, score, tau, reason, verdict, note, resolved)
