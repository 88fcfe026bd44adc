"""A class's answers: giving one's own to the counts, and the counts as bars."""

from __future__ import annotations

import logging

import streamlit as st

from app import state
from app.components.common.exhibits import bars
from app.components.common.theme import escape, show
from app.components.lessons import progress
from app.services.classes import class_book, count_answer, without_paths
from cmai_core.errors import CmaiError
from cmai_core.lab.exhibits import Bar, Bars
from cmai_core.lab.lessons.lesson import Lesson, Question

_log = logging.getLogger("cmai.app")
SHARES = "lessons_shares"
"""Widget: whether this learner's answers are counted."""


def gather(lesson: Lesson, place: int, question: Question, answer: str) -> None:
    """Offer to count the answer with the class's, if there is a class; once for each step."""
    word = state.get(progress.CLASS)
    if not word:
        return
    st.checkbox(
        f"Count my answers with the class “{word}”", key=SHARES, persist_state="session",
        help="Off unless you switch it on. Only how often each answer was given is kept: no name, no address.",
    )  # fmt: skip
    counted, mine = state.get(progress.COUNTED), (word, lesson.name, place)
    if not st.session_state.get(SHARES):
        st.caption("Your answers stay with you.")
    elif mine in counted:
        st.caption("Counted.")
    else:
        kept = count_answer(word, lesson.name, place, question.group(answer))
        counted.add(mine)
        st.caption("Counted." if kept else "This class has as many answers as are counted.")


def gathered(lesson: Lesson, place: int, question: Question) -> None:
    """Draw what the class has answered at a step, if there is a class."""
    word = state.get(progress.CLASS)
    if word:
        counts_view(word, lesson, place, question)


def counts_view(word: str, lesson: Lesson, place: int, question: Question, key: str = "own") -> None:
    """Draw a class's counts at a step; `key` tells two views of the same counts apart."""
    groups = question.groups()
    try:
        with without_paths():
            counts = class_book().counts(word, lesson.name, place, len(groups))
    except CmaiError as error:
        _log.info("%s", error)
        st.caption(error.message)
        return
    total = sum(counts)
    if not total:
        show(f'<p class="cm-small cm-muted">Step {place + 1}: nobody of “{escape(word)}” has been counted yet.</p>')
        return
    drawn = [Bar(g, c / total, f"{c} of {total}", "clean") for g, c in zip(groups, counts, strict=True)]
    bars(Bars(f"Step {place + 1}, the class “{word}”: {total} counted", drawn), f"lesson_counts_{key}_{place}")
