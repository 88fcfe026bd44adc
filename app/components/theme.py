"""Roles, their colours, shapes and words, and the style sheet of the lab's own HTML.

A role is never told by colour alone: each has a mark, a dash and a word. Backgrounds and text colours come from the
active theme (everything here is drawn with `currentColor`), so light and dark need no second set.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

import streamlit as st


@dataclass(frozen=True)
class Role:
    """How one role is drawn everywhere.

    Attributes:
        word: what people read; colour: CSS colour; mark: a character; dash: SVG stroke-dasharray; plotly_dash,
        plotly_symbol: the same for plotly.
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
}

_CSS = """
<style>
.block-container, [data-testid="stMainBlockContainer"] {max-width: 1600px; padding-top: 4.25rem; padding-bottom: 4rem;}
@media (max-width: 640px) {
  .block-container, [data-testid="stMainBlockContainer"] {padding-left: 1rem; padding-right: 1rem;}
}
.cm {font-variant-numeric: tabular-nums; line-height: 1.45;}
.cm-headline {font-size: 28px; font-weight: 600; line-height: 1.2; letter-spacing: -0.01em; margin: 0;}
.cm-lead {font-size: 15px; opacity: .78; margin: 6px 0 0; max-width: 90ch;}
.cm-h {font-size: 16px; font-weight: 600; margin: 0 0 4px;}
.cm-step {font-size: 12px; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; opacity: .72;
  margin: 0 0 2px;}
.cm-muted {opacity: .72;}
.cm-small {font-size: 12.5px;}
.cm-card {border: 1px solid color-mix(in srgb, currentColor 16%, transparent); border-radius: 8px; padding: 14px 16px;
  background: CARD_BACKGROUND;}
[class*="st-key-card_"] {background: CARD_BACKGROUND;}
.cm-row {display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 12px;}
.cm-row .grow {flex: 1 1 auto;}
.cm-tag {display: inline-block; font-size: 12px; line-height: 1; padding: 4px 8px; border-radius: 999px;
  white-space: nowrap;
  border: 1px solid color-mix(in srgb, currentColor 24%, transparent);}
.cm-mark {font-size: .9em; margin-right: .35em;}
.cm-numbers {display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; margin: 10px 0 2px;}
.cm sub {line-height: 0;}
.cm-numbers .label {font-size: 12px; opacity: .75;}
.cm-numbers .value {font-size: 24px; font-weight: 600; line-height: 1.15;}
.cm-track {position: relative; height: 30px; margin: 18px 7px 18px;}
.cm-track .line {position: absolute; left: 0; right: 0; top: 14px; height: 2px;
  background: color-mix(in srgb, currentColor 22%, transparent);}
.cm-track .span {position: absolute; top: 13px; height: 4px; border-radius: 2px;
  background: color-mix(in srgb, currentColor 34%, transparent);}
.cm-track .dot {position: absolute; top: 15px; transform: translate(-50%, -50%); font-size: 19px; line-height: 1;}
.cm-track .tau {position: absolute; top: 3px; height: 24px; border-left: 2px dashed currentColor; opacity: .75;}
.cm-track .tick {position: absolute; top: 28px; transform: translateX(-50%); font-size: 11px; opacity: .7;
  white-space: nowrap;}
.cm-track .taulabel {position: absolute; top: -9px; transform: translateX(-50%); font-size: 11px; white-space: nowrap;}
.cm-note {margin: 4px 0 0;}
.cm-verdict {margin: 2px 0 0; font-weight: 600;}
.cm-answers {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 12px;}
.cm-answer {border-top: 1px solid color-mix(in srgb, currentColor 12%, transparent); padding: 8px 0 2px;}
.cm-two {display: grid; grid-template-columns: minmax(0, 1fr) 18px minmax(0, 1fr); gap: 6px; align-items: start;}
.cm-two .arrow {opacity: .5; text-align: center;}
.cm-two .say {overflow-wrap: anywhere;}
.cm-pictures {display: flex; gap: 12px; margin: 6px 0;}
.cm-pictures figure {margin: 0; width: 96px;}
.cm-pictures img {display: block; width: 96px; height: 96px; border-radius: 6px;}
.cm-pictures figcaption {font-size: 11.5px; line-height: 1.3; opacity: .8; margin-top: 2px;}
.cm-pictures-large figure {width: min(160px, 50%);}
.cm-pictures-large img {width: 100%; height: auto; aspect-ratio: 1; image-rendering: auto;}
.cm-cell .row {display: flex; flex-wrap: wrap; align-items: center; gap: 8px 10px; margin: 8px 0;}
.cm-cell .box {border: 1px solid color-mix(in srgb, currentColor 20%, transparent); border-radius: 8px;
  padding: 6px 12px; line-height: 1.3;}
.cm-cell .out {border-style: dashed;}
.cm-cell .times {opacity: .6; font-size: 18px;}
.cm-check {display: grid; grid-template-columns: 22px 64px minmax(0, 1fr); gap: 0 8px; padding: 8px 0;
  font-size: 13.5px; border-bottom: 1px solid color-mix(in srgb, currentColor 12%, transparent);}
.cm-check .mark {font-weight: 700; text-align: center; border-radius: 999px;
  width: 22px; height: 22px; line-height: 22px;}
.cm-check .word {font-size: 12px; opacity: .8; line-height: 22px;}
.cm-check-pass .mark {color: #009E73; background: color-mix(in srgb, #009E73 16%, transparent);}
.cm-check-warn .mark {color: #D55E00; background: color-mix(in srgb, #E69F00 24%, transparent);}
.cm-check-fail .mark {color: #FFFFFF; background: #C2410C;}
.cm-check-skipped .mark {background: color-mix(in srgb, currentColor 10%, transparent); opacity: .7;}
.cm-changed {text-decoration: underline; text-decoration-thickness: 2px; text-underline-offset: 3px;
  text-decoration-color: #D55E00;}
.cm-doubt {color: inherit; border-radius: 3px; padding: 1px 2px; -webkit-box-decoration-break: clone;
  box-decoration-break: clone;}
.cm-doubted {font-weight: 600; text-decoration: underline wavy #D55E00 1.5px; text-underline-offset: 4px;}
.cm-doubts {line-height: 1.75; margin: 8px 0 4px;}
.cm-map {display: block; width: 100%; max-width: 320px; height: auto; border-radius: 8px; margin: 8px 0 0;}
.cm-tag-flagged {border-color: #D55E00; background: color-mix(in srgb, #D55E00 16%, transparent); font-weight: 600;}
.cm-tag-passed {border-color: #009E73; background: color-mix(in srgb, #009E73 14%, transparent);}
.cm-gone {text-decoration: line-through; text-decoration-color: #D55E00; opacity: .8;}
.cm details {font-size: 12.5px; margin: 2px 0 4px;}
.cm summary {cursor: pointer; opacity: .75;}
.cm-rank {display: grid; grid-template-columns: minmax(0, 1fr) 54px; gap: 0 8px;}
.cm-rank .p {text-align: right;}
.cm-quote {font-size: 16px; border-left: 3px solid color-mix(in srgb, currentColor 26%, transparent);
  padding: 2px 0 2px 12px;  margin: 0; overflow-wrap: anywhere;}
.cm-chip {display: flex; flex-wrap: wrap; gap: 4px 14px; justify-content: flex-end; font-size: 12.5px; opacity: .8;}
.cm table {width: 100%; border-collapse: collapse; font-size: 13px;}
.cm th, .cm td {text-align: right; padding: 4px 8px;
  border-bottom: 1px solid color-mix(in srgb, currentColor 12%, transparent);}
.cm th:first-child, .cm td:first-child {text-align: left;}
.cm-models {overflow-x: auto;}
.cm-models td:first-child {white-space: nowrap;}
.cm-models th:nth-child(2), .cm-models td:nth-child(2) {text-align: left;}
.cm-legend {display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12.5px;}
.cm-narrow {display: none;}
[class*="st-key-stale_"] {opacity: .5; filter: saturate(.45);}
[class*="st-key-stale_run_"], [class*="st-key-stale_back_"] {opacity: 1; filter: none;}
@media (max-width: 640px) {
  .cm-narrow {display: block;}
  .cm-headline {font-size: 22px;}
  .cm-chip {justify-content: flex-start;}
  .cm-numbers .value {font-size: 20px;}
  .cm-models th:nth-child(2), .cm-models td:nth-child(2) {display: none;}
}
</style>
"""


