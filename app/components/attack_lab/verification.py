"""Consistency verification (CMCV) of the pairs on show: verdict, scores, and what disagrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import state, verification_flow
from app.components.attack_lab.disagreement import (
    VERIFIER,
    marked_words,
    patch_map,
    patch_scale,
    place_line,
    words_line,
)
from app.components.attack_lab.policies import policies
from app.components.attack_lab.review_send import send_button
from app.components.attack_lab.verification_words import against, basis_line, chosen_rate, decision, percent
from app.components.common.colour_scale import colour_bar
from app.components.common.fold import fold_table
from app.components.common.live import REFRESH_SECONDS, cancel_button, live_job
from app.components.common.theme import escape, label, number, show, subscript
from app.services.jobs import job_snapshot
from cmai_core.lab.images import data_url
from cmai_core.lab.result import LabResult
from cmai_core.lab.verdict import SIDES, LabVerdict, RoleVerdict

if TYPE_CHECKING:
    pass


LEAD = (
    "CMCV asks whether sentence and picture belong together. S<sub>c</sub> compares the two as a whole; "
    "V<sub>verify</sub>, where a model has consistency heads, checks the sentence word by word against the patches."
)


def verdict_tab(result: LabResult) -> None:
    """Draw the tab: the verdict, or its progress, or the button that asks for it."""
    made = verification_flow.current(result)
    show(f'<p class="cm-small cm-muted">{LEAD}</p>')
    if made is None:
        _unmade(result)
        return
    fpr = chosen_rate(made)
    if made.rates:
        st.segmented_control(
            "Clean pairs that may be flagged", made.rates, key=state.VERDICT_FPR, required=True,
            format_func=lambda rate: f"{rate:.0%}",
            help="The false-positive rate that the thresholds were set at, on clean validation pairs. It holds for "
            "pairs like those and for no others.",
        )  # fmt: skip
    for role in made.roles:
        with st.container(border=True, key=f"card_verdict_{role}"):
            _role(result, made, role, fpr)
    _left_out(result)
    if any(found.pathway for found in made.roles.values()):
        with st.container(border=True, key="card_policies"):
            policies(made, fpr)


def _left_out(result: LabResult) -> None:
    """Name the models that were not attacked: there is no attacked pair to verify."""
    names = [prediction.name for prediction in result.predictions.values() if not prediction.attacked]
    if names:
        st.caption(f"Not verified, as the attack was cancelled before its turn: {', '.join(names)}.")


def _unmade(result: LabResult) -> None:
    if not result.attacked:
        _left_out(result)
        return
    handle = state.get(state.VERDICT_JOB)
    if handle is not None:
        live_job(handle, "verification")
        cancel_button(state.VERDICT_JOB, "cancel_verdict")
        return
    if not verification_flow.automatic(result):
        st.caption(
            "For models that are not bundled this is done on request: about 160 further passes a model, since words "
            "and patches are left out one at a time, and the first time a calibration on 200 clean pairs."
        )
    st.button(
        "Verify these pairs", key="start_verdict", type="primary", icon=":material/fact_check:",
        on_click=verification_flow.ask,
    )  # fmt: skip


@st.fragment(run_every=REFRESH_SECONDS)
def _until_made(handle) -> None:
    now = job_snapshot(handle)
    if now is None or now.finished:
        st.rerun()


def await_verdict() -> None:
    """Run the page again when a verdict is there that is being made while its tab is closed."""
    handle = state.get(state.VERDICT_JOB)
    if handle is not None:
        _until_made(handle)


def _role(result: LabResult, made: LabVerdict, role: str, fpr: float) -> None:
    found = made.roles[role]
    show(
        f'<div class="cm-h">{label(role, role.capitalize())} <span class="cm-muted" style="font-weight:400">· '
        f"{escape(found.name)}</span></div>"
        f'<div class="cm-small cm-muted">{subscript(basis_line(found, fpr))}</div>'
    )
    scale = patch_scale([verdict.parts for verdict in found.verdicts])
    for side, column in enumerate(st.columns(2, gap="medium")):
        with column:
            _side(made, role, side, fpr, scale)
            send_button(result, made, role, side, fpr)
    signed = found.verdicts[0].parts.patches_by != VERIFIER
    colour_bar(scale, signed)
    left_out = "the score gains (orange) or loses (blue) without each patch"
    how = left_out if signed else "disagreement that looks at each patch"
    show(
        f'<p class="cm-small cm-muted">Map: {how}. Words: {_words_how(found)}; where a pair is not accepted, those '
        "that disagree most are underlined.</p>"
    )
    fold_table("Words and their numbers as a table", lambda: words_table(found), key=f"fold_words_{role}")


def _words_how(found: RoleVerdict) -> str:
    if found.verdicts[0].parts.words_by == VERIFIER:
        return "shaded by how probable it is that the picture does not bear them out"
    return "shaded by what S<sub>c</sub> gains when they are left out"


def words_table(found: RoleVerdict) -> list[dict[str, object]]:
    """Return every word of both captions with its number, as rows."""
    kind = "disagreement" if found.verdicts[0].parts.words_by == VERIFIER else "S_c without it − S_c"
    return [
        {"pair": side, "word": word, kind: round(float(value), 4)}
        for side, verdict in zip(SIDES, found.verdicts, strict=True)
        for word, value in zip(verdict.parts.words, verdict.parts.word_values, strict=True)
    ]


def _side(made: LabVerdict, role: str, side: int, fpr: float, scale: float) -> None:
    """Draw verdict, scores, caption and map of one pair."""
    found = made.roles[role]
    verdict, parts = found.verdicts[side], found.verdicts[side].parts
    tau, tau_v = found.tau(fpr), found.tau_v(fpr)
    verifier = "no verifier" if verdict.v is None else against(tau_v)
    cells = (
        ("S<sub>c</sub>", number(verdict.s_c), against(tau)),
        ("V<sub>verify</sub>", "–" if verdict.v is None else number(verdict.v), verifier),
        ("P(consistent)", escape(percent(verdict.probability)), "" if verdict.probability is None else "calibrated"),
    )
    shown = "".join(
        f'<div><div class="label">{name}</div><div class="value">{value}</div>'
        f'<div class="cm-small cm-muted">{note}</div></div>'
        for name, value, note in cells
    )
    words, accepted = place_line(parts), found.consistent(side, fpr)
    title = f"{SIDES[side].capitalize()} pair"
    alt = f"Heat map over the {SIDES[side]} picture. {words}"
    show(
        f'<div class="cm-row"><span class="cm-h grow">{label(SIDES[side], title)}</span>'
        f"{decision(accepted)}</div>"
        f'<div class="cm-numbers">{shown}</div>'
        f'<p class="cm-quote cm-words">{marked_words(found.texts[side], parts, accepted is True)}</p>'
        f'<p class="cm-small cm-note">{words_line(parts)}</p>'
        f'<img class="cm-map" src="{_map_url(made.key, role, side, found, scale)}" alt="{escape(alt)}">'
        f'<p class="cm-small cm-note">{escape(words)}</p>'
    )


@st.cache_data(show_spinner=False, max_entries=64)
def _map_url(key: str, role: str, side: int, _found: RoleVerdict, scale: float) -> str:
    """Return a pair's map as a data: URL; `key` and `role` say which (the verdict itself is not hashed)."""
    return data_url(patch_map(_found.pictures[side], _found.verdicts[side].parts, scale), "WEBP", 90)
