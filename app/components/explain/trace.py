"""The causal trace: which states of each model carry the attack to its answer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.common.chart import chart
from app.components.common.colour_scale import colour_bar
from app.components.common.fold import fold_table
from app.components.common.svg import line_chart
from app.components.common.theme import escape, label, number, show
from cmai_core.lab.explanation_tables import trace_rows, trace_scale
from cmai_core.lab.images import overlay

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation, RoleExplanation

DIRECTIONS = {"bring the answer back": "denoising", "lose the answer": "noising"}


def trace(made: LabExplanation) -> None:
    """Draw curves by layer, the patches of one layer, objects with their controls, and the checks."""
    traced = {role: e for role, e in made.roles.items() if e.trace is not None}
    for role, explained in made.roles.items():
        if explained.trace is None:
            show(f'<p class="cm-small">{label(role)}: {escape(explained.missing.get("trace", ""))}</p>')
        else:
            show(f'<p class="cm-small">{label(role)}: {_gap(explained)}</p>')
    if not traced:
        return
    chosen = st.segmented_control(
        "States of the other run that", tuple(DIRECTIONS), default=next(iter(DIRECTIONS)), key="trace_direction",
        persist_state="session",
        help="Clean states in the attacked run: are they enough to bring the answer back (R)? Attacked states in the "
        "clean run: is it lost without the clean ones (N)? The two are no mirror images.",
    )  # fmt: skip
    direction = DIRECTIONS.get(chosen or "", "denoising")
    left, right = st.columns(2, gap="medium")
    with left, st.container(border=True, key="card_trace_curve"):
        _curve(traced, direction)
    with right, st.container(border=True, key="card_trace_sets"):
        _sets(traced, direction)
    if any(e.trace.grid for e in traced.values()):
        with st.container(border=True, key="card_trace_map"):
            _patches(made, traced, direction)
    words = {role: e for role, e in traced.items() if not e.trace.grid}
    if words:
        with st.container(border=True, key="card_trace_words"):
            _words(words, direction)
    with st.container(border=True, key="card_trace_checks"):
        _checks(traced)
    fold_table("Every effect as a table", partial(trace_rows, made), key="fold_trace")


def _gap(explained: RoleExplanation) -> str:
    """Say what was traced, as HTML."""
    found = explained.trace
    if explained.trace_task == "S_c":
        return f"S<sub>c</sub> of the sentence fell from {number(found.clean)} to {number(found.attacked)}."
    outcome = "chose" if found.fooled else "was not fooled, but came closer to"
    return (
        f"the lead of “{escape(found.true)}” over “{escape(found.wrong)}” fell from {number(found.clean)} to "
        f"{number(found.attacked)} ({escape(explained.trace_task)}); the attacked run {outcome} the latter."
    )


def _curve(traced: dict[str, Any], direction: str) -> None:
    curves = {f"{role}, patches": (getattr(e.trace, direction).patches, role) for role, e in traced.items()}
    depth = max(e.trace.depth for e in traced.values())
    chart(
        line_chart(curves, title=_where(traced), x_label="layer (0: the embedded input)", x_max=depth, y_range=(0, 1)),
        key="trace_curve",
    )
    st.caption(
        "All patches (or words) of one layer at once, without the token that is read off at the end. 1: they hold all "
        "of the attack's effect; 0: it has moved on. All tokens together give 1 at every layer, by definition."
    )


def _where(traced: dict[str, Any]) -> str:
    """Return the finding: by which layer the attack has left the patches."""
    parts = []
    for role, explained in traced.items():
        entry = explained.trace.entry
        depth = explained.trace.depth
        parts.append(f"never ({role})" if entry is None else f"in layer {entry} of {depth} ({role})")
    return "The attack leaves the patches " + ", ".join(parts)


def _sets(traced: dict[str, Any], direction: str) -> None:
    """Draw what objects and background carry before the first layer, beside random patches."""
    show('<div class="cm-h">On which object the attack acts: effect of its patches before the first layer</div>')
    for role, explained in traced.items():
        effects = getattr(explained.trace, direction)
        show(f'<div class="cm-small">{label(role)} <b>{escape(explained.name)}</b></div>')
        if not effects.sets:
            st.caption("What the picture shows is not known, so there are no objects to tell apart.")
            continue
        lines = "".join(
            f"<tr><td>{escape(name)}</td><td>{number(float(values[0]))}</td>"
            f"<td>{number(float(effects.random[name][0]))} ± {number(float(effects.random_sd[name][0]))}</td></tr>"
            for name, values in effects.sets.items()
        )
        show(
            "<table><thead><tr><th>patches of</th><th>effect</th><th>as many random ones</th></tr></thead>"
            f"<tbody>{lines}</tbody></table>"
        )


def _patches(made: LabExplanation, traced: dict[str, Any], direction: str) -> None:
    """Draw the effect of each patch at one layer, of every model on one scale."""
    depth = min(e.trace.depth for e in traced.values())
    show('<div class="cm-h">Each patch alone</div>')
    layer = st.select_slider("Before layer", range(depth + 1), key="trace_layer", persist_state="session")
    scale = trace_scale(made, direction)
    shown = [(role, e) for role, e in traced.items() if e.trace.grid]
    for column, (role, explained) in zip(st.columns(max(4, len(shown))), shown, strict=False):
        with column:
            show(f'<div class="cm-small">{label(role)}</div>')
            st.image(
                overlay(explained.adversarial, explained.trace.maps(direction)[layer], -scale, scale, True),
                output_format="PNG",
                width="stretch",
                alt=f"effect of each patch's state before layer {layer}, model {role}",
            )
    colour_bar(scale, True)
    st.caption(
        "A state at a patch, not the object's pixels: after the first layer it has mixed with all others. Single "
        "patches need not add up to all of them together."
    )


def _words(traced: dict[str, Any], direction: str) -> None:
    """Draw the effect of each token at each layer of the text tower, a table a model."""
    show('<div class="cm-h">Each token alone, by layer of the text tower</div>')
    for role, explained in traced.items():
        found = explained.trace
        effects = getattr(found, direction).tokens
        heads = "".join(f"<th>{layer}</th>" for layer in range(len(effects)))
        lines = "".join(
            f"<tr><td>{escape(word)}</td>{''.join(f'<td>{number(float(v))}</td>' for v in effects[:, place])}</tr>"
            for place, word in enumerate(found.labels)
            if word != "padding"
        )
        show(
            f'<div class="cm-small">{label(role)} <b>{escape(explained.name)}</b></div>'
            f"<table><thead><tr><th>before layer</th>{heads}</tr></thead><tbody>{lines}</tbody></table>"
        )


def _checks(traced: dict[str, Any]) -> None:
    """Draw what says how far to trust the trace, and how heat maps rank the patches beside it."""
    show('<div class="cm-h">Checks, and heat maps beside the trace</div>')
    found = {role: _check_values(explained) for role, explained in traced.items()}
    names = dict.fromkeys(name for values in found.values() for name in values)
    heads = "".join(f"<th>{label(role)}</th>" for role in found)
    lines = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{values.get(name, '–')}</td>" for values in found.values())
        + "</tr>"
        for name in names
    )
    show(f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{lines}</tbody></table>")
    st.caption("A heat map is not causal; where it ranks the patches otherwise than the trace, believe the trace.")


def _check_values(explained: RoleExplanation) -> dict[str, str]:
    """Return the checks of one trace: name → value as it is shown."""
    estimate, (low, high) = explained.trace.attribution, explained.trace.norms
    values = {
        "attribution patching (one gradient): rank correlation with exact": number(estimate.rank_correlation),
        "attribution patching: mean error of an effect": number(estimate.error),
        "length of patched states, as a share of the runs' own": f"{low:.2f} to {high:.2f}",
    }
    ranks = {f"rank correlation with the heat map: {m}": number(v) for m, v in explained.agreement.items()}
    return values | ranks
