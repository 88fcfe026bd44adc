"""The lab: attack the pair, watch it happen, and read what each model makes of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import streamlit as st

from app import flow, state, subject
from app.components.attack_lab.attack_card import attack_fields, start_button
from app.components.attack_lab.first_words import first_words
from app.components.attack_lab.result import details, first_fold
from app.components.attack_lab.result_words import finding
from app.components.common.experiment_files import comparison_view
from app.components.common.guard import guard, show_notice
from app.components.common.live import live_job
from app.components.common.stale import belongs_to, result_of
from app.components.common.theme import show, subscript
from app.page import Page
from app.services.showcase import showcase
from cmai_core.lab.again import compare_with_file
from cmai_core.lab.result import LabResult


def body() -> None:
    """Draw the attack beside the stage and the models; below them the details."""
    running = state.get(state.ATTACK_JOB) is not None
    result, bundle = state.get(state.RESULT), showcase()
    shown = result if result is not None else None if bundle is None else bundle.result
    rest = _for_projector(running) if state.get(state.VIEW) else _beside(running)
    with rest:
        show_notice()
        with guard():
            if running:
                live_job(state.get(state.ATTACK_JOB))
            elif shown is not None:
                _result(shown, example=bundle is not None and shown is bundle.result)
            else:
                first_words(empty=True)


def _beside(running: bool) -> Any:
    """Draw the attack on the left; returns where the rest is drawn."""
    card, rest = st.columns([1, 3.4], gap="small")
    with card, st.container(border=True, key="card_attack"):
        attack_fields()
        start_button(running)
    return rest


def _for_projector(running: bool) -> Any:
    """Draw the attack as a line, so that the stage has all of the window; returns where the rest is drawn."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        with st.popover("Attack", icon=":material/tune:", key="open_attack"):
            attack_fields()
        with st.container(width="content"):
            start_button(running)
    return st.container()


def _result(result: LabResult, example: bool) -> None:
    """Draw a result, dimmed if the form has moved on from it."""
    said = f"{'the bundled example, ' if example else ''}{belongs_to(result.experiment)}"
    with result_of(
        flow.moved_on(result), said, key="attack", run=flow.start, run_label="Attack the new one",
        back=partial(subject.restore, result.experiment),
    ):  # fmt: skip
        if example:
            first_words()
        else:
            show(f'<p class="cm-finding">{"<br>".join(subscript(sentence) for sentence in finding(result))}</p>')
        bases = flow.bases(result)
        first_fold(result, bases)
        recorded = state.get(state.RECORDED)
        if recorded is not None and recorded.experiment == result.experiment:
            with st.expander("Against the file", expanded=True, icon=":material/compare_arrows:", key="against_file"):
                comparison_view(compare_with_file(recorded, result))
        details(result, bases)


PAGE = Page(name="attack_lab", title="Lab", icon=":material/experiment:", body=body)
