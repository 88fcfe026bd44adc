"""For whoever teaches: a link that puts a class into one state, its answers, and the notes to print."""

from __future__ import annotations

import streamlit as st

from app import address, state
from app.components.common.guard import guard
from app.components.common.theme import show, subscript
from app.components.lessons import progress
from app.components.lessons.gathered import counts_view
from app.registry import PAGES
from cmai_core.lab.lessons.classes import class_word
from cmai_core.lab.lessons.lesson import Lesson
from cmai_core.lab.lessons.notes import printable, steps

FILE = "cmai-lessons-notes.html"


def for_teachers(lesson: Lesson | None) -> None:
    """Draw the fold with everything for teachers."""
    fold = st.expander("For teachers", key="card_lessons_teach", icon=":material/school:", on_change="rerun")
    if not fold.open:
        return
    with fold:
        link, notes = st.columns([1, 1.35], gap="large")
        with link, guard():
            _class(lesson)
        with notes, guard():
            _notes(lesson)


def _class(lesson: Lesson | None) -> None:
    show('<div class="cm-h">A link for a class</div>')
    typed = st.text_input(
        "The class's word", value=state.get(progress.CLASS), max_chars=24, key="lessons_word",
        help="3 to 24 letters, digits and dashes. Whoever has the word sees the class's counts.",
    )  # fmt: skip
    if not typed:
        st.caption("Give the class a word: the link then opens the lesson and step on show for everybody.")
        return
    word = class_word(typed)
    if word != state.get(progress.CLASS):
        state.put(progress.CLASS, word)
        st.rerun()
    st.code(address.link(PAGES.find("lessons"), progress.query()), language=None, wrap_lines=True)
    st.caption("Answers are counted of those learners who switch it on, as numbers alone.")
    if lesson is not None:
        st.button("Look again", key="lessons_refresh", icon=":material/refresh:")
        for place, step in enumerate(lesson.steps):
            counts_view(word, lesson, place, step.ask(step.start()), key="teach")


def _notes(lesson: Lesson | None) -> None:
    show('<div class="cm-h">Notes</div>')
    if lesson is None:
        show("<p>Open a lesson to read its notes here, or take all of them with you.</p>")
    else:
        show(f"<p>{subscript(lesson.notes)}</p>")
        if st.toggle("Show the right answers", key="lessons_solutions"):
            st.dataframe(steps(lesson), hide_index=True, key="lessons_steps")
    st.download_button(
        "Notes of all lessons, to print", printable, FILE, "text/html", key="lessons_notes",
        icon=":material/print:", on_click="ignore",
        help="A page with every question, its right answer, why, and what to say.",
    )  # fmt: skip
