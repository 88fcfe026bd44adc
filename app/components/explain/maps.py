"""The maps of one method, over their pictures, with the numbers that say how far to trust them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.colour_scale import colour_bar
from app.components.common.theme import escape, label, mark, number, show
from app.components.explain.methods import METHOD_WORDS
from cmai_core.lab.images import overlay

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation, RoleExplanation


def one_method(made: LabExplanation, method: str) -> None:
    """Draw the maps of a method on one scale: clean and adversarial, for each model."""
    show(f'<div class="cm-h">{escape(finding(made, method))}</div>')
    st.caption(f"{METHOD_WORDS[method]} In brackets: rank correlation of the clean and the adversarial map.")
    scale = made.scales.get(method, 1.0)
    columns = st.columns(2 * len(made.roles), gap="small")
    place = 0
    for role, explained in made.roles.items():
        for row, kind in enumerate(("clean", "adversarial")):
            with columns[place]:
                show(f'<div class="cm-small">{label(role)} · {mark(kind)}{kind}</div>')
                if method in explained.maps:
                    one_map(explained, method, row, kind, scale)
                else:
                    st.caption(f"Not available: {explained.missing.get(method, '')}")
            place += 1
    signed = any(e.maps[method].signed for e in made.roles.values() if method in e.maps)
    colour_bar(scale, signed)
    for role, explained in made.roles.items():
        if method in explained.warnings:
            st.warning(f"{role.capitalize()}: {explained.warnings[method]}", icon="⚠️")


def finding(made: LabExplanation, method: str) -> str:
    """Return the title of a method's row: its finding."""
    parts = []
    for role, explained in made.roles.items():
        if method in explained.similarity:
            value = explained.similarity[method]
            word = "hardly moves" if value > 0.8 else "moves in part" if value > 0.5 else "moves"
            noise = explained.control.get(method)  # none where only words were attacked
            beside = "" if noise is None else f"; under mere noise {noise:.2f}"
            parts.append(f"{role} {word} ({value:.2f}{beside})".replace("-", "−"))
    return f"{method.capitalize()}: " + ("; ".join(parts) if parts else "not available")


def one_map(explained: RoleExplanation, method: str, row: int, kind: str, scale: float) -> None:
    """Draw one map over its picture, and its numbers."""
    explanation = explained.maps[method]
    picture = (explained.clean, explained.adversarial)[row]
    low = -scale if explanation.signed else 0.0
    st.image(
        overlay(picture, explanation.map[row], low, scale, explanation.signed),
        output_format="PNG",
        width="stretch",
        alt=f"{method} of the {kind} picture, laid over its grey version",
    )
    lines = []
    if explanation.score is not None:
        lines.append(("S<sub>c</sub>", number(float(explanation.score[row]))))
    for name, words in (
        ("completeness_error", "completeness error δ/|ΔS|"),
        ("class_token_share", "share of the class token"),
    ):
        if name in explanation.checks:
            value = float(explanation.checks[name][row])
            lines.append((words, f"{value:.1e}" if value < 1e-3 else number(value)))
    for check in explained.checks.get(method, ((), ()))[row]:
        fill = escape(check.fill)
        lines.append((f"deletion AUC ({fill}), random {number(check.random)}", number(check.deletion)))
        lines.append((f"insertion AUC ({fill}), random {number(check.random)}", number(check.insertion)))
    show("<table><tbody>" + "".join(f"<tr><td>{n}</td><td>{v}</td></tr>" for n, v in lines) + "</tbody></table>")
