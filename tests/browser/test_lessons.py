"""The quickest way through all lessons in a real browser: every step is answered, marked and left."""

from __future__ import annotations

import pytest

from cmai_core.lab.lessons.lesson import Choice, Number
from cmai_core.lab.lessons.registry import LESSONS

pytestmark = [pytest.mark.browser, pytest.mark.slow]


CARD = "return (document.querySelector('.st-key-card_lesson_question') || {}).textContent || ''"


def asked(lab, words: str) -> None:
    """Waits until the card of the question says something; its text is read by a script, which is quicker."""
    lab.until(lambda: words in lab.browser.execute_script(CARD), 60, repr(words))


def test_the_quickest_way_through_all_lessons(open_lab):
    lab = open_lab()
    lab.open("/lessons")
    lab.press("open_lesson_s_c")
    for lesson in LESSONS.values():
        for place, step in enumerate(lesson.steps):
            head = f"Step {place + 1} of {len(lesson.steps)} · {step.title}"
            asked(lab, head)
            question = step.ask(step.start())
            if isinstance(question, Choice):
                lab.press(f"lesson_option_{question.right}")
            elif isinstance(question, Number):
                lab.press("lesson_commit")
            else:
                count = len(question.right_answer)
                for k, mark in enumerate(question.right_answer, 1):
                    asked(lab, f"Trial {k} of {count}")
                    lab.press(f"lesson_trial_{mark}")
            lab.wait_for(".cm-marked")
            lab.press("lesson_next")
    lab.wait_for_text("Predict first, then look")
    assert lab.text().count("Look again") == len(LESSONS)
    lab.no_error()
