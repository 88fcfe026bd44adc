"""A question and the way to commit to an answer."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.common.theme import escape, show
from app.components.lessons.progress import commit, setting
from cmai_core.lab.exhibits import Exhibit
from cmai_core.lab.lessons.lesson import Choice, Lesson, Number, Question, Trials

SO_FAR = "lessons_trials"
"""(lesson, step, answers of a blind test so far)."""


def ask(lesson: Lesson, place: int, question: Question) -> None:
    """Draw the question's options, scale or trials; what is chosen is kept, and cannot be taken back."""
    if isinstance(question, Choice):
        _choice(lesson, place, question)
    elif isinstance(question, Number):
        _number(lesson, place, question)
    else:
        _trial(lesson, place, question)


def _choice(lesson: Lesson, place: int, question: Choice) -> None:
    for k, option in enumerate(question.options):
        st.button(
            _literal(option), key=f"lesson_option_{k}", width="stretch", on_click=commit,
            args=(lesson, place, str(k)),
        )  # fmt: skip
    st.caption("Your first click counts.")


def _literal(text: str) -> str:
    """Return text as a button's label shows it: labels are Markdown."""
    return "".join("\\" + c if c in "\\`*_{}[]<>#$~|:" else c for c in text)


def _number(lesson: Lesson, place: int, question: Number) -> None:
    key = f"lesson_number_{lesson.name}_{place}"
    whole = all(float(v).is_integer() for v in (question.low, question.high, question.step))
    low, high, step = ((int if whole else float)(v) for v in (question.low, question.high, question.step))
    middle = low + step * round((high - low) / 2 / step)
    unit = f" {question.unit}" if question.unit else ""
    st.slider(f"Your guess{unit and ','}{unit}", low, high, middle, step, key=key)
    st.button(
        "Commit", key="lesson_commit", type="primary", icon=":material/check:",
        on_click=lambda: commit(lesson, place, str(st.session_state.get(key, middle))),
    )  # fmt: skip


def _trial(lesson: Lesson, place: int, question: Trials) -> None:
    said = _so_far(lesson, place)
    show(f'<div class="cm-small cm-muted">Trial {len(said) + 1} of {len(question.trials)}</div>')
    row = st.container(horizontal=True, gap="small")
    for k, word in enumerate(("The left one", "The right one")):
        row.button(word, key=f"lesson_trial_{k}", on_click=_pointed, args=(lesson, place, question, said + str(k)))
    show(f'<div class="cm-small">{escape("●" * len(said) + "○" * (len(question.trials) - len(said)))}</div>')


def shown_with(lesson: Lesson, place: int) -> tuple[Exhibit, ...]:
    """Return the pictures of the trial on show, where the step is a blind test; else nothing."""
    question = lesson.steps[place].ask(setting(lesson, place))
    if not isinstance(question, Trials):
        return ()
    return (question.trials[min(len(_so_far(lesson, place)), len(question.trials) - 1)].pictures,)


def _so_far(lesson: Lesson, place: int) -> str:
    state.ensure(SO_FAR, ("", 0, ""))
    name, step, said = state.get(SO_FAR)
    return said if (name, step) == (lesson.name, place) else ""


def _pointed(lesson: Lesson, place: int, question: Trials, said: str) -> None:
    state.put(SO_FAR, (lesson.name, place, said))
    if len(said) == len(question.trials):
        state.put(SO_FAR, ("", 0, ""))
        commit(lesson, place, said)
