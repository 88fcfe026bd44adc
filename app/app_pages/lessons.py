"""Lessons: predict, commit, then see what is the case."""

from __future__ import annotations

from app.components.common.guard import guard, show_notice
from app.components.common.theme import heading
from app.components.lessons import progress
from app.components.lessons.lesson import lesson_view
from app.components.lessons.overview import overview
from app.components.lessons.teach import for_teachers
from app.page import Page
from app.services import warm_up


def body() -> None:
    """Draw the list, or the step on show; below it what is for teachers."""
    progress.settle()
    show_notice()
    found = progress.current()
    with guard():
        if found is None:
            heading(
                "Predict first, then look",
                "Lessons of a few steps. Commit to an answer, and the lab shows what is the case; no model has to be "
                "loaded first.",
            )
            overview()
        else:
            lesson_view(*found)
    warm_up.results()
    with guard():
        for_teachers(None if found is None else found[0])


PAGE = Page(
    name="lessons",
    title="Lessons",
    icon=":material/school:",
    body=body,
    query=progress.query,
    read_query=progress.read_query,
)
