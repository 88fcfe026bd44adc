"""The form of the page Attention & attribution: of which attack, by which methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from app import navigation, state, subject
from app.components.common.caption_diff import caption_diff
from app.components.common.fields import number_field
from app.components.common.guard import plain
from app.components.common.stale import belongs_to, changed
from app.components.common.theme import escape, show
from app.components.explain.methods import METHODS
from app.services.pictures import picture_url
from cmai_core.errors import OptionError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import content_key

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation

STEPS = (4, 200)


@dataclass(frozen=True)
class Request:
    """What is to be explained: a result, by these methods, with so many steps of integrated gradients."""

    result: LabResult
    methods: tuple[str, ...]
    steps: int


def form() -> None:
    """Draw the pair that is explained, and the choice of methods."""
    result = subject.attacked()
    example = result.first_example
    pictures, settings = st.columns([1, 2.4], gap="medium")
    with pictures:
        show(
            '<div style="display:flex;gap:8px">'
            f'<img src="{picture_url(example.clean)}" alt="The clean picture" style="width:48%;border-radius:6px">'
            f'<img src="{picture_url(example.adversarial)}" alt="The adversarial picture" '
            'style="width:48%;border-radius:6px"></div>'
        )
    with settings:
        which = "the attack made last" if result is state.get(state.RESULT) else "the bundled example"
        caption = result.experiment.caption
        show(
            f'<p class="cm-quote">{caption_diff(caption, example.caption) if example.caption else escape(caption)}</p>'
            f'<div class="cm-small cm-muted">{which}: {escape(belongs_to(result.experiment))}</div>'
        )
        _unattacked_form(result)
        _methods()


def _methods() -> None:
    left, right = st.columns([2, 1])
    left.pills(
        "Methods",
        METHODS,
        selection_mode="multi",
        default=list(METHODS),
        key="explanation_methods",
        persist_state="session",
    )
    number_field(
        right, "Steps of integrated gradients", "explanation_steps", low=STEPS[0], high=STEPS[1], value=20,
        persist_state="session",
        help="Gauss–Legendre nodes; the completeness error beside the map says whether they suffice.",
    )  # fmt: skip


def _unattacked_form(result: LabResult) -> None:
    """Say that the attack lab's form has moved on from what can be explained, with the way back there."""
    found = differences(result.experiment, subject.described()) if state.get(state.PAIR) else ()
    if result is not state.get(state.RESULT):  # the bundled example has settings of its own
        found = tuple(difference for difference in found if difference.what in ("pair", "sentence"))
    if found:
        st.caption(f":material/history: The attack lab has moved on, and is not attacked yet. {plain(changed(found))}")
        if st.button("To the attack lab", key="to_lab_moved", icon=":material/experiment:"):
            navigation.go("attack_lab")


def request() -> Request:
    """Return what the form asks for, validated.

    Raises:
        OptionError: the first thing that is missing or out of range.
    """
    result = subject.attacked()
    if result is None:
        raise OptionError("There is no attacked pair yet.", "Make an attack in the attack lab first.")
    methods, steps = _asked()
    if not methods:
        raise OptionError("No method is chosen.", f"Choose some of: {', '.join(METHODS)}.")
    if steps is None or not STEPS[0] <= steps <= STEPS[1]:
        raise OptionError(f"steps is {steps}.", f"It lies between {STEPS[0]} and {STEPS[1]}.")
    return Request(result, methods, steps)


def moved_on(made: LabExplanation) -> tuple[Difference, ...]:
    """Return how the pair that is to be explained, or the form, has moved on from an explanation."""
    result = subject.attacked()
    if result is None:
        return ()
    found = list(differences(made.experiment, result.experiment))
    if not found and made.key != content_key(result):
        found.append(Difference("pair", "attack", "an earlier one", "the one made last"))
    methods, steps = _asked()
    if set(methods) != set(made.methods):
        found.append(Difference("setting", "methods", ", ".join(made.methods), ", ".join(methods) or "none"))
    if steps != made.steps:
        found.append(Difference("setting", "steps", f"{made.steps}", f"{steps}"))
    return tuple(found)


def _asked() -> tuple[tuple[str, ...], int | None]:
    """Return (methods, steps) as the form stands."""
    chosen = st.session_state.explanation_methods or ()
    return tuple(method for method in METHODS if method in chosen), st.session_state.explanation_steps
