"""The maps of one method, over their pictures, with the numbers that say how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.components.common.colour_scale import colour_bar
from app.components.common.fold import fold_table
from app.components.common.theme import escape, label, mark, number, show
from app.components.explain.methods import METHOD_WORDS, METHODS
from cmai_core.lab.explanation_tables import map_rows
from cmai_core.lab.images import overlay

if TYPE_CHECKING:
    from cmai_core.lab.explanation import LabExplanation, RoleExplanation

SIDES = ("clean", "adversarial")
COLUMNS = 3
"""Of one model: clean, adversarial, difference."""


def one_method(made: LabExplanation, method: str) -> None:
    """Draw the maps of a method on one scale: clean, adversarial and their difference, for each model."""
    show(f'<div class="cm-h">{escape(finding(made, method))}</div>')
    st.caption(
        METHOD_WORDS[method]
        + (" In brackets: rank correlation of the clean and the adversarial map." if made.attack else "")
    )
    scale, change = made.scales.get(method, 1.0), made.differences.get(method, 1.0)
    for pair in _by_two(list(made.roles.items())):
        columns = st.columns(COLUMNS * len(pair), gap="small")
        for place, (role, explained) in enumerate(pair):
            _one_model(made, method, role, explained, columns[COLUMNS * place : COLUMNS * (place + 1)])
    signed = any(e.maps[method].signed for e in made.roles.values() if method in e.maps)
    left, right = st.columns(2)
    with left:
        colour_bar(scale, signed)
    if made.attack:
        with right:
            show('<div class="cm-small cm-muted">differences</div>')
            colour_bar(change, True)
    fold_table("Numbers as a table", partial(checks_table, made, method), key=f"fold_map_{METHODS.index(method)}")
    fold_table("Maps as a table", partial(map_rows, made, method), key=f"fold_cells_{METHODS.index(method)}")


def _by_two(models: list[tuple[str, RoleExplanation]]) -> list[list[tuple[str, RoleExplanation]]]:
    """Return the models two and two: more do not fit beside each other."""
    return [models[k : k + 2] for k in range(0, len(models), 2)]


def _one_model(
    made: LabExplanation, method: str, role: str, explained: RoleExplanation, columns: Sequence[Any]
) -> None:
    """Draw a model's maps in its columns."""
    if method not in explained.maps:
        with columns[0]:
            show(f'<div class="cm-small">{label(role)}</div>')
            st.caption(f"Not available: {explained.missing.get(method, '')}")
        return
    for row in range(2 if made.attack else 1):
        with columns[row]:
            one_map(explained, method, row, role, made.scales.get(method, 1.0))
    if made.attack:
        with columns[2]:
            _difference(explained, method, role, made.differences.get(method, 1.0))
            if method in explained.warnings:
                st.warning(f"{role}: {explained.warnings[method]}", icon="⚠️")


def finding(made: LabExplanation, method: str) -> str:
    """Return the title of a method's card: its finding."""
    if not made.attack:
        return method.capitalize()
    parts = []
    for role, explained in made.roles.items():
        if method in explained.similarity:
            value = explained.similarity[method]
            word = "hardly moves" if value > 0.8 else "moves in part" if value > 0.5 else "moves"
            noise = explained.control.get(method)  # none where only words were attacked
            beside = "" if noise is None else f"; under mere noise {noise:.2f}"
            parts.append(f"{role} {word} ({value:.2f}{beside})".replace("-", "−"))
    return f"{method.capitalize()}: " + ("; ".join(parts) if parts else "not available")


def one_map(explained: RoleExplanation, method: str, row: int, role: str, scale: float) -> None:
    """Draw one map over its picture, and its numbers."""
    kind = SIDES[row]
    explanation = explained.maps[method]
    picture = (explained.clean, explained.adversarial)[row]
    low = -scale if explanation.signed else 0.0
    show(f'<div class="cm-small">{label(role)} · {mark(kind)}{kind}</div>')
    st.image(
        overlay(picture, explanation.map[row], low, scale, explanation.signed),
        output_format="PNG",
        width="stretch",
        alt=f"{method} of model {role} for the {kind} picture, laid over its grey version",
    )
    lines = "".join(
        f"<tr><td>{escape(name).replace('S_c', 'S<sub>c</sub>')}</td><td>{_said(value)}</td></tr>"
        for name, value in _numbers(explained, method, row)
    )
    show(f"<table><tbody>{lines}</tbody></table>")


def _difference(explained: RoleExplanation, method: str, role: str, scale: float) -> None:
    show(f'<div class="cm-small">{label(role)} · adversarial minus clean</div>')
    st.image(
        overlay(explained.clean, explained.difference(method), -scale, scale, True),
        output_format="PNG",
        width="stretch",
        alt=f"{method}, model {role}: adversarial minus clean map, orange where it grew, blue where it shrank",
    )


def _numbers(explained: RoleExplanation, method: str, row: int) -> list[tuple[str, float]]:
    """Return what is known of one map: (name, value)."""
    explanation, lines = explained.maps[method], []
    if explanation.score is not None:
        lines.append(("S_c", float(explanation.score[row])))
    for name, words in (
        ("completeness_error", "completeness error δ/|ΔS|"),
        ("class_token_share", "share of the class token"),
    ):
        if name in explanation.checks:
            lines.append((words, float(explanation.checks[name][row])))
    for check in explained.checks.get(method, ((), ()))[row]:
        lines.append((f"deletion AUC ({check.fill}), random {number(check.random)}", check.deletion))
        lines.append((f"insertion AUC ({check.fill}), random {number(check.random)}", check.insertion))
    if row == 0 and method in explained.stability:
        lines.append(("largest change under noise of 2/255", explained.stability[method]))
    if row == 0:
        for part, value in explained.randomised.get(method, ())[-1:]:
            lines.append((f"like the map of random weights (down to {part})", value))
    if row == 1 and method in explained.agreement:
        lines.append(("rank correlation with the causal trace", explained.agreement[method]))
    return lines


def _said(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else number(value)


def checks_table(made: LabExplanation, method: str) -> list[dict[str, Any]]:
    """Return every number of a method's maps, the whole cascade of random weights included, as rows."""
    rows = []
    for role, explained in made.roles.items():
        if method not in explained.maps:
            continue
        for row, side in enumerate(SIDES if made.attack else SIDES[:1]):
            rows += [
                {"model": role, "side": side, "number": name, "value": value}
                for name, value in _numbers(explained, method, row)
            ]
        rows += [
            {"model": role, "side": "clean", "number": f"rank correlation, random from the top to {part}", "value": v}
            for part, v in explained.randomised.get(method, ())
        ]
    return rows
