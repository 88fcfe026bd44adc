"""A finished attack: pictures, scores and tabs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import state, verification_flow
from app.components.attack_lab.detector import outcome
from app.components.attack_lab.result_tabs import answers, course, files, perturbation, survival
from app.components.attack_lab.result_words import example_note
from app.components.attack_lab.score_card import score_card
from app.components.attack_lab.verification import await_verdict, verdict_tab
from app.components.attack_lab.verification_words import card_words, shown_rate
from app.components.common.before_after import before_after
from app.components.common.caption_diff import caption_diff, truth_words
from app.components.common.fields import one_of
from app.components.common.guard import guard
from app.components.common.theme import escape, show
from cmai_core.lab.result import Example, LabResult, PairPrediction

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis


def result_view(result: LabResult, *, bases: dict[str, Basis] | None = None, link: str = "") -> None:
    """Draw everything about a result.

    Args:
        bases: role → the model's thresholds for pairs of this kind. link: its permalink.
    """
    made = verification_flow.current(result)
    fpr = shown_rate(bases or {})
    example = result.examples[_shown_role(result)]
    left, right = st.columns([1, 1], gap="medium")
    with left:
        if example.begun:
            before_after(example.clean, example.adversarial, key="result_slider", alt=result.experiment.caption)
        else:
            st.image(example.clean, caption="● clean", output_format="PNG", width="stretch", alt="The clean picture")
        shown_caption(result, example)
        st.caption(f"{example_note(result, example)} {example.note}".strip())
    with right:
        for name, prediction in result.predictions.items():
            card(result, prediction, (bases or {}).get(name), fpr, card_words(made, prediction))
    _tabs(result, example, link)


def _shown_role(result: LabResult) -> str:
    """Draw whether the attack was cancelled, and the choice of a picture if there are several; returns its role."""
    roles = [role for role, example in result.examples.items() if example.begun] or list(result.examples)[:1]
    if not result.examples[roles[0]].begun:
        st.info("Cancelled before anything was done: no picture was made.", icon="⏹️")
    elif any(example.cancelled for example in result.examples.values()):
        st.info("Cancelled: this is the best picture found until then.", icon="⏹️")
    if len(roles) == 1:
        return roles[0]
    role = st.segmented_control(
        "Picture crafted on", roles, default=roles[0], key="shown_example", required=True, format_func=str.capitalize
    )
    return one_of(role, roles)


def _tabs(result: LabResult, example: Example, link: str) -> None:
    """Draw the open tab; the others cost nothing."""
    drawn = {
        "Answers": lambda: answers(result), "Verification": lambda: verdict_tab(result),
        "Perturbation": lambda: perturbation(example), "Course": lambda: course(result),
        "Does it survive a file?": lambda: survival(result), "Replay and files": lambda: files(result, example, link),
    }  # fmt: skip
    tabs = st.tabs(list(drawn), key=state.RESULT_TAB, on_change="rerun")
    for tab, draw in zip(tabs, drawn.values(), strict=True):
        if tab.open:
            with tab, guard():
                draw()
    if not tabs[1].open:
        await_verdict()  # the score cards speak of it


def card(result: LabResult, prediction: PairPrediction, basis: Basis | None, fpr: float, besides: str) -> None:
    """Draw the score card of one model, with its τ and where that comes from."""
    tau = prediction.tau if prediction.tau is not None else None if basis is None else basis.tau(fpr)
    said = "" if basis is None else basis.said(fpr)
    score_card(
        prediction,
        result.example_for(prediction.role),
        tau,
        origin=said if tau is not None else "",
        unknown=said if tau is None else "",
        outcome=outcome(result, prediction.role),
        besides=besides,
    )


def shown_caption(result: LabResult, example: Example) -> None:
    """Draw the pair's caption; if it was attacked, its changes."""
    caption = result.experiment.caption
    if not example.caption:
        show(f'<p class="cm-quote">{escape(caption)}</p>')
        return
    words = truth_words(caption, example.caption, example.true)
    body = caption_diff(caption, example.caption)
    show(f'<p class="cm-quote">{body}</p><p class="cm-small cm-muted">{escape(words)}</p>')
