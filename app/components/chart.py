"""Puts a chart of `svg.py` on the page, in the theme's colours. (Streamlit's own HTML element takes no SVG.)"""

from __future__ import annotations

import streamlit as st

_CSS = """
.chart {color: var(--st-text-color, currentColor); font: 14px/1.45 var(--st-font, sans-serif);
  font-variant-numeric: tabular-nums;}
.cm-h {font-size: 16px; font-weight: 600; margin: 0 0 4px;}
.cm-legend {display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12.5px;}
svg {display: block; width: 100%; max-width: 640px; height: auto; overflow: visible;}
svg text {fill: currentColor;}
"""

_JS = """
export default function ({ data, parentElement }) {
  const box = parentElement.querySelector(".chart");
  if (box.dataset.shown !== data) { box.innerHTML = data; box.dataset.shown = data; }
}
"""

_chart = st.components.v2.component("cmai_chart", html='<div class="chart"></div>', css=_CSS, js=_JS)


def chart(markup: str, *, key: str) -> None:
    """Draws the markup of `svg.line_chart` or `svg.histogram` (whose texts are escaped there)."""
    _chart(key=key, data=markup)
