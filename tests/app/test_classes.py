"""A class's counts: anonymous, bounded, and safe from hostile words and files."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from cmai_core.errors import DataError, OptionError
from cmai_core.lab.lessons.classes import IDLE_SECONDS, ClassBook, ClassFileError, class_word

HOSTILE = (
    "", "ab", "a" * 25, "../../etc/passwd", "a/b/c", "x'; DROP TABLE answers;--", "-abc", "abc-", "ab\x00c", "ａｂｃ",
    "ab c", "<b>abc</b>", None, 7,
)  # fmt: skip


@pytest.fixture
def book(tmp_path):
    return ClassBook(tmp_path / "classes.sqlite", most=3, answers=5)


@pytest.mark.parametrize("word", HOSTILE, ids=repr)
def test_a_hostile_word_is_refused_and_nothing_is_written(book, word):
    with pytest.raises(OptionError):
        class_word(word)
    with pytest.raises(OptionError):
        book.add(word, "fgsm", 0, 0)
    with pytest.raises(OptionError):
        book.counts(word, "fgsm", 0, 3)
    assert [path.name for path in book.path.parent.iterdir()] == ["classes.sqlite"]


def test_answers_are_counted_by_class_lesson_and_step(book):
    for answer in (0, 2, 2):
        assert book.add(" Spring-2 ", "fgsm", 1, answer)
    assert book.counts("spring-2", "fgsm", 1, 3) == (1, 0, 2)
    assert book.counts("spring-2", "fgsm", 0, 3) == (0, 0, 0) == book.counts("autumn", "fgsm", 1, 3)
    for lesson, step, answer in (("none", 0, 0), ("fgsm", 5, 0), ("fgsm", -1, 0), ("fgsm", 0, 8), ("fgsm", 0, -1)):
        with pytest.raises(OptionError):
            book.add("spring-2", lesson, step, answer)


def test_classes_and_answers_are_bounded(book):
    assert [book.add("one", "fgsm", 0, 0) for _ in range(7)] == [True] * 5 + [False] * 2
    book.add("two", "fgsm", 0, 0), book.add("three", "fgsm", 0, 0)
    with pytest.raises(DataError, match="no room"):
        book.add("four", "fgsm", 0, 0)
    with sqlite3.connect(book.path) as connection:
        connection.execute("UPDATE classes SET used = used - ? WHERE word = 'one'", (IDLE_SECONDS + 1,))
    assert book.add("four", "fgsm", 0, 0)
    assert book.counts("one", "fgsm", 0, 1) == (0,) and book.counts("two", "fgsm", 0, 1) == (1,)


def test_nothing_but_counts_is_kept(book):
    book.add("spring", "fgsm", 0, 1)
    with sqlite3.connect(book.path) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(answers)")}
    assert columns == {"word", "lesson", "step", "answer", "count"}


def test_many_at_once_lose_no_answer(tmp_path):
    path = tmp_path / "classes.sqlite"
    threads = [
        threading.Thread(target=lambda: [ClassBook(path).add("spring", "fgsm", 0, 1) for _ in range(8)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ClassBook(path).counts("spring", "fgsm", 0, 2) == (0, 32)


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "classes.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(ClassFileError):
        ClassBook(path)
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE review (id INTEGER)")
    with pytest.raises(ClassFileError):
        ClassBook(tmp_path / "other.sqlite")


def test_one_address_begins_only_so_many_classes():
    from app.services.classes import CLASSES_PER_ADDRESS, _Begun

    begun = _Begun()
    for k in range(CLASSES_PER_ADDRESS):
        begun.enter("here", f"class-{k}")
    begun.enter("here", "class-0")
    with pytest.raises(DataError, match="Too many"):
        begun.enter("here", "one-more")
    begun.enter("there", "one-more")
