"""The button that puts a pair from the lab into the human-review queue, once."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.attack_lab.disagreement import disagreeing
from app.components.common.theme import number
from app.services.reviews import review_queue, sender, without_paths
from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.choices import SEARCHES, THREATS
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import SIDES, LabVerdict, RoleVerdict


def send_button(result: LabResult, made: LabVerdict, role: str, side: int, fpr: float) -> None:
    """Draw the button; afterwards it says that the pair is in the queue."""
    sent = (made.key, role, side) in state.get(state.SENT)
    uploaded = result.experiment.pair.startswith("upload/")
    st.button(
        "In the review queue" if sent else "Send to review",
        key=f"send_{role}_{SIDES[side]}",
        icon=":material/check:" if sent else ":material/rate_review:",
        disabled=sent,
        on_click=send,
        args=(result, made, role, side, fpr),
        help="A reviewer judges it on the page Review. Picture and sentence are kept on the lab's machine, where its "
        "reviewers see them" + (", your uploaded picture too." if uploaded else "."),
    )


def send(result: LabResult, made: LabVerdict, role: str, side: int, fpr: float) -> None:
    """Put a pair into the queue unless it is there; an error is shown in the next run."""
    found = made.roles[role]
    try:
        with without_paths():
            entry = review_queue().add(
                found.pictures[side],
                [found.texts[side]],
                model=found.name,
                reason=reason(result, found, role, side, fpr),
                item=result.experiment.pair,
                score=found.verdicts[side].s_c,
                tau=found.tau(fpr),
                once=True,
                sender=sender(),
            )
        if entry is None:
            raise DataError("The review queue is full.", "Its reviewers have to judge some of its pairs first.")
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.SENT, {**state.get(state.SENT), (made.key, role, side): entry})


def reason(result: LabResult, found: RoleVerdict, role: str, side: int, fpr: float) -> str:
    """Return why a pair is shown to a person: its origin, what CMCV says, and which words disagree."""
    verdict, known = found.verdicts[side], found.basis.at(fpr)
    origin = "clean pair"
    if side:
        e, example = result.experiment, result.example_for(role)
        origin = f"attacked pair ({SEARCHES[e.recipe].word}, {THREATS[e.norm]}, crafted on model {example.role})"
    if known is None:
        said = "scores without a verdict"
    else:
        flagged = not found.consistent(side, fpr)
        said = f"{'flagged' if flagged else 'accepted'} by CMCV at {fpr:.0%} false positives"
        if found.has_heads:
            bounds = " and ".join(number(bound) for bound in found.bounds(fpr))
            said += f", V_verify {number(verdict.v)}; S_c and V_verify together are held against {bounds}"
    if found.consistent(side, fpr):
        return f"{origin}: {said}"
    words = ", ".join(verdict.parts.words[k] for k in disagreeing(verdict.parts))
    return f"{origin}: {said}" + (f"; words that disagree: {words}" if words else "")
