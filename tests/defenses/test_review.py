"""The human-review queue: durable, ordered, shared, bounded."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cmai_core.defenses.review import VERDICTS, ReviewQueue
from cmai_core.errors import DataError, OptionError


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)


def filled(path, scores=(0.4, 0.1, 0.3)) -> ReviewQueue:
    queue = ReviewQueue(path)
    for k, score in enumerate(scores):
        queue.add(picture(k), [f"caption {k}"], model="tabletop", reason="low S_c", item=str(k), score=score, tau=0.5)
    return queue


def test_the_least_consistent_pair_comes_first_with_everything_about_it(tmp_path):
    entries = filled(tmp_path / "q.sqlite").entries()
    assert [e.score for e in entries] == [0.1, 0.3, 0.4]
    first = entries[0]
    assert (first.texts, first.item, first.tau, first.reason) == (("caption 1",), "1", 0.5, "low S_c")
    assert (first.picture == picture(1)).all()


def test_a_score_that_nothing_says_is_low_comes_last(tmp_path):
    queue = ReviewQueue(tmp_path / "q.sqlite")
    for score, tau in ((0.9, None), (-0.5, 0.2), (None, 0.2), (0.1, 0.2)):
        queue.add(picture(), ["x"], model="m", reason="r", score=score, tau=tau)
    assert [e.score for e in queue.entries()] == [-0.5, 0.1, 0.9, None]


def test_many_may_make_the_same_queue_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for attempt in range(10):
            made = list(pool.map(lambda _, path=tmp_path / f"{attempt}.sqlite": ReviewQueue(path).counts(), range(8)))
            assert all(counts["open"] == 0 for counts in made)


def test_a_resolved_entry_leaves_the_open_ones_and_can_come_back(tmp_path):
    queue = filled(tmp_path / "q.sqlite")
    key = queue.entries()[0].id
    queue.resolve(key, "attack", "clearly noise")
    assert [e.score for e in queue.entries()] == [0.3, 0.4]
    done = queue.entries(open_only=False)[-1]
    assert (done.id, done.verdict, done.note) == (key, "attack", "clearly noise") and done.resolved >= done.added
    assert queue.counts() == {"open": 2, **dict.fromkeys(VERDICTS, 0), "attack": 1}
    with pytest.raises(DataError, match=rf"\b{key}\b"):
        queue.resolve(key, "harmless")
    queue.reopen(key)
    assert len(queue.entries()) == 3
    for wrong in (key, 999):
        with pytest.raises(DataError, match=rf"\b{wrong}\b"):
            queue.reopen(wrong)
    with pytest.raises(OptionError, match="verdict"):
        queue.resolve(key, "maybe")


def test_what_another_process_added_and_was_killed_after_is_there(tmp_path):
    code = (
        "import sys, os, signal, numpy as np; from cmai_core.defenses.review import ReviewQueue;"
        "q = ReviewQueue(sys.argv[1]);"
        "[q.add(np.zeros((4, 4, 3), np.uint8), ['x'], model='m', reason='r', score=k / 10, tau=0.9) for k in range(5)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "q.sqlite")], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert len(ReviewQueue(tmp_path / "q.sqlite").entries()) == 5


def test_many_threads_may_add_at_once(tmp_path):
    queue = ReviewQueue(tmp_path / "q.sqlite")
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda k: queue.add(picture(k), ["x"], model="m", reason="r"), range(32)))
    assert len(set(keys)) == 32 and queue.counts()["open"] == 32


def test_a_pair_is_added_once_where_that_is_asked_for(tmp_path):
    queue = ReviewQueue(tmp_path / "q.sqlite")

    def add(seed=0, text="x", model="m"):
        return queue.add(picture(seed), [text], model=model, reason="r", once=True)

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: add(), range(16)))
    assert len(keys) == 1 and queue.counts()["open"] == 1
    others = {add(seed=1), add(text="y"), add(model="other")}
    assert len(others | keys) == 4
    queue.resolve(min(keys), "harmless")
    assert add() in keys and queue.counts()["open"] == 3
    assert queue.add(picture(), ["x"], model="m", reason="r") not in keys


def test_entries_come_in_pages_and_the_last_resolved_before_earlier_ones(tmp_path):
    queue = filled(tmp_path / "q.sqlite", (0.4, 0.1, 0.3, 0.2))
    for score in (0.4, 0.1):
        queue.resolve(next(e.id for e in queue.entries() if e.score == score), "unclear")
    assert [e.score for e in queue.entries(open_only=False)] == [0.2, 0.3, 0.1, 0.4]
    assert [e.score for e in queue.entries(open_only=False, limit=2, skip=1)] == [0.3, 0.1]
    assert queue.entries(skip=2) == []


def test_it_is_bounded(tmp_path):
    queue = ReviewQueue(tmp_path / "q.sqlite", limit=3)
    keys = [queue.add(picture(), ["x"], model="m", reason="r") for _ in range(4)]
    assert keys[3] is None and queue.counts()["open"] == 3
    queue.resolve(keys[0], "harmless")
    queue.resolve(keys[1], "harmless")
    assert queue.add(picture(), ["x"], model="m", reason="r") is not None
    assert queue.counts() == {"open": 2, **dict.fromkeys(VERDICTS, 0), "harmless": 1}
    queue.add(picture(), ["x"], model="m", reason="r")
    queue.resolve(keys[2], "harmless")
    queue.add(picture(), ["x"], model="m", reason="r")
    with pytest.raises(DataError, match=r"\b3\b"):
        queue.reopen(keys[2])


def test_foreign_files_and_pictures_are_refused(tmp_path):
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE notes (x)")
    before = other.read_bytes()
    with pytest.raises(DataError, match=re.escape(str(other))):
        ReviewQueue(other)
    assert other.read_bytes() == before
    (tmp_path / "text").write_text("not a database, but long enough to be read as the header of one" * 4)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "text"))):
        ReviewQueue(tmp_path / "text")
    with pytest.raises(DataError, match="uint8"):
        ReviewQueue(tmp_path / "q").add(np.zeros((2, 2)), ["x"], model="m", reason="r")
