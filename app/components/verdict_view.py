"""Consistency verification (CMCV) of the pairs on show: verdict, scores, what disagrees, and what policies would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from app import services, state
from app.components import verdict_flow
from app.components.answers import sign
from app.components.doubt import VERIFIER, marked_words, patch_map, patch_scale, place_line, words_line
from app.components.explanation_view import colour_bar
from app.components.fold import fold_table
from app.components.live import REFRESH_SECONDS, cancel_button, live_job
from app.components.review_send import send_button
from app.components.theme import escape, label, number, show, subscript
from cmai_core.lab.images import data_url
from cmai_core.lab.policies import PathwayAnswer
from cmai_core.lab.result import Answer, LabResult, Reading
from cmai_core.lab.verdict import SIDES, LabVerdict, RoleVerdict

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis

LEAD = (
    "CMCV asks whether sentence and picture belong together. S<sub>c</sub> compares the two as a whole; "
    "V<sub>verify</sub>, where a model has consistency heads, checks the sentence word by word against the patches."
)


def verdict_tab(result: LabResult) -> None:
    """The whole tab: the verdict, or how it is made."""
    made = verdict_flow.current(result)
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
    """Names the models that were not attacked: there is no attacked pair to verify."""
    names = [reading.name for reading in result.readings.values() if not reading.attacked]
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
    if not verdict_flow.automatic(result):
        st.caption(
            "For models that are not bundled this is done on request: about 160 further passes a model, since words "
            "and patches are left out one at a time, and the first time a calibration on 200 clean pairs."
        )
    st.button(
        "Verify these pairs", key="start_verdict", type="primary", icon=":material/fact_check:",
        on_click=verdict_flow.ask,
    )  # fmt: skip


@st.fragment(run_every=REFRESH_SECONDS)
def _until_made(handle) -> None:
    now = services.snapshot(handle)
    if now is None or now.finished:
        st.rerun()


def await_verdict() -> None:
    """Where the verdict is under way and its tab is not open: runs the page again when it is there."""
    handle = state.get(state.VERDICT_JOB)
    if handle is not None:
        _until_made(handle)


def chosen_rate(made: LabVerdict) -> float:
    """The stated rate that verdicts are shown at: the one chosen where there are thresholds for it."""
    return _settled_rate(made.rates)


def shown_rate(bases: Mapping[str, Basis]) -> float:
    """The same for the score cards, which know their thresholds before anything is verified."""
    return _settled_rate(tuple(sorted({rate for basis in bases.values() for rate in basis.rates})))


def _settled_rate(rates: tuple[float, ...]) -> float:
    fpr = state.get(state.VERDICT_FPR)
    if rates and fpr not in rates:
        fpr = rates[-1]
        state.put(state.VERDICT_FPR, fpr)
    return fpr


def card_words(made: LabVerdict | None, reading: Reading) -> str:
    """What CMCV says of a model with consistency heads, for its score card; "" where S_c and τ are all there is."""
    found = None if made is None else made.roles.get(reading.role)
    if found is None or not found.has_heads:
        return ""
    clean, adversarial = (found.consistent(side, chosen_rate(made)) for side in range(2))
    if clean is None:
        return ""
    if not clean:
        said = "flagged even when clean."
    else:
        said = "accepted after the attack." if adversarial else "flagged after the attack."
    return f"S_c and V_verify together (CMCV): {said}"


def decision(accepted: bool | None) -> str:
    """The verdict as a tag: a mark and a word."""
    if accepted is None:
        return '<span class="cm-tag">no verdict</span>'
    mark, word, kind = ("✓", "consistent", "passed") if accepted else ("⚑", "flagged", "flagged")
    return f'<span class="cm-tag cm-tag-{kind}"><span aria-hidden="true">{mark}</span> {word}</span>'


def basis_line(found: RoleVerdict, fpr: float) -> str:
    """What the thresholds rest on, in a sentence or two."""
    parts = ["consistency heads" if found.has_heads else "no consistency heads: S_c is the cosine of the embeddings"]
    known = found.basis.calibration
    if known is not None:
        parts.append(f"thresholds ({found.basis.origin}) flag at most {fpr:.0%} of those pairs")
    bounds = found.bounds(fpr)
    if bounds is not None:
        parts.append(
            f"so that the two scores together flag no more than that, the verdict asks for S_c ≥ {number(bounds[0])} "
            f"and V_verify ≥ {number(bounds[1])}, less than each one's own τ"
        )
    said = "; ".join(parts)
    note = found.basis.note
    return f"{said[0].upper()}{said[1:]}. {'Scores without a verdict. ' if known is None else ''}{note}".strip()


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
    how = "the score gains (orange) or loses (blue) without each patch" if signed else "doubt that looks at each patch"
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
    """Every word of both sentences with its number."""
    kind = "doubt" if found.verdicts[0].parts.words_by == VERIFIER else "S_c without it − S_c"
    return [
        {"pair": side, "word": word, kind: round(float(value), 4)}
        for side, verdict in zip(SIDES, found.verdicts, strict=True)
        for word, value in zip(verdict.parts.words, verdict.parts.word_values, strict=True)
    ]


def _side(made: LabVerdict, role: str, side: int, fpr: float, scale: float) -> None:
    """Verdict, scores, sentence and map of one pair."""
    found = made.roles[role]
    verdict, parts = found.verdicts[side], found.verdicts[side].parts
    tau, tau_v = found.tau(fpr), found.tau_v(fpr)
    verifier = "no verifier" if verdict.v is None else _against(tau_v)
    cells = (
        ("S<sub>c</sub>", number(verdict.s_c), _against(tau)),
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
        f'<p class="cm-quote cm-doubts">{marked_words(found.texts[side], parts, accepted is True)}</p>'
        f'<p class="cm-small cm-note">{words_line(parts)}</p>'
        f'<img class="cm-map" src="{_map_url(made.key, role, side, found, scale)}" alt="{escape(alt)}">'
        f'<p class="cm-small cm-note">{escape(words)}</p>'
    )


@st.cache_data(show_spinner=False, max_entries=64)
def _map_url(key: str, role: str, side: int, _found: RoleVerdict, scale: float) -> str:
    """A pair's map as a data: URL; `key` and `role` say which (the verdict itself is not hashed)."""
    return data_url(patch_map(_found.pictures[side], _found.verdicts[side].parts, scale), "WEBP", 90)


