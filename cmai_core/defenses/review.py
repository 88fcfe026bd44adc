"""The human-review queue: flagged pairs, kept until a person has judged them.

A SQLite file: any number of processes may add, list and resolve, in turn. An entry holds the picture as PNG, its
texts, the score with its threshold, and why it was flagged. What cannot be read of an entry is said in it and hides
none of the others.
"""

from __future__ import annotations

import io
import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmai_core.errors import CmaiError, DataError, OptionError
from cmai_core.paths import data_dir

VERDICTS = ("attack", "false caption", "harmless", "unclear")
LIMIT = 1000
SENDER_LIMIT = 20
"""Open entries of one sender; all senders together may fill half of the queue."""
MAX_PICTURE = 64 * 1024 * 1024
"""Bytes of a stored picture; a longer one is not read."""
MAX_TEXTS = 100_000
_LATEST = 4_000_000_000.0  # seconds since 1970: beyond it, a time is damage
_VERSION = 2
_COLUMNS = "id, added, model, item, texts, picture, score, tau, reason, verdict, note, resolved"
_TABLE = """
CREATE TABLE review (
    id INTEGER PRIMARY KEY, added REAL NOT NULL, model TEXT NOT NULL, item TEXT NOT NULL, texts TEXT NOT NULL,
    picture BLOB NOT NULL, score REAL, tau REAL, reason TEXT NOT NULL,
    verdict TEXT, note TEXT NOT NULL DEFAULT '', resolved REAL, sender TEXT NOT NULL DEFAULT ''
)
"""


class ReviewFileError(DataError):
    """The queue's file cannot be used, or is none."""


class SenderLimitError(DataError):
    """A sender, or all of them together, have as many open entries as they may."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A flagged pair.

    Attributes:
        id: of the entry. added, resolved: seconds since 1970; resolved None while open.
        model: what flagged it. item: the pair's id. texts: its sentences. picture: uint8 H×W×3.
        score, tau: the detector's score and threshold (None where there was none). reason: why it was flagged.
        verdict: one of `VERDICTS`, None while open. note: the reviewer's.
        damage: what of it could not be read, "" where all could; a picture that could not is a grey square.
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
    damage: str = ""


def default_file() -> Path:
    """Return the queue in the user's data folder."""
    return data_dir() / "review.sqlite"


