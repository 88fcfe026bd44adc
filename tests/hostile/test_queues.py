"""Damaged review queues: the file is refused in words, or what is sound in it is shown; nothing is lost."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from cmai_core.defenses import review
from cmai_core.defenses.review import VERDICTS, Entry, ReviewFileError, ReviewQueue, SenderLimitError
from cmai_core.errors import CmaiError, DataError

SOUND = 3


def filled(path: Path) -> ReviewQueue:
    queue = ReviewQueue(path)
    rng = np.random.default_rng(0)
    for k in range(SOUND + 1):
        picture = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
        queue.add(picture, [f"a red cube {k}"], model="m", reason="r", item=str(k), score=k / 10, tau=0.5)
    return queue


def all_kinds(entries: list[Entry]) -> None:
    """Every field has the type that the page relies on."""
    for entry in entries:
        assert isinstance(entry.id, int) and isinstance(entry.added, float)
        assert entry.picture.dtype == np.uint8 and entry.picture.ndim == 3 and entry.picture.shape[2] == 3
        assert isinstance(entry.texts, tuple) and all(isinstance(text, str) for text in entry.texts)
        assert all(isinstance(v, str) for v in (entry.model, entry.item, entry.reason, entry.note, entry.damage))
        assert all(v is None or isinstance(v, float) for v in (entry.score, entry.tau, entry.resolved))
        assert entry.verdict is None or entry.verdict in VERDICTS


# --- one damaged row --------------------------------------------------------------------------------------------------

DEEP = "[" * 50_000
ROWS: dict[str, tuple[str, object]] = {
    "picture cut off": ("picture", b"\x89PNG\r\n\x1a\n" + bytes(20)),
    "picture of another kind": ("picture", b"GIF89a" + bytes(40)),
    "picture empty": ("picture", b""),
    "picture a text": ("picture", "cat.png"),
    "picture a number": ("picture", 7),
    "picture larger than is read": ("picture", "zeroblob"),
    "picture of too many pixels": ("picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\2\0\0\0" + bytes(40)),
    "texts no JSON": ("texts", "a red cube"),
    "texts cut off": ("texts", '["a red'),
    "texts an object": ("texts", '{"a": 1}'),
    "texts numbers": ("texts", "[1, null]"),
    "texts deep": ("texts", DEEP),
    "texts bytes": ("texts", b"\xff\xfe"),
    "texts null JSON": ("texts", "null"),
    "texts huge": ("texts", json.dumps(["x" * 3_000_000])),
    "time a word": ("added", "yesterday"),
    "time infinite": ("added", float("inf")),
    "time far off": ("added", 1e300),
    "time before all": ("added", -5.0),
    "time bytes": ("added", b"\0"),
    "score a word": ("score", "high"),
    "score infinite": ("score", float("-inf")),
    "score bytes": ("score", b"\1"),
    "threshold a word": ("tau", "low"),
    "threshold bytes": ("tau", b"x"),
    "model bytes": ("model", b"\xc3\x28"),
    "item a number": ("item", b"\xff"),
    "reason bytes": ("reason", b"\xff\xff"),
    "note bytes": ("note", b"\xf0"),
}  # fmt: skip
VERDICT_ROWS = {"verdict unknown": "maybe", "verdict empty": "", "verdict bytes": b"\xff", "verdict a number": 3}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> bytes:
    """The bytes of a sound queue."""
    path = tmp_path_factory.mktemp("queue") / "q.sqlite"
    filled(path)
    return path.read_bytes()


@pytest.fixture
def copied(template, tmp_path) -> Path:
    path = tmp_path / "q.sqlite"
    path.write_bytes(template)
    return path


def change(path: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql, values)
    connection.close()


@pytest.mark.parametrize("kind", ROWS)
def test_a_damaged_row_hides_no_other(kind, copied, monkeypatch):
    column, value = ROWS[kind]
    if value == "zeroblob":
        monkeypatch.setattr(review, "MAX_PICTURE", 5000)
        change(copied, "UPDATE review SET picture = zeroblob(5001) WHERE id = 2")
    else:
        change(copied, f"UPDATE review SET {column} = ? WHERE id = 2", value)
    queue = ReviewQueue(copied)
    entries = queue.entries()
    all_kinds(entries)
    assert len(entries) == SOUND + 1 and sum(not entry.damage for entry in entries) >= SOUND
    (hurt,) = (entry for entry in entries if entry.id == 2)
    assert hurt.damage
    queue.resolve(2, "unclear", "damaged")  # it can be put away like any other
    assert queue.counts()["open"] == SOUND


@pytest.mark.parametrize("kind", VERDICT_ROWS)
def test_an_unknown_verdict_is_an_unclear_one(kind, copied):
    change(copied, "UPDATE review SET verdict = ?, resolved = 'then' WHERE id = 2", VERDICT_ROWS[kind])
    queue = ReviewQueue(copied)
    assert queue.counts() == {"open": SOUND, **dict.fromkeys(VERDICTS, 0), "unclear": 1}
    entries = queue.entries(open_only=False)
    all_kinds(entries)
    assert [entry.id for entry in entries if entry.verdict == "unclear"] == [2]


# --- a damaged file ---------------------------------------------------------------------------------------------------


def files(folder: Path, template: bytes) -> dict[str, Path]:
    """Files that are no queue, by what is wrong with them."""
    made = {}

    def put(name: str, data: bytes | None = None, *statements: str) -> None:
        path = made[name] = folder / f"{len(made)}.sqlite"
        if data is not None:
            path.write_bytes(data)
        for statement in statements:
            change(path, statement)

    put("a text", b"not a database, but long enough to be taken for the header of one" * 4)
    put("a picture", b"\x89PNG\r\n\x1a\n" + bytes(4000))
    put("only a header", template[:100])
    put("half", template[: len(template) // 2])
    put("header overwritten", b"SQLite format 4\0" + template[16:])
    put("page size of none", template[:16] + b"\0\3" + template[18:])
    put("tables overwritten", template[:100] + bytes(400) + template[500:])
    put("another database", None, "CREATE TABLE words (word TEXT)")
    put("a later version", template, "PRAGMA user_version = 99")
    put("no version", template, "PRAGMA user_version = 0")
    put("columns missing", None, "CREATE TABLE review (id INTEGER, verdict TEXT)", "PRAGMA user_version = 2")
    put("a column renamed", template, "ALTER TABLE review RENAME COLUMN picture TO image")
    put("an older one without columns", None, "CREATE TABLE review (id INTEGER)", "PRAGMA user_version = 1")
    made["a folder"] = folder / "folder"
    made["a folder"].mkdir()
    made["below a file"] = made["a text"] / "q.sqlite"
    made["a name with a null"] = folder / "a\0b.sqlite"
    made["a name too long"] = folder / ("x" * 300)
    if hasattr(os, "mkfifo"):
        made["a pipe"] = folder / "pipe"
        os.mkfifo(made["a pipe"])
    return made


KINDS = (
    "a text", "a picture", "only a header", "half", "header overwritten", "page size of none", "tables overwritten",
    "another database", "a later version", "no version", "columns missing", "a column renamed",
    "an older one without columns", "a folder", "below a file", "a name with a null", "a name too long", "a pipe",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_queue_is_refused_and_left_alone(kind, tmp_path, template):
    made = files(tmp_path, template)
    if kind not in made:
        pytest.skip("this system has none")
    path = made[kind]
    before = path.read_bytes() if os.path.isfile(path) else None
    with pytest.raises(ReviewFileError) as caught:
        queue = ReviewQueue(path)
        queue.counts()
        queue.entries(open_only=False)
    assert caught.value.hint
    if before is not None:
        assert path.read_bytes() == before


def test_random_damage_is_refused_or_survived(tmp_path, template):
    """Bytes changed anywhere in the file: no other error than a DataError, and what is returned is whole."""
    rng = random.Random(0)
    path, refused = tmp_path / "q.sqlite", 0
    for _ in range(150):
        data = bytearray(template)
        for _ in range(rng.choice((1, 4, 40))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            queue = ReviewQueue(path)
            queue.counts()
            all_kinds(queue.entries(open_only=False))
            queue.add(np.zeros((4, 4, 3), np.uint8), ["x"], model="m", reason="r")
        except DataError as error:
            assert error.hint
            refused += 1
    assert 0 < refused < 150


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_file_that_may_not_be_written_is_shown_and_said(copied):
    copied.chmod(0o400)
    queue = ReviewQueue(copied)
    assert len(queue.entries()) == SOUND + 1
    with pytest.raises(ReviewFileError):
        queue.resolve(1, "attack")


def test_a_queue_of_the_first_version_goes_on(copied):
    change(copied, "ALTER TABLE review DROP COLUMN sender")
    change(copied, "PRAGMA user_version = 1")
    queue = ReviewQueue(copied)
    assert len(queue.entries()) == SOUND + 1
    assert queue.add(np.zeros((4, 4, 3), np.uint8), ["x"], model="m", reason="r", sender="s") is not None


# --- one that somebody wants to fill ----------------------------------------------------------------------------------


def test_one_sender_fills_neither_the_queue_nor_the_visitors_half(tmp_path):
    queue = ReviewQueue(tmp_path / "q.sqlite", limit=40, sender_limit=5)
    rng = np.random.default_rng(0)

    def send(who: str) -> bool:
        picture = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        try:
            return queue.add(picture, ["x"], model="m", reason="r", sender=who) is not None
        except SenderLimitError as error:
            assert error.hint
            return False

    assert sum(send("a") for _ in range(50)) == 5
    assert sum(send(f"other {k}") for k in range(50)) == 15  # twenty of visitors in all
    assert sum(send("") for _ in range(50)) == 20  # the other half is the deployed system's
    queue.resolve(queue.entries()[0].id, "harmless")
    assert send("")


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(CmaiError):
        ReviewQueue("a\0b")
