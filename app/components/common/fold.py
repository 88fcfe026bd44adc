"""A table in an expander, computed and sent only while it is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st


def fold_table(title: str, rows: Callable[[], Any], *, key: str) -> None:
    """Draw the expander with the table that `rows` returns.

    Args:
        key: of the expander, under which the session keeps whether it is open.
    """
    fold = st.expander(title, key=key, on_change="rerun")
    if fold.open:
        fold.dataframe(rows(), hide_index=True)
