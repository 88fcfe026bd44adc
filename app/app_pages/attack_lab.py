"""Attack lab: choose a pair, two models and a budget; watch the attack; read what it did."""

from __future__ import annotations

from functools import partial

import streamlit as st

from app import address, flow, state, subject
from app.components.attack_lab.browse import browse_dialog
from app.components.attack_lab.form import attack_panel
from app.components.attack_lab.help import help_dialog
from app.components.attack_lab.hero import empty_hero, headline, hero
from app.components.attack_lab.pair_panel import pair_panel
from app.components.attack_lab.result import result_view
from app.components.attack_lab.result_words import finding
from app.components.attack_lab.upload import upload_dialog
from app.components.common.guard import guard, show_notice
from app.components.common.live import cancel_button, live_job
from app.components.common.model_choice import model_panel
from app.components.common.stale import belongs_to, result_of
from app.components.common.theme import show, subscript
from app.page import Page
from app.services.showcase import showcase
from cmai_core.lab.result import LabResult


def body() -> None:
    """Draw the form beside the stage."""
    running = flow.collect()
    result = state.get(state.RESULT)
    stage, controls = st.columns([1.9, 1], gap="large")
    with controls, st.container(border=True, key="card_controls"):
        _controls(running, result is not None)
    with stage:
        show_notice()
        with guard():
            if running:
                show('<h1 class="cm-headline">Crafting the attack …</h1>')
                live_job(state.get(state.ATTACK_JOB))
            elif result is not None:
                _result(result)
            else:
                _first_screen()


def _controls(running: bool, has_result: bool) -> None:
    """Draw the form and its button."""
    for panel in (pair_panel, model_panel, attack_panel):
        with guard():
            panel()
    if running:
        cancel_button(state.ATTACK_JOB, "cancel_attack")
    else:
        st.button(
            "Start the attack", type="primary", key="start_attack", icon=":material/play_arrow:", width="stretch",
            on_click=flow.start,
        )  # fmt: skip
    if running or has_result:  # where the columns stand under each other, the stage may be out of sight
        words = "Progress is shown" if running else "The result stands"
        show(f'<div class="cm-narrow cm-small cm-muted">▲ {words} at the top of the page.</div>')


def _result(result: LabResult) -> None:
    """Draw the result, dimmed if the form has moved on from it."""
    with result_of(
        flow.moved_on(result), belongs_to(result.experiment), key="attack", run=flow.start,
        run_label="Attack the new one", back=partial(subject.restore, result.experiment),
    ):  # fmt: skip
        said = "<br>".join(subscript(sentence) for sentence in finding(result))
        show(f'<h1 class="cm-headline">What the attack did</h1><p class="cm-lead">{said}</p>')
        result_view(result, bases=flow.bases(result), link=address.link(found=result.experiment.to_query()))


def _first_screen() -> None:
    """Draw the headline, ways to begin, and the bundled example."""
    headline()
    row = st.container(horizontal=True, gap="small")
    if row.button("Try your own", key="hero_own", type="primary", icon=":material/upload:"):
        upload_dialog()
    if row.button("Browse examples", key="hero_browse", icon=":material/photo_library:"):
        browse_dialog()
    if row.button("How to read this", key="hero_help", icon=":material/help:"):
        help_dialog()
    bundle = showcase()
    if bundle is None:
        empty_hero()
        return
    with result_of(
        flow.moved_on(bundle.result), f"the bundled example, {belongs_to(bundle.result.experiment)}",
        key="example", run=flow.start, run_label="Attack the new one",
    ):  # fmt: skip
        hero(bundle)


PAGE = Page(name="attack_lab", title="Attack lab", icon=":material/experiment:", body=body)
