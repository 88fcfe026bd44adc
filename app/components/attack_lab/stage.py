"""The stage: the clean and the attacked picture compared in four ways, with the steps of the attack between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.components.common.static_files import component, static_text
from app.components.common.theme import ROLES, number
from app.services.pictures import picture_url
from cmai_core.lab.images import perturbation_gain
from cmai_core.lab.sentence_diff import SAME, sentence_diff
from cmai_core.tasks import TASKS

if TYPE_CHECKING:
    from cmai_core.lab.result import CourseReading, Example, LabResult

SHOWN_TASKS = ("zero-shot", "retrieval", "vqa")
SIGNS = {True: "✓", False: "✗", None: "·"}
_stage = component("stage", static_text("stage.html"))


def stage(result: LabResult, example: Example, *, key: str) -> None:
    """Draw the stage of one example of a result."""
    height, width = example.clean.shape[:2]
    frames = frames_of(result, example)
    gain = perturbation_gain(example.clean, example.adversarial)
    _stage(
        key=key,
        data={
            "key": f"{result.created}{example.role}",
            "frames": frames,
            "columns": _columns(result, example) if frames[-1]["rows"] else [],
            "steps": frames[-1]["step"],
            "traces": [
                {"values": series, "colour": ROLES[role].colour, "dash": ROLES[role].dash}
                for role, series in _scores(result, example).items()
                if len(series) == len(frames) > 2
            ],
            "trace_label": "S_c of each model over the steps of the attack",
            "clean": picture_url(example.clean),
            "left_alt": f"Clean picture: {result.experiment.caption}",
            "right_alt": f"Attacked picture, to the eye almost the same: {result.experiment.caption}",
            "diff_alt": f"The difference of the two pictures, {gain} times enlarged around mid-grey",
            "left_name": f"{ROLES['clean'].mark} clean",
            "right_name": f"attacked {ROLES['adversarial'].mark}",
            "left_colour": ROLES["clean"].colour,
            "right_colour": ROLES["adversarial"].colour,
            "label": "Move the divider between the clean and the attacked picture",
            "ratio": f"{width} / {height}",
            "gain": gain,
        },
    )


def frames_of(result: LabResult, example: Example) -> list[dict[str, Any]]:
    """Return what the stage shows at each kept step of the attack; the clean pair and the attacked one at least."""
    course = result.courses.get(example.role)
    if course is None or not course.readings:
        return _ends(result, example)
    frames = []
    for place, step in enumerate(course.steps):
        picture = course.frame(place, example.clean) if course.packed else example.clean
        sentence = course.sentences[place] if course.sentences else ""
        rows = [_row(role, reading, place) for role, reading in course.readings.items() if reading.scores]
        frames.append(
            {"step": step, "src": picture_url(picture), "rows": rows, "sentence": _spans(result, sentence)},
        )
    return frames


def _row(role: str, reading: CourseReading, place: int) -> list[str]:
    """Return a model, its S_c and its answers at one step."""
    said = [reading.answers[task][place] for task in SHOWN_TASKS if task in reading.answers]
    words = [f"{SIGNS[answer.correct]} {answer.text}".strip() for answer in said]
    return [f"{ROLES[role].mark} {role}", number(reading.scores[place]), *words]


def _columns(result: LabResult, example: Example) -> list[str]:
    course = result.courses.get(example.role)
    if course is None or not course.readings:
        return ["S_c"]
    first = next(iter(course.readings.values()))
    return ["S_c", *(TASKS[task].word for task in SHOWN_TASKS if task in first.answers)]


def _ends(result: LabResult, example: Example) -> list[dict[str, Any]]:
    """Return the first and the last step of a result whose other steps were not kept."""
    rows = [
        (f"{ROLES[role].mark} {role}", p.clean, p.adversarial)
        for role, p in result.predictions.items()
        if p.picture == example.role and p.attacked
    ]
    before = [[name, number(clean)] for name, clean, _ in rows]
    after = [[name, number(attacked)] for name, _, attacked in rows]
    last = max(example.steps_done, 1)
    return [
        {"step": 0, "src": picture_url(example.clean), "rows": before, "sentence": _spans(result, "")},
        {
            "step": last, "src": picture_url(example.adversarial), "rows": after,
            "sentence": _spans(result, example.caption),
        },
    ]  # fmt: skip


def _scores(result: LabResult, example: Example) -> dict[str, Sequence[float]]:
    """Return S_c over the kept steps, by role."""
    course = result.courses.get(example.role)
    return {} if course is None else {role: reading.scores for role, reading in course.readings.items()}


def _spans(result: LabResult, sentence: str) -> list[tuple[str, str]]:
    """Return the sentence as (text, kind), with what an attack has changed in it."""
    caption = result.experiment.caption
    if not sentence:
        return [(caption, SAME)]
    return [(span.text, span.kind) for span in sentence_diff(caption, sentence)]
