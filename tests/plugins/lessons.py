"""A lesson of another package: one step about halves."""

from __future__ import annotations

from cmai_core.lab.lessons.lesson import Knob, Lesson, Number, Step

HALF = Step(
    "Half of it",
    "Turn the knob, then guess.",
    lambda setting: Number("What is half of it?", 0, 10, 0.5, setting["whole"] / 2, 0.1, "Two halves make it whole."),
    knobs=(Knob("whole", "The whole", 0, 10, 1, 6),),
)
LESSON = Lesson("halves", "Halves", "Halve a number.", 1, (HALF,), "Nothing to say.", "computed here")


def use() -> object:
    """Find it among the lessons, answer it, and find it in the printed notes."""
    from cmai_core.lab.lessons.notes import printable
    from cmai_core.lab.lessons.registry import LESSONS

    question = LESSONS.find("halves").steps[0].ask({"whole": 6})
    known = question.mark("3").right is True and question.mark("5").right is False
    return known and list(LESSONS)[-1] == "halves" and "Two halves make it whole." in printable({"halves": LESSON})
