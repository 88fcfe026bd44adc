"""The list of lessons with how far the learner is."""

from __future__ import annotations

import streamlit as st

from app.components.common.theme import show, subscript
from app.components.lessons.progress import answered, given, go
from cmai_core.lab.lessons.lesson import Lesson
from cmai_core.lab.lessons.registry import LESSONS

_IN_A_ROW = 4


def overview() -> None:
    """Draw a card for each lesson."""
    lessons = list(LESSONS.values())
    for start in range(0, len(lessons), _IN_A_ROW):
        places = st.columns(_IN_A_ROW)
        for k, lesson in enumerate(lessons[start : start + _IN_A_ROW], start):
            with places[k - start], st.container(border=True, key=f"card_lesson_{lesson.name}", height="stretch"):
                _card(k + 1, lesson)


def _card(number: int, lesson: Lesson) -> None:
    done, count = answered(lesson), len(lesson.steps)
    show(
        f'<div class="cm-step">Lesson {number} · {lesson.minutes} min</div>'
        f'<div class="cm-h">{subscript(lesson.title)}</div><p class="cm-small">{subscript(lesson.goal)}</p>'
        f'<div class="cm-small cm-muted">{done} of {count} steps answered</div>'
    )
    words = "Begin" if not done else "Go on" if done < count else "Look again"
    first = next((k for k in range(count) if given(lesson.name, k) is None), 0)
    st.button(
        words, key=f"open_lesson_{lesson.name}", on_click=go, args=(lesson.name, first),
        type="primary" if done < count and number == 1 else "secondary", width="stretch",
    )  # fmt: skip
