"""The stage: the clean and the attacked picture compared in four ways, with the steps of the attack between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.components.common.static_files import component, static_text
from app.components.common.theme import ROLES, number
from app.services.pictures import picture_url
from cmai_core.lab.images import perturbation_gain

if TYPE_CHECKING:
    from cmai_core.lab.result import Example, LabResult

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
            "columns": ["S_c"] if frames[-1]["rows"] else [],
            "steps": frames[-1]["step"],
            "traces": [
                {"values": [x for x in series if x is not None], "colour": ROLES[role].colour, "dash": ROLES[role].dash}
                for role, series in _scores(result, example).items()
                if len(series) == len(frames) > 2 and None not in series
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
    """Return what the stage shows at the first and the last step."""
    last = max(example.steps_done, 1)
    rows = [
        (f"{ROLES[role].mark} {role}", p.clean, p.adversarial)
        for role, p in result.predictions.items()
        if p.picture == example.role and p.attacked
    ]
    before = [[name, number(clean)] for name, clean, _ in rows]
    after = [[name, number(attacked)] for name, _, attacked in rows]
    return [
        {"step": 0, "src": picture_url(example.clean), "rows": before, "sentence": _sentence(result, None)},
        {"step": last, "src": picture_url(example.adversarial), "rows": after, "sentence": _sentence(result, example)},
    ]


def _scores(result: LabResult, example: Example) -> dict[str, Sequence[float | None]]:
    return {role: (p.clean, p.adversarial) for role, p in result.predictions.items() if p.picture == example.role}


def _sentence(result: LabResult, example: Example | None) -> list[tuple[str, str]]:
    """Return the sentence as (text, kind) with kind "", "new" or "gone"."""
    return [(result.experiment.caption, "")]
