"""Number fields that accept whatever is typed, and say at once what is out of range.

A browser changes a number beyond a field's limits without a word, and then something else runs than what was typed. So
the fields have no limits: what is out of range is said below them, and refused when it is to be run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from cmai_core.lab.experiment import RANGES, WHOLE


def number_field(
    place: Any,
    label: str,
    key: str,
    name: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    **options: Any,
) -> None:
    """Draw a number field.

    Args:
        place: a column or `st`. key: in the session's state. name: option of an experiment whose range it has.
        low, high: ends of the range, if it is another.
    """
    least, most = RANGES.get(name or key, (low, high))
    least, most = (least if low is None else low), (most if high is None else high)
    if (name or key) in WHOLE:
        options.setdefault("step", 1)  # a whole step makes the field's value a whole number
    elif isinstance(st.session_state.get(key), float):
        options.setdefault("format", "%g")
    place.number_input(label, key=key, **options)
    value = st.session_state.get(key)
    if value is None or not least <= value <= most:
        place.caption(f":material/error: between {least:g} and {most:g}")


def one_of(value: Any, options: Sequence[Any]) -> Any:
    """Return a widget's value if it is one of the options, else the first of them.

    A browser sends the word that it shows; sent late, after the options have changed, it comes back as that word.
    """
    return value if value in options else options[0]
