"""Stored runs: the worst case, and tabs with everything else. Each number opens its pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from app.components.benchmark.cells import cells_view
from app.components.benchmark.checks import checks_view
from app.components.benchmark.curve import curve_view
from app.components.benchmark.export import export_view
from app.components.benchmark.modalities import modality_view
from app.components.benchmark.plots import looks
from app.components.benchmark.transfer import transfer_view
from app.components.benchmark.worst_case import worst_view
from app.services.models import catalogue

if TYPE_CHECKING:
    from cmai_core.lab.benchmark.results import Results


TABS = ("Every cell", "Accuracy against ε", "Transfer", "By modality", "Self-checks", "Export")


def results_view(made: Results) -> None:
    """Draw everything about the chosen runs."""
    cards = {card.name: card.defended for card in catalogue()}
    look = looks(made.models, cards)
    if made.note:
        st.caption(f":material/join_inner: {made.note}")
    worst_view(made)
    st.caption(":material/touch_app: Click any number, row or point: the pairs behind it open.")
    tabs = st.tabs(TABS, key="bench_tabs", on_change="rerun")
    drawn: tuple[Callable[[], None], ...] = (
        lambda: cells_view(made), lambda: curve_view(made, look), lambda: transfer_view(made),
        lambda: modality_view(made, look), lambda: checks_view(made), lambda: export_view(made),
    )  # fmt: skip
    for tab, draw in zip(tabs, drawn, strict=True):
        if tab.open:
            with tab:
                draw()
