"""Where a learner stands: the lesson and step on show, what was answered, and the class; in session and address."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app import state
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.lessons.classes import class_word
from cmai_core.lab.lessons.lesson import Lesson
from cmai_core.lab.lessons.registry import LESSONS

LESSON, STEP, CLASS = "lessons_lesson", "lessons_step", "lessons_class"
ANSWERS = "lessons_answers"
"""(lesson, step) → (answer, where the knobs stood); as many as there are steps."""
COUNTED = "lessons_counted"
"""(class, lesson, step) that this session has given to a class's counts."""


def settle() -> None:
    """Give the session its first values."""
    for name, value in ((LESSON, ""), (STEP, 0), (CLASS, "")):
        state.ensure(name, value)
    state.ensure(ANSWERS, {})
    state.ensure(COUNTED, set())


def query() -> dict[str, str]:
    """Return what belongs into the address."""
    settle()
    name = state.get(LESSON)
    return {"lesson": name, "step": str(state.get(STEP) + 1) if name else "", "class": state.get(CLASS)}


def read_query(found: Mapping[str, str]) -> None:
    """Take lesson, step and class from an address; what is none is left out, a class's word with a notice."""
    settle()
    name = found.get("lesson", "")
    if name in LESSONS:
        text = found.get("step", "1")
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 3 else 1
        go(name, min(max(number, 1), len(LESSONS[name].steps)) - 1)
    if found.get("class"):
        try:
            state.put(CLASS, class_word(found["class"]))
        except OptionError as error:
            state.put(state.NOTICE, error)


def go(lesson: str, step: int = 0) -> None:
    """Show a step of a lesson; "" shows the list."""
    state.put(LESSON, lesson)
    state.put(STEP, step)


def current() -> tuple[Lesson, int] | None:
    """Return the lesson and the place of its step on show, None for the list."""
    name = state.get(LESSON)
    if name not in LESSONS:
        return None
    lesson = LESSONS[name]
    return lesson, min(state.get(STEP), len(lesson.steps) - 1)


def knob_key(lesson: str, step: int, knob: str) -> str:
    """Return the key of a knob's widget."""
    return f"lesson_knob_{lesson}_{step}_{knob}"


def setting(lesson: Lesson, place: int) -> dict[str, float]:
    """Return where a step's knobs stand, kept within their ranges whatever a browser sent."""
    step, out = lesson.steps[place], {}
    for knob in step.knobs:
        value = st.session_state.get(knob_key(lesson.name, place, knob.name), knob.start)
        out[knob.name] = min(knob.high, max(knob.low, float(value)))
    return out


def given(lesson: str, place: int) -> tuple[str, dict[str, float]] | None:
    """Return what was answered at a step and where its knobs stood then, None if it was not."""
    return state.get(ANSWERS).get((lesson, place))


def commit(lesson: Lesson, place: int, answer: str) -> None:
    """Keep an answer, once; later ones change nothing. One that is none is refused with a notice."""
    if given(lesson.name, place) is not None:
        return
    stood = setting(lesson, place)
    try:
        lesson.steps[place].ask(stood).mark(answer)
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.get(ANSWERS)[lesson.name, place] = (answer, stood)


def answered(lesson: Lesson) -> int:
    """Return how many steps of a lesson have been answered."""
    return sum(given(lesson.name, k) is not None for k in range(len(lesson.steps)))


def forget(lesson: Lesson) -> None:
    """Take all answers of a lesson back, to go through it again."""
    for place in range(len(lesson.steps)):
        state.get(ANSWERS).pop((lesson.name, place), None)
    go(lesson.name)
