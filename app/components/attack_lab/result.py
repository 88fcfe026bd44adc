"""A finished attack: pictures, scores and tabs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from app import state, verification_flow
from app.address import link_of as link
from app.components.attack_lab.detector import outcome
from app.components.attack_lab.example_histogram import example_histogram
from app.components.attack_lab.model_card import model_card
from app.components.attack_lab.result_tabs import answers, course, files, perturbation, survival
from app.components.attack_lab.result_words import example_note
from app.components.attack_lab.score_card import score_card
from app.components.attack_lab.shortlist import shortlist_tab
from app.components.attack_lab.smallest import smallest_tab
from app.components.attack_lab.stage import stage
from app.components.attack_lab.verification import await_verdict, verdict_tab
from app.components.attack_lab.verification_words import card_words, shown_rate
from app.components.common.caption_diff import caption_diff, truth_words
from app.components.common.fields import one_of
from app.components.common.guard import guard
from app.components.common.theme import escape, show
from app.services.showcase import showcase
from cmai_core.lab.result import Example, LabResult, PairPrediction

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis

SHOWN = "shown_example"
"""Widget: the role whose picture is on the stage."""


def first_fold(result: LabResult, bases: dict[str, Basis]) -> None:
    """Draw the stage, and beside it what each model makes of the pair.

    Args:
        bases: role → the model's thresholds for pairs of this kind.
    """
    made, fpr = verification_flow.current(result), shown_rate(bases)
    left, right = (st.container(), st.container()) if state.get(state.VIEW) else st.columns([1.25, 1], gap="small")
    with left:
        example = result.examples[shown_role(result)]
        _cancelled(result)
        if example.begun:
            stage(result, example, key="stage")
        else:
            st.image(example.clean, caption="● clean", output_format="PNG", width="stretch", alt="The clean picture")
        if example.caption:
            _edited(result.experiment.caption, example)
        _whose(result)
        st.caption(f"{example_note(result, example)} {example.note}".strip())
    with right:
        for name, prediction in result.predictions.items():
            card(result, prediction, bases.get(name), fpr, card_words(made, prediction), draw=model_card)


def details(result: LabResult, bases: dict[str, Basis]) -> None:
    """Draw the tabs below the first fold; only the open one costs anything."""
    _tabs(result, result.examples[shown_role(result)], bases)


def shown_role(result: LabResult) -> str:
    """Return the role whose picture is on the stage."""
    return one_of(st.session_state.get(SHOWN), _roles(result))


def _roles(result: LabResult) -> list[str]:
    return [role for role, example in result.examples.items() if example.begun] or list(result.examples)[:1]


def _cancelled(result: LabResult) -> None:
    """Say whether the attack was cancelled."""
    if not result.first_example.begun:
        st.info("Cancelled before anything was done: no picture was made.", icon="⏹️")
    elif any(example.cancelled for example in result.examples.values()):
        st.info("Cancelled: this is the best picture found until then.", icon="⏹️")


def _edited(caption: str, example: Example) -> None:
    """Draw what became of the sentence."""
    words = truth_words(caption, example.caption, example.true)
    show(
        f'<p class="cm-quote">{caption_diff(caption, example.caption)}</p>'
        f'<p class="cm-small cm-muted">{escape(words)}</p>'
    )


def _whose(result: LabResult) -> None:
    """Draw the choice of a picture if there are several."""
    roles = _roles(result)
    if len(roles) > 1:
        st.segmented_control(
            "Picture crafted on", roles, default=roles[0], key=SHOWN, required=True, label_visibility="collapsed",
            format_func=lambda role: f"picture crafted on {role}",
        )  # fmt: skip


def _tabs(result: LabResult, example: Example, bases: dict[str, Basis]) -> None:
    """Draw the open tab; the others cost nothing."""
    drawn = {
        "Answers": lambda: answers(result), "Scores": lambda: _scores(result, bases),
        "Verification": lambda: verdict_tab(result), "Shortlist": lambda: shortlist_tab(result),
        "How little is enough?": smallest_tab,
        "Perturbation": lambda: perturbation(example), "Course": lambda: course(result),
        "Does it survive a file?": lambda: survival(result),
        "Replay and files": lambda: files(result, example, link(result)),
    }  # fmt: skip
    tabs = st.tabs(list(drawn), key=state.RESULT_TAB, on_change="rerun")
    for tab, draw in zip(tabs, drawn.values(), strict=True):
        if tab.open:
            with tab, guard():
                draw()
    if not tabs[2].open:
        await_verdict()  # the score cards speak of it


def _scores(result: LabResult, bases: dict[str, Basis]) -> None:
    """Draw S_c of each model on its scale, beside the distribution of the bundled example where that is on show."""
    made, fpr = verification_flow.current(result), shown_rate(bases)
    for place, (name, prediction) in zip(
        st.columns(min(2, len(result.predictions))) * 2, result.predictions.items(), strict=False
    ):
        with place:
            card(result, prediction, bases.get(name), fpr, card_words(made, prediction), draw=score_card)
    bundle = showcase()
    if bundle is not None and bundle.result is result:
        example_histogram(bundle)


def card(
    result: LabResult,
    prediction: PairPrediction,
    basis: Basis | None,
    fpr: float,
    besides: str,
    draw: Callable[..., None],
) -> None:
    """Draw a card of one model, with its τ and where that comes from."""
    tau = prediction.tau if prediction.tau is not None else None if basis is None else basis.tau(fpr)
    said = "" if basis is None else basis.said(fpr)
    draw(
        prediction,
        result.example_for(prediction.role),
        tau,
        origin=said if tau is not None else "",
        unknown=said if tau is None else "",
        outcome=outcome(result, prediction.role),
        besides=besides,
    )
