"""The page Review: empty, filled, judged, taken back, in pages, and with a file that is none."""

from __future__ import annotations

import numpy as np
import pytest

from cmai_core.defenses.review import VERDICTS, ReviewQueue


@pytest.fixture
def queue(tmp_path, monkeypatch):
    monkeypatch.setenv("CMAI_DATA", str(tmp_path))
    return ReviewQueue(tmp_path / "review.sqlite")


def put(queue, count=1, text="a red cube", reason="flagged by CMCV"):
    rng = np.random.default_rng(count)
    for k in range(count):
        picture = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
        queue.add(picture, [f"{text} {k}"], model="tabletop", reason=reason, item=f"pair {k}", score=k / 100, tau=0.5)


def test_an_empty_queue_explains_itself(app, queue, texts):
    at = app("review")
    assert not at.exception and not at.error
    assert "The queue is empty" in texts(at) and "Send to review" in texts(at) and "review.sqlite" not in texts(at)


def test_a_pair_is_judged_with_a_note_and_taken_back(app, queue, texts):
    put(queue, 2)
    at = app("review")
    said = texts(at)
    assert "a red cube 0" in said and "score 0.010 against τ 0.500" in said and "Flagged by CMCV." in said
    first = queue.entries()[0].id
    at.text_input(key=f"review_note_{first}").set_value("<i>noise</i> in the sky")
    at.button(key=f"review_false_caption_{first}").click().run()
    assert queue.counts() == {"open": 1, **dict.fromkeys(VERDICTS, 0), "false caption": 1}
    assert "a red cube 0" not in texts(at) and "a red cube 1" in texts(at)
    at.button_group(key="review_shown").set_value("resolved").run()
    said = texts(at)
    assert "False caption: &lt;i&gt;noise&lt;/i&gt; in the sky" in said and "<i>" not in said and "judged 2" in said
    at.button(key=f"review_reopen_{first}").click().run()
    assert queue.counts()["open"] == 2 and "Nothing is resolved yet" in texts(at)
    at.button_group(key="review_shown").set_value("open").run()
    assert at.text_input(key=f"review_note_{first}").value == "<i>noise</i> in the sky"
    for entry in queue.entries():
        at.button(key=f"review_harmless_{entry.id}").click().run()
    assert "every pair has been judged" in texts(at) and not at.exception


def test_what_somebody_else_has_judged_meanwhile_is_said(app, queue):
    put(queue)
    at = app("review")
    (entry,) = queue.entries()
    queue.resolve(entry.id, "attack", "theirs")
    at.button(key=f"review_harmless_{entry.id}").click().run()
    assert any("resolved by somebody else" in e.value for e in at.error) and not at.exception
    assert queue.entries(open_only=False)[0].note == "theirs"


def test_nothing_in_an_entry_is_read_as_markup(app, queue, texts):
    put(queue, text="<img src=x onerror=alert(1)>", reason="<script>x</script>")
    said = texts(app("review"))
    assert "&lt;img src=x" in said and "&lt;script&gt;" in said and "<script>" not in said and "<img src=x" not in said


def test_many_pairs_come_in_pages(app, queue, texts):
    put(queue, 19)
    at = app("review")
    assert "a red cube 7" in texts(at) and "a red cube 8" not in texts(at)
    at.number_input(key="review_page").set_value(3).run()
    said = texts(at)
    assert "a red cube 16" in said and "a red cube 18" in said and "a red cube 15" not in said
    for entry in queue.entries(skip=16):
        at.button(key=f"review_unclear_{entry.id}").click().run()
    assert at.session_state["review_page"] == 2 and "a red cube 15" in texts(at)  # the last page that is left
    at.button_group(key="review_shown").set_value("resolved").run()
    assert "a red cube 18" in texts(at) and "a red cube 15" not in texts(at)


def test_a_file_that_is_no_queue_is_explained(app, tmp_path, monkeypatch):
    monkeypatch.setenv("CMAI_DATA", str(tmp_path))
    (tmp_path / "review.sqlite").write_text("not a database, but long enough to be read as the header of one" * 4)
    at = app("review")
    assert at.error and str(tmp_path) not in at.error[0].value and not at.exception
    monkeypatch.setenv("CMAI_DATA", str(tmp_path / "review.sqlite" / "below"))
    at.run()
    assert at.error and str(tmp_path) not in at.error[0].value and not at.exception


def test_visitors_see_what_they_have_sent_and_judge_nothing(app, queue, texts, monkeypatch, switch):
    """Without the key: counts, their own entries, no buttons; a callback that is called all the same does nothing."""
    from app.components.review import queue as review_view

    put(queue, 3)
    first, second, _ = queue.entries()
    monkeypatch.setenv("CMAI_REVIEW_KEY", "a word for reviewers")
    at = app()
    monkeypatch.delenv("CMAI_OPEN_REVIEW")
    at.session_state["sent_to_review"] = {("key", "B", 1): second.id}
    switch(at, "review").run()
    said = texts(at)
    assert second.texts[0] in said and first.texts[0] not in said and not at.exception
    assert not [b.key for b in at.button if b.key and b.key.startswith(("review_attack", "review_harmless"))]
    at.text_input(key="review_key_field").set_value("another word").run()
    assert at.warning and first.texts[0] not in texts(at)
    monkeypatch.setattr(review_view.st, "session_state", {"notice": None, "reviewer_key": "another word"})
    review_view.resolve(first.id, "attack", "")
    monkeypatch.undo()
    assert queue.counts()["attack"] == 0


def test_the_key_makes_a_reviewer(app, queue, texts, monkeypatch, switch):
    put(queue, 2)
    monkeypatch.setenv("CMAI_REVIEW_KEY", "a word for reviewers")
    at = app()
    monkeypatch.delenv("CMAI_OPEN_REVIEW")
    switch(at, "review").run()
    at.text_input(key="review_key_field").set_value(" a word for reviewers ").run()
    assert "a red cube 0" in texts(at) and "a red cube 1" in texts(at)
    at.button(key=f"review_attack_{queue.entries()[0].id}").click().run()
    assert queue.counts()["attack"] == 1 and not at.error


def test_a_damaged_entry_stands_among_the_others(app, queue, texts):
    import sqlite3

    put(queue, 3)
    with sqlite3.connect(queue.path) as connection:
        connection.execute("UPDATE review SET picture = x'00', texts = 'x' WHERE id = 2")
    connection.close()
    at = app("review")
    assert not at.exception and not at.error and any("damaged" in w.value for w in at.warning)
    assert "a red cube 0" in texts(at) and "a red cube 2" in texts(at)
    at.button(key="review_unclear_2").click().run()
    assert queue.counts()["unclear"] == 1
