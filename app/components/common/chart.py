"""Draw a chart of `svg.py` in the theme's colours; Streamlit's own HTML element takes no SVG."""

from __future__ import annotations

from app.components.common.static_files import component

_chart = component("chart", '<div class="chart"></div>')


def chart(markup: str, *, key: str) -> None:
    """Draw the markup of `svg.line_chart` or `svg.histogram` (whose texts are escaped there)."""
    _chart(key=key, data=markup)
