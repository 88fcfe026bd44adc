"""Attack lab: choose a pair, two models and a budget; watch the attack; read what it did."""

from functools import partial

import streamlit as st

from app import services, state
from app.components import attack_flow
from app.components.attack_form import attack_panel, model_panel
from app.components.belongs import belonging, belongs_to
from app.components.guard import guard
from app.components.hero import empty_hero, headline, hero
from app.components.live import cancel_button, live_job
from app.components.pair_picker import browse_dialog, help_dialog, pair_panel, upload_dialog
from app.components.result_view import finding, result_view
from app.components.theme import show, subscript

with guard():
    attack_flow.read_link()
with guard():
    attack_flow.first_pair()
running = attack_flow.collect()
result = state.get(state.RESULT)
bundle = services.showcase()

stage, controls = st.columns([1.9, 1], gap="large")
with controls, st.container(border=True, key="card_controls"):
    with guard():
        pair_panel()
    with guard():
        model_panel()
    with guard():
        attack_panel()
    if running:
        cancel_button(state.ATTACK_JOB, "cancel_attack")
    else:
        st.button(
            "Start the attack", type="primary", key="start_attack", icon=":material/play_arrow:", width="stretch",
            on_click=attack_flow.start,
        )  # fmt: skip
    if running or result is not None:  # where the columns stand under each other, the stage may be out of sight
        words = "Progress is shown" if running else "The result stands"
        show(f'<div class="cm-narrow cm-small cm-muted">▲ {words} at the top of the page.</div>')
with stage:
    attack_flow.show_notice()
    with guard():
        if running:
            show('<h1 class="cm-headline">Crafting the attack …</h1>')
            live_job(state.get(state.ATTACK_JOB))
        elif result is not None:
            with belonging(
                attack_flow.stale(result), belongs_to(result.experiment), key="attack", run=attack_flow.start,
                run_label="Attack the new one", back=partial(attack_flow.restore, result.experiment),
            ):  # fmt: skip
                said = "<br>".join(subscript(sentence) for sentence in finding(result))
                show(f'<h1 class="cm-headline">What the attack did</h1><p class="cm-lead">{said}</p>')
                result_view(result, bases=attack_flow.thresholds(result), link=attack_flow.link(result))
        else:
            headline()
            row = st.container(horizontal=True, gap="small")
            if row.button("Try your own", key="hero_own", type="primary", icon=":material/upload:"):
                upload_dialog()
            if row.button("Browse examples", key="hero_browse", icon=":material/photo_library:"):
                browse_dialog()
            if row.button("How to read this", key="hero_help", icon=":material/help:"):
                help_dialog()
            if bundle:
                example = bundle.result.experiment
                with belonging(
                    attack_flow.stale_example(bundle), f"the bundled example, {belongs_to(example)}", key="example",
                    run=attack_flow.start, run_label="Attack the new one",
                ):  # fmt: skip
                    hero(bundle)
            else:
                empty_hero()
