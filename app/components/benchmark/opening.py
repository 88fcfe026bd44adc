"""Tables and charts whose numbers open the pairs behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state
from app.components.common.plots import selected_id

if TYPE_CHECKING:
    import pandas as pd


def open_cell(key: str, ids: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """Note which figure of a table was clicked; its callback.

    Args:
        ids: figure of each cell, "" for none; of each row if there are no `columns`.
    """
    chosen = st.session_state[key].selection
    found = ""
    if chosen.get("cells"):
        row, column = chosen["cells"][0]
        place = columns.index(column) if column in columns else None if columns else 0
        found = ids[row][place] if place is not None and row < len(ids) else ""
    elif chosen.get("rows"):
        found = ids[chosen["rows"][0]][0]
    if found:
        state.put(state.BENCH_OPEN, found)


def open_point(key: str) -> None:
    """Note which point of a chart was clicked; its callback."""
    found = selected_id(st.session_state[key])
    if found:
        state.put(state.BENCH_OPEN, found)


def matrix(table: pd.DataFrame, ids: Sequence[Sequence[str]], key: str, **options: Any) -> None:
    """Draw a table whose cells open their pairs."""
    columns = list(table.columns)
    st.dataframe(
        table, key=key, placeholder="–", hide_index=True, selection_mode="single-cell",
        on_select=lambda: open_cell(key, ids, columns), **options,
    )  # fmt: skip