def inject_style() -> None:
    """Puts the style sheet on the page; once a run. Cards take the second background of whichever theme is active."""
    light = st.get_option("theme.light.secondaryBackgroundColor") or "transparent"
    dark = st.get_option("theme.dark.secondaryBackgroundColor") or "transparent"
    st.html(_CSS.replace("CARD_BACKGROUND", f"light-dark({light}, {dark})"))


def escape(text: object) -> str:
    """Text made safe for HTML, quotes included."""
    return html.escape(str(text), quote=True)


def mark(role: str) -> str:
    """The coloured mark of a role (decorative: the word stands beside it)."""
    look = ROLES[role]
    return f'<span class="cm-mark" aria-hidden="true" style="color:{look.colour}">{look.mark}</span>'


def label(role: str, text: str | None = None) -> str:
    """Mark and word of a role."""
    return f"{mark(role)}{escape(text or ROLES[role].word)}"


def number(value: float | None) -> str:
    """Three decimals with a true minus sign; an en dash where there is no number."""
    if value is None or value != value:
        return "–"
    return f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Three decimals, always with a sign; an en dash where there is no number."""
    if value is None or value != value:
        return "–"
    return f"{value:+.3f}".replace("-", "−")


def subscript(text: str) -> str:
    """Text made safe for HTML, S_c with its index."""
    return escape(text).replace("S_c", "S<sub>c</sub>")


def show(body: str) -> None:
    """The lab's own HTML, under its style."""
    st.html(f'<div class="cm">{body}</div>')