def _against(tau: float | None) -> str:
    return "" if tau is None else f"τ {number(tau)}"


def percent(share: float | None) -> str:
    """A probability in whole per cent, never rounded to certainty; an en dash where there is none."""
    if share is None:
        return "–"
    return "<1%" if share < 0.01 else ">99%" if share > 0.99 else f"{share:.0%}"


def policies(made: LabVerdict, fpr: float) -> None:
    """What would be answered about every flagged pair, measured when the verdict was made."""
    show('<div class="cm-h">What would be done about a flagged pair</div>')
    rows = [
        _policy_rows(role, side, found.pathway[side])
        for role, found in made.roles.items()
        for side in range(2)
        if found.pathway and found.consistent(side, fpr) is False
    ]
    if not rows:
        st.caption("No pair is flagged here, so every policy gives the model's plain answer.")
        return
    show("".join(rows))
    st.caption(
        "Each latency is that of this pair on this machine, from pixels to answer. Copies carry Gaussian noise of "
        "8/255, and their features are averaged; an answer that noise repairs is no proof of robustness."
    )


def _policy_rows(role: str, side: int, tried: PathwayAnswer) -> str:
    plain, robust = _said(tried.plain), _said(tried.robust)
    lines = (
        ("reject", "no answer is given."),
        ("flag", f"the plain answer is given, and a person looks at the pair: {plain}, {span(tried.plain_seconds)}."),
        (
            "robust pathway",
            f"answer by way of {tried.copies} noisy copies: {robust}, {span(tried.robust_seconds)} against "
            f"{span(tried.plain_seconds)}.",
        ),
    )
    rows = "".join(f"<li><b>{name}</b>: {words}</li>" for name, words in lines)
    return (
        f'<div class="cm-answer"><div>{label(role, role.capitalize())} · {label(SIDES[side])} pair · '
        f'{escape(tried.task)}</div><ul class="cm-small">{rows}</ul></div>'
    )


def _said(answer: Answer) -> str:
    return f"{sign(answer.correct)} “{escape(answer.text or '(nothing)')}”"


def span(seconds: float) -> str:
    """A latency in the unit that suits it."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
