"""The form of the page Explain: which pair, attacked or not, and by which methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import navigation, state, subject
from app.components.common.caption_diff import caption_diff
from app.components.common.fields import number_field
from app.components.common.guard import plain
from app.components.common.stale import belongs_to, changed
from app.components.common.theme import escape, show
from app.components.explain.methods import METHODS, USUAL
from app.services.explanations import Request
from app.services.pairs import chosen_thumbnail
from app.services.pictures import picture_url
from cmai_core.errors import OptionError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import content_key

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation

STEPS = (4, 200)
ATTACKED, AS_IT_IS = "The attack", "The pair as it is"


def form() -> None:
    """Draw the pair that is explained, and the choice of methods."""
    result = subject.attacked()
    if result is not None and state.get(state.PAIR):
        st.segmented_control(
            "Explain", (ATTACKED, AS_IT_IS), default=ATTACKED, key="explanation_of", persist_state="session"
        )
    if _unattacked():
        _plain_pair()
    else:
        _attacked_pair(result)
    _methods()


def _unattacked() -> bool:
    """Return whether the pair of the attack lab's form is meant, and not an attack."""
    return subject.attacked() is None or (
        bool(state.get(state.PAIR)) and st.session_state.get("explanation_of") == AS_IT_IS
    )


def _plain_pair() -> None:
    picture, words = st.columns([1, 5], gap="medium", vertical_alignment="center")
    url, where = chosen_thumbnail(state.get(state.PAIR), state.get(state.UPLOAD), state.get(state.SCENE))
    with picture:
        show(f'<img src="{url}" alt="The chosen picture" style="max-width:96px;border-radius:6px">')
    with words:
        show(f'<p class="cm-quote">{escape(state.get(state.CAPTION))}</p><div class="cm-small">{escape(where)}</div>')


def _attacked_pair(result: LabResult) -> None:
    example = result.first_example
    pictures, words = st.columns([1, 4], gap="medium", vertical_alignment="center")
    with pictures:
        show(
            '<div style="display:flex;gap:8px;max-width:220px">'
            f'<img src="{picture_url(example.clean)}" alt="The clean picture" style="width:48%;border-radius:6px">'
            f'<img src="{picture_url(example.adversarial)}" alt="The adversarial picture" '
            'style="width:48%;border-radius:6px"></div>'
        )
    with words:
        which = "the attack made last" if result is state.get(state.RESULT) else "the bundled example"
        caption = result.experiment.caption
        show(
            f'<p class="cm-quote">{caption_diff(caption, example.caption) if example.caption else escape(caption)}</p>'
            f'<div class="cm-small cm-muted">{which}: {escape(belongs_to(result.experiment))}</div>'
        )
        _moved_on_form(result)


def _methods() -> None:
    left, right = st.columns([3, 1])
    left.pills(
        "Methods",
        METHODS,
        selection_mode="multi",
        default=list(USUAL),
        key="explanation_methods",
        persist_state="session",
    )
    left.toggle(
        "Also stability and random weights", key="explanation_checks", persist_state="session",
        help="How far a map moves under slight noise, and whether it notices that the model's weights are replaced by "
        "noise from the top. Takes several times as long.",
    )  # fmt: skip
    number_field(
        right, "Steps of integrated gradients", "explanation_steps", low=STEPS[0], high=STEPS[1], value=20,
        persist_state="session",
        help="Gauss–Legendre nodes; the completeness error beside the map says whether they suffice.",
    )  # fmt: skip


def _moved_on_form(result: LabResult) -> None:
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
        OptionError: the first thing that is missing or out of range. ModelError: a model that is not offered.
    """
    methods, steps, checks = _asked()
    if not methods:
        raise OptionError("No method is chosen.", f"Choose some of: {', '.join(METHODS)}.")
    if steps is None or not STEPS[0] <= steps <= STEPS[1]:
        raise OptionError(f"steps is {steps}.", f"It lies between {STEPS[0]} and {STEPS[1]}.")
    upload = state.get(state.UPLOAD)
    if _unattacked():
        return Request(subject.requested(), None, upload, methods, steps, checks)
    result = subject.attacked()
    return Request(result.experiment, result, upload, methods, steps, checks)


def moved_on(made: LabExplanation) -> tuple[Difference, ...]:
    """Return how the pair that is to be explained, or the form, has moved on from an explanation."""
    plain_pair = _unattacked()
    result = subject.attacked()
    wanted = subject.described() if plain_pair else result.experiment
    found = list(differences(made.experiment, wanted))
    if plain_pair:  # what only an attack uses changes nothing
        found = [difference for difference in found if difference.what in ("pair", "sentence", "model")]
    if made.attack == plain_pair:
        found.append(Difference("setting", "attack", *(("yes", "none") if plain_pair else ("none", "yes"))))
    elif not found and not plain_pair and made.key != content_key(result):
        found.append(Difference("pair", "attack", "an earlier one", "the one made last"))
    methods, steps, checks = _asked()
    if set(methods) != set(made.methods):
        found.append(Difference("setting", "methods", ", ".join(made.methods), ", ".join(methods) or "none"))
    if steps != made.steps:
        found.append(Difference("setting", "steps", f"{made.steps}", f"{steps}"))
    if checks != made.checked:
        found.append(Difference("setting", "further checks", *("yes" if on else "no" for on in (made.checked, checks))))
    return tuple(found)


def _asked() -> tuple[tuple[str, ...], int | None, bool]:
    """Return (methods, steps, checks) as the form stands."""
    chosen = st.session_state.explanation_methods or ()
    methods = tuple(method for method in METHODS if method in chosen)
    return methods, st.session_state.explanation_steps, bool(st.session_state.explanation_checks)
