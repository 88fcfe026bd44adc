"""One lesson: its steps, the question of the step on show, and what is the case once it has been answered."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.common.exhibits import draw
from app.components.common.guard import guard
from app.components.common.theme import ROLES, escape, show, subscript
from app.components.lessons import progress
from app.components.lessons.gathered import gather, gathered
from app.components.lessons.question import ask, shown_with
from cmai_core.lab.lessons.lesson import Lesson, Mark
from cmai_core.lab.lessons.registry import LESSONS


def lesson_view(lesson: Lesson, place: int) -> None:
    """Draw the step at a place: what is shown with the question, the question, and what is the case.

    In this order they stand on a phone, too.
    """
    _head(lesson, place)
    step, given = lesson.steps[place], progress.given(lesson.name, place)
    before = shown_with(lesson, place) if given is None else ()
    before = before or step.before(progress.setting(lesson, place))
    first, second = st.columns([1.35, 1] if before else [1, 1.35], gap="large")
    with second if before else first, st.container(border=True, key="card_lesson_question"):
        setting = _question(lesson, place)
    with first if before else second, guard():
        if before:
            draw(before, f"lesson_before_{lesson.name}_{place}")
        elif given is None:
            show('<p class="cm-muted">What is the case appears here once you have committed to an answer.</p>')
        else:
            _case(lesson, place, setting)
    if before and given is not None:
        with guard():
            _case(lesson, place, setting)
    show(f'<p class="cm-small cm-muted">Figures: {escape(lesson.source)}.</p>')


def _question(lesson: Lesson, place: int) -> dict[str, float]:
    """Draw knobs and question, or the mark; returns where the knobs stand."""
    step, given = lesson.steps[place], progress.given(lesson.name, place)
    show(
        f'<div class="cm-step">Step {place + 1} of {len(lesson.steps)} · {escape(step.title)}</div>'
        f'<p class="cm-small" style="margin:2px 0 8px"><b>Now:</b> {escape(step.do)}</p>'
    )
    setting = _knobs(lesson, place)
    question = step.ask(setting if given is None else given[1])
    show(f'<div class="cm-h">{subscript(question.prompt)}</div>')
    if given is None:
        ask(lesson, place, question)
    else:
        _marked(question.mark(given[0]))
        _onward(lesson, place)
        gather(lesson, place, question, given[0])
    return setting


def _case(lesson: Lesson, place: int, setting: dict[str, float]) -> None:
    """Draw what is the case where the knobs stand now, and what the class said."""
    answer, stood = progress.given(lesson.name, place) or ("", {})
    draw(lesson.steps[place].after(setting, answer), f"lesson_after_{lesson.name}_{place}")
    gathered(lesson, place, lesson.steps[place].ask(stood))


def _head(lesson: Lesson, place: int) -> None:
    row = st.container(horizontal=True, vertical_alignment="center", gap="small", key="lesson_head")
    row.button("All lessons", key="lesson_list", icon=":material/arrow_back:", on_click=progress.go, args=("",))
    number = list(LESSONS).index(lesson.name) + 1
    with row:
        st.html(f'<h1 class="cm cm-headline">{number} · {subscript(lesson.title)}</h1>', width="content")
    with row.container(horizontal=True, gap="xsmall"):
        for k, step in enumerate(lesson.steps):
            done = "✓ " if progress.given(lesson.name, k) is not None else ""
            st.button(
                f"{done}{k + 1}", key=f"lesson_step_{k}", on_click=progress.go, args=(lesson.name, k), help=step.title,
                type="primary" if k == place else "secondary",
            )  # fmt: skip


def _knobs(lesson: Lesson, place: int) -> dict[str, float]:
    for knob in lesson.steps[place].knobs:
        st.slider(
            knob.label, knob.low, knob.high, knob.start, knob.step,
            key=progress.knob_key(lesson.name, place, knob.name),
        )  # fmt: skip
    return progress.setting(lesson, place)


def _marked(mark: Mark) -> None:
    sign, role = {True: ("✓", "defended"), False: ("✗", "adversarial"), None: ("●", "clean")}[mark.right]
    show(
        f'<div role="status" class="cm-marked" style="border-color:{ROLES[role].colour}">'
        f'<b aria-hidden="true">{sign}</b> {subscript(mark.said)}</div>'
    )


def _onward(lesson: Lesson, place: int) -> None:
    """Draw the button to the next step, or to the next lesson."""
    if place + 1 < len(lesson.steps):
        label, target = "Next step", (lesson.name, place + 1)
    else:
        names = list(LESSONS)
        after = names.index(lesson.name) + 1
        label, target = ("Next lesson", (names[after], 0)) if after < len(names) else ("All lessons", ("", 0))
    row = st.container(horizontal=True, gap="small")
    row.button(
        label, key="lesson_next", type="primary", icon=":material/arrow_forward:", on_click=progress.go, args=target
    )
    if place + 1 == len(lesson.steps):
        row.button("Again from the start", key="lesson_again", on_click=progress.forget, args=(lesson,))
        done, right = progress.answered(lesson), _right(lesson)
        st.caption(f"{done} of {len(lesson.steps)} steps answered, {right} of the marked ones right.")


def _right(lesson: Lesson) -> int:
    found = [state.get(progress.ANSWERS).get((lesson.name, k)) for k in range(len(lesson.steps))]
    marks = [s.ask(given[1]).mark(given[0]) for s, given in zip(lesson.steps, found, strict=True) if given]
    return sum(mark.right is True for mark in marks)
