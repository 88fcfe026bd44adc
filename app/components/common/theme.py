"""Roles with their colours, shapes and words, and helpers for the lab's own HTML.

A role is never told by colour alone: each has a mark, a dash and a word. Backgrounds and text colours come from the
active theme (`static/theme.css` draws with `currentColor`), so light and dark need no second set. Style sheets take the
roles' colours from the variables `--cm-<role>` that `inject_style` sets.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

import streamlit as st

from app.components.common.static_files import static_text


@dataclass(frozen=True)
class Role:
    """The look of one role, everywhere the same.

    Attributes:
        word: for people. colour: CSS colour. mark: a character. dash: SVG stroke-dasharray.
        plotly_dash, plotly_symbol: names that plotly knows.
    """

    word: str
    colour: str
    mark: str
    dash: str
    plotly_dash: str
    plotly_symbol: str


ROLES = {
    "clean": Role("clean", "#0072B2", "●", "", "solid", "circle"),
    "adversarial": Role("adversarial", "#D55E00", "◆", "6 4", "dash", "diamond"),
    "defended": Role("defended", "#009E73", "■", "2 3", "dot", "square"),
    "undefended": Role("undefended", "#6B7280", "▲", "", "solid", "triangle-up"),
    "A": Role("A", "#785EF0", "▲", "", "solid", "triangle-up"),
    "B": Role("B", "#009E73", "■", "2 3", "dot", "square"),
    "C": Role("C", "#B8467E", "★", "8 3", "longdash", "star"),
    "D": Role("D", "#8A6A00", "✚", "8 3 2 3", "dashdot", "cross"),
}


def inject_style(large: bool = False) -> None:
    """Put the style sheet on the page; once a run. Cards take the second background of whichever theme is active.

    Args:
        large: for a projector.
    """
    light = st.get_option("theme.light.secondaryBackgroundColor") or "transparent"
    dark = st.get_option("theme.dark.secondaryBackgroundColor") or "transparent"
    colours = "".join(f"--cm-{name}: {role.colour};" for name, role in ROLES.items())
    variables = f":root {{{colours}--cm-card: light-dark({light}, {dark});}}"
    more = static_text("projector.css") if large else ""
    st.html(f"<style>{variables}\n{static_text('theme.css')}\n{more}</style>")


def escape(text: object) -> str:
    """Return text made safe for HTML, quotes included."""
    return html.escape(str(text), quote=True)


def mark(role: str) -> str:
    """Return the coloured mark of a role (decorative: the word stands beside it)."""
    look = ROLES[role]
    return f'<span class="cm-mark" aria-hidden="true" style="color:{look.colour}">{look.mark}</span>'


def label(role: str, text: str | None = None) -> str:
    """Return mark and word of a role."""
    return f"{mark(role)}{escape(text or ROLES[role].word)}"


def badge(defended: bool | None) -> str:
    """Return whether a model is defended, as a badge; "" where nobody knows."""
    if defended is None:
        return ""
    role = "defended" if defended else "undefended"
    return f'<span class="cm-tag cm-badge cm-badge-{role}">{ROLES[role].word}</span>'


def number(value: float | None) -> str:
    """Return three decimals with a true minus sign; an en dash if there is no number."""
    if value is None or value != value:
        return "–"
    return f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Return three decimals, always with a sign; an en dash if there is no number."""
    if value is None or value != value:
        return "–"
    return f"{value:+.3f}".replace("-", "−")


def subscript(text: str) -> str:
    """Return text made safe for HTML, S_c with its index."""
    return escape(text).replace("S_c", "S<sub>c</sub>")


def show(body: str) -> None:
    """Draw the lab's own HTML, in its style."""
    st.html(f'<div class="cm">{body}</div>')


def heading(title: str, lead: str) -> None:
    """Draw the heading of a page."""
    show(f'<h1 class="cm-headline">{escape(title)}</h1><p class="cm-lead">{escape(lead)}</p>')