class ReviewQueue:
    """The queue in a file; made where there is none.

    Args:
        path: of the file (None: `default_file()`). limit: most entries that are kept open; the oldest resolved ones go
            first when there are more than that in all. sender_limit: most open ones of one sender.

    Raises:
        ReviewFileError: the file cannot be opened, or is no review queue.
    """

    def __init__(self, path: str | Path | None = None, limit: int = LIMIT, sender_limit: int = SENDER_LIMIT):
        self.path = Path(path) if path is not None else default_file()
        self.limit, self.sender_limit = limit, sender_limit
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ReviewFileError(f"{self.path} cannot be made: {reason}.", "Choose another place.") from error
        with self._open() as connection:
            if self._version(connection) != _VERSION:
                connection.execute("BEGIN IMMEDIATE")  # somebody else may be making it
                version = self._version(connection)
                if version is None:
                    connection.execute(_TABLE)
                elif version == 1:
                    connection.execute("ALTER TABLE review ADD COLUMN sender TEXT NOT NULL DEFAULT ''")
                connection.execute(f"PRAGMA user_version = {_VERSION}")  # of the same transaction
            connection.execute(
                f"SELECT {_COLUMNS}, sender FROM review LIMIT 0"
            )  # or the table is not what it is called

    def _version(self, connection: sqlite3.Connection) -> int | None:
        """Return which queue the file holds; None for an empty one."""
        # Tables first: where the table is there, so is the version, which came with it.
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not tables:
            return None
        if "review" not in tables or version not in (1, _VERSION):
            raise ReviewFileError(f"{self.path} is no review queue of this version.", "Choose another file.")
        return version

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for one transaction."""
        try:
            connection = sqlite3.connect(self.path, timeout=10)
            connection.text_factory = lambda text: text.decode("utf-8", "replace")
            try:
                with connection:
                    yield connection
            finally:
                connection.close()
        except (sqlite3.Error, ValueError, OverflowError) as error:
            if isinstance(error, CmaiError):
                raise
            message = f"The review queue {self.path} cannot be used: {error}."
            raise ReviewFileError(message, "Check the file, or move it away and start a new one.") from error

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
        sender: str = "",
    ) -> int | None:
        """Put a pair into the queue; return its id, or None where the queue is full.

        Args:
            picture: uint8 H×W×3. The others: see `Entry`.
            once: where this model's same picture with the same texts is in the queue already, open or resolved, that
                entry's id is returned and nothing is added.
            sender: who sends it, where that may be anybody: their entries are bounded. "": the owner's own system.

        Raises:
            DataError: no picture. SenderLimitError: as many of this sender, or of all senders, are open as may be.
        """
        from PIL import Image

        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise DataError(f"A picture of the form {picture.dtype} {picture.shape}.", "Give uint8 H×W×3.")
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        row = (time.time(), model, item, json.dumps(list(texts)), file.getvalue(), score, tau, reason, sender)
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # nobody adds between the look and the insertion
            if once:
                same = "SELECT id FROM review WHERE model = ? AND texts = ? AND picture = ?"
                known = connection.execute(same, (model, row[3], row[4])).fetchone()
                if known:
                    return known[0]
            if self._count(connection, "verdict IS NULL") >= self.limit:
                return None
            if sender:
                self._room_for(connection, sender)
            columns = "added, model, item, texts, picture, score, tau, reason, sender"
            key = connection.execute(f"INSERT INTO review ({columns}) VALUES (?{', ?' * 8})", row).lastrowid
            over = self._count(connection, "1") - self.limit
            if over > 0:
                connection.execute(
                    "DELETE FROM review WHERE id IN (SELECT id FROM review WHERE verdict IS NOT NULL ORDER BY resolved"
                    " LIMIT ?)",
                    (over,),
                )
            return key

    def _room_for(self, connection: sqlite3.Connection, sender: str) -> None:
        if self._count(connection, "verdict IS NULL AND sender = ?", sender) >= self.sender_limit:
            raise SenderLimitError(
                f"{self.sender_limit} of your pairs are waiting to be judged.", "Wait until some of them have been."
            )
        if self._count(connection, "verdict IS NULL AND sender != ''") >= max(1, self.limit // 2):
            raise SenderLimitError("The queue has no room for more pairs of visitors.", "Try again another day.")

    def entries(
        self, *, open_only: bool = True, limit: int = 100, skip: int = 0, only: Sequence[int] | None = None
    ) -> list[Entry]:
        """Entries, the lowest score below its threshold first (those without score or threshold last).

        Resolved ones after, the one resolved last first.

        Args:
            limit: most that are returned. skip: of the first ones, so many are left out. only: those with these ids.
        """
        where = ["verdict IS NULL"] if open_only else []
        if only is not None:
            where.append(f"id IN ({', '.join(str(int(key)) for key in only)})")
        picked = _COLUMNS.replace("picture", f"CASE WHEN length(picture) <= {MAX_PICTURE} THEN picture END")
        picked = picked.replace("texts", f"substr(texts, 1, {MAX_TEXTS})")
        order = "ORDER BY verdict IS NOT NULL, resolved DESC, score - tau IS NULL, score - tau, id LIMIT ? OFFSET ?"
        query = f"SELECT {picked} FROM review {'WHERE ' * bool(where)}{' AND '.join(where)} {order}"
        with self._open() as connection:
            rows = connection.execute(query, (limit, skip)).fetchall()
        return [_entry(row) for row in rows]

    def resolve(self, key: int, verdict: str, note: str = "") -> None:
        """Close an entry.

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
        """Take a verdict back.

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
        counts = {"open": 0, **dict.fromkeys(VERDICTS, 0)}
        for verdict, number in found:
            counts["open" if verdict is None else verdict if verdict in VERDICTS else "unclear"] += number
        return counts

    @staticmethod
    def _count(connection: sqlite3.Connection, where: str, *values: Any) -> int:
        return connection.execute(f"SELECT COUNT(*) FROM review WHERE {where}", values).fetchone()[0]


def _entry(row: tuple) -> Entry:
    """Return an entry as it is stored; of a damaged one what can be read, and which of its parts cannot."""
    key, added, model, item, texts, picture, score, tau, reason, verdict, note, resolved = row
    bad: list[str] = []

    def read(name: str, work: Callable[[], Any], instead: Any) -> Any:
        try:
            return work()
        except (CmaiError, ValueError, TypeError, OverflowError, RecursionError):
            bad.append(name)
            return instead

    return Entry(
        id=key if isinstance(key, int) else 0,
        added=read("time", lambda: _time(added), 0.0),
        model=read("model", lambda: _text(model), ""),
        item=read("item", lambda: _text(item), ""),
        texts=read("texts", lambda: _sentences(texts), ()),
        picture=read("picture", lambda: _pixels(picture), np.full((64, 64, 3), 128, np.uint8)),
        score=read("score", lambda: None if score is None else _number(score), None),
        tau=read("threshold", lambda: None if tau is None else _number(tau), None),
        reason=read("reason", lambda: _text(reason), ""),
        verdict=None if verdict is None else verdict if verdict in VERDICTS else "unclear",
        note=read("note", lambda: _text(note), ""),
        resolved=read("time of the verdict", lambda: None if verdict is None else _time(resolved), 0.0),
        damage=", ".join(bad),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value[:MAX_TEXTS]


def _number(value: Any) -> float:
    if isinstance(value, str | bytes) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _time(value: Any) -> float:
    if not 0 <= _number(value) <= _LATEST:
        raise ValueError
    return float(value)


def _sentences(value: Any) -> tuple[str, ...]:
    found = json.loads(_text(value))
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError
    return tuple(found)


def _pixels(value: Any) -> np.ndarray:
    from cmai_core.data.uploads import decode_image

    if not isinstance(value, bytes):
        raise TypeError
    return decode_image(value, max_bytes=MAX_PICTURE)
