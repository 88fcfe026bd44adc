"""Notes for whoever teaches: all lessons with questions, right answers and what to say, as one printable page."""

from __future__ import annotations

import html
from collections.abc import Mapping

from cmai_core.errors import CmaiError
from cmai_core.lab.lessons.lesson import Choice, Lesson, Step
from cmai_core.lab.lessons.registry import LESSONS

_STYLE = """
body { font: 11pt/1.45 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 20pt }
h2 { font-size: 15pt; margin-top: 2rem; break-after: avoid }
h3 { font-size: 11.5pt; margin-bottom: 0 }
li, p { margin: .25rem 0 }
.right { font-weight: 600 }
.small { font-size: 9.5pt }
section { break-inside: avoid }
@media print { body { margin: 0; max-width: none } h2 { break-before: page } }
"""


def printable(lessons: Mapping[str, Lesson] | None = None) -> str:
    """Return the notes of all lessons as a whole HTML page, without scripts; every text is escaped."""
    lessons = dict(LESSONS) if lessons is None else lessons
    parts = [_lesson(number, lesson) for number, lesson in enumerate(lessons.values(), 1)]
    minutes = sum(lesson.minutes for lesson in lessons.values())
    head = f"<h1>CMAI lessons: notes for teachers</h1><p>{len(lessons)} lessons, about {minutes} minutes in all.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>CMAI lessons: notes for teachers</title>'
        f"<style>{_STYLE}</style></head><body>{head}{''.join(parts)}</body></html>"
    )


def steps(lesson: Lesson) -> list[dict[str, str]]:
    """Return question, right answer and the reason of every step, where the knobs stand at first."""
    made = []
    for step in lesson.steps:
        try:
            asked = step.ask(step.start())
            made.append({
                "step": step.title, "question": asked.prompt, "right answer": asked.solution, "why": asked.because,
            })  # fmt: skip
        except CmaiError as error:  # what the step is about is not here
            made.append({"step": step.title, "question": error.message, "right answer": "–", "why": ""})
    return made


def _lesson(number: int, lesson: Lesson) -> str:
    said = [f"<h2>{number} · {_text(lesson.title)}</h2><p>{_text(lesson.goal)}</p>"]
    said.append(f'<p class="small">{lesson.minutes} minutes · figures: {_text(lesson.source)}</p>')
    said.append(f"<p>{_text(lesson.notes)}</p>")
    for place, (step, row) in enumerate(zip(lesson.steps, steps(lesson), strict=True), 1):
        said.append(
            f"<section><h3>{place}. {_text(step.title)}</h3><p>{_text(row['question'])}</p>{_options(step)}"
            f'<p class="right">{_text(row["right answer"])}</p><p>{_text(row["why"])}</p></section>'
        )
    return "".join(said)


def _options(step: Step) -> str:
    try:
        asked = step.ask(step.start())
    except CmaiError:
        return ""
    if not isinstance(asked, Choice):
        return ""
    return f"<ol>{''.join(f'<li>{_text(option)}</li>' for option in asked.options)}</ol>"


def _text(words: object) -> str:
    return html.escape(str(words)).replace("S_c", "S<sub>c</sub>")
