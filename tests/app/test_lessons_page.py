"""The page Lessons: commit before the reveal, progress in session and address, hostile links, and a class's counts."""

from __future__ import annotations

import html

import pytest

from cmai_core.lab.lessons.classes import ClassBook
from cmai_core.lab.lessons.registry import LESSONS


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("CMAI_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def lessons(app, data, switch):
    """lessons(**query): the page as its address opens it."""

    def opened(**query: str):
        at = app("lessons")
        for name, value in query.items():
            at.query_params[name] = value
        at.session_state["link_read"] = False
        return at.run()

    return opened


def query(at) -> dict[str, str]:
    return {k: v[0] if isinstance(v, list) else v for k, v in dict(at.query_params).items()}


def test_the_list_shows_all_lessons_and_opens_one(lessons, texts):
    at = lessons()
    assert (
        not at.exception and not at.error and all(html.escape(lesson.goal) in texts(at) for lesson in LESSONS.values())
    )
    at.button(key="open_lesson_fgsm").click().run()
    assert (query(at)["lesson"], query(at)["step"]) == ("fgsm", "1")
    at.button(key="lesson_list").click().run()
    assert "lesson" not in query(at) and "0 of 5 steps answered" in texts(at)


def test_nothing_is_told_before_the_learner_has_committed(lessons, texts):
    at = lessons(lesson="fgsm", step="3")
    question = LESSONS["fgsm"].steps[2].ask({})
    assert question.because not in texts(at) and "lesson_next" not in {b.key for b in at.button}
    at.slider(key="lesson_number_fgsm_2").set_value(0.19)
    at.button(key="lesson_commit").click().run()
    assert question.because in texts(at) and "Right. It is" in texts(at)
    at.button(key="lesson_next").click().run()
    assert query(at)["step"] == "4"
    at.button(key="lesson_option_0").click().run()
    assert "Not so" in texts(at)
    at.button(key="lesson_list").click().run()
    assert "2 of 5 steps answered" in texts(at)


def test_an_answer_stands_and_the_knobs_go_on(lessons, texts):
    at = lessons(lesson="s_c", step="1")
    at.button(key="lesson_commit").click().run()
    marked = texts(at)
    at.slider(key="lesson_knob_s_c_0_angle").set_value(180).run()
    assert "It is 0.5." in texts(at) and "It is 0.5." in marked and "150°" not in texts(at)
    assert not at.exception


def opened_again(at, **given: str):
    """The page as another address opens it, in a session that has seen nothing yet."""
    for name in ("lessons_lesson", "lessons_step", "lessons_class"):
        del at.session_state[name]
    at.query_params = dict(given)
    at.session_state["link_read"] = False
    return at.run()


def test_a_link_opens_its_step_and_hostile_ones_open_the_list_or_a_step(lessons, texts):
    at = lessons(lesson="price", step="99", **{"class": "spring-2"})
    assert (query(at)["lesson"], query(at)["step"], query(at)["class"]) == ("price", "5", "spring-2")
    for hostile in ("<script>", "x" * 5000):
        at = opened_again(at, lesson=hostile, step="-1")
        assert not at.exception and "lesson" not in query(at) and "Predict first" in texts(at)
        at = opened_again(at, lesson="fgsm", step=hostile, **{"class": hostile})
        assert not at.exception and query(at)["step"] == "1" and "class" not in query(at)
        assert any("no word for a class" in e.value for e in at.error)
        assert "<script>" not in texts(at)


def test_a_class_is_counted_only_of_those_who_switch_it_on_and_once(lessons, data, texts):
    at = lessons(lesson="words", step="1", **{"class": "spring-2"})
    question = LESSONS["words"].steps[0].ask({})
    groups = len(question.groups())
    at.button(key=f"lesson_option_{question.right}").click().run()
    assert ClassBook().counts("spring-2", "words", 0, groups) == (0,) * groups
    assert "Your answers stay with you" in texts(at)
    at.checkbox(key="lessons_shares").check().run()
    at.run()
    counts = ClassBook().counts("spring-2", "words", 0, groups)
    assert sum(counts) == 1 and counts[question.right] == 1 and (data / "classes.sqlite").is_file()
    at.run()
    assert "1 counted" in texts(at) and "Counted." in texts(at)


def test_a_broken_file_of_counts_names_no_file(lessons, data, texts):
    (data / "classes.sqlite").write_bytes(b"none" * 500)
    at = lessons(lesson="words", step="1", **{"class": "spring-2"})
    at.button(key="lesson_option_0").click().run()
    assert not at.exception and "cannot be used at the moment" in texts(at) and "sqlite" not in texts(at)


def test_teachers_get_a_link_and_notes(lessons, texts):
    at = lessons(lesson="fgsm", step="2")
    at.session_state["card_lessons_teach"] = True
    at.run()
    at.text_input(key="lessons_word").set_value("autumn").run()
    at.run()
    assert query(at)["class"] == "autumn"
    assert any("lesson=fgsm" in code.value and "class=autumn" in code.value for code in at.code)
    assert LESSONS["fgsm"].notes[:40] in texts(at)
    at.text_input(key="lessons_word").set_value("../etc").run()
    assert any("no word for a class" in e.value for e in at.error) and query(at)["class"] == "autumn"
