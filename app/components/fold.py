"""A table behind a fold, worked out and sent only while the fold is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st


def fold_table(title: str, rows: Callable[[], Any], *, key: str) -> None:
    """Draws the fold, and under it what `rows` gives.

    Args:
        key: of the fold; its state lies under it.
    """
    fold = st.expander(title, key=key, on_change="rerun")
    if fold.open:
        fold.dataframe(rows(), hide_index=True)
