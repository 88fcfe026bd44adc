"""The published ablation, comparison and policies."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.components.common.exhibits import draw
from app.navigation import go
from cmai_core.lab.immunize import comparison

_WHICH = {"ablation": "CMAI's parts", "comparison": "all models"}


@st.cache_resource(show_spinner="Reading the published results …")
def _tables(which: str, epsilon: float) -> tuple[Any, ...]:
    robust, clean = comparison.robust_bars(which, epsilon), comparison.clean_bars(which)
    return robust, clean, comparison.steps_table() if which == "ablation" else None


@st.cache_resource(show_spinner="Reading the published results …")
def _policies(name: str) -> tuple[Any, ...]:
    return comparison.policy_exhibits(name)


@st.cache_resource(show_spinner="Reading the published results …")
def _models() -> list[str]:
    return comparison.models_with_policies()


def comparison_view() -> None:
    """Draw what each part of CMAI does, or the whole comparison, with intervals."""
    row = st.container(horizontal=True, gap="medium")
    which = row.segmented_control(
        "Models", list(_WHICH), default="ablation", key="immunize_which", format_func=_WHICH.get, required=True
    )
    epsilon = row.segmented_control(
        "ε", comparison.EPSILONS, default=comparison.EPSILONS[0], key="immunize_epsilon", required=True,
        format_func=lambda e: f"{e:g}/255",
    )  # fmt: skip
    robust, clean, steps = _tables(which, epsilon)
    left, right = st.columns(2, gap="large")
    with left:
        draw([robust], f"immunize_robust_{which}")
    with right:
        draw([clean], f"immunize_clean_{which}")
    if steps is not None:
        draw([steps], "immunize_steps")
        st.caption(
            "Each row is one training of each kind; differences over the same scenes, 95 % intervals in brackets."
        )


def policies_view() -> None:
    """Draw what the policies do about flagged pairs and what they cost, with the way to the review queue."""
    names = _models()
    name = st.selectbox("Model", names, key="immunize_policy_model", persist_state="session")
    safe, clean, times = _policies(name if name in names else names[0])
    left, right = st.columns(2, gap="large")
    with left:
        draw([safe], "immunize_safe")
    with right:
        draw([clean], "immunize_kept")
    draw([times], "immunize_times")
    st.caption(
        "Against an attacker who does not know of the policies; the lesson on detection asks about one who does."
    )
    row = st.container(horizontal=True, gap="small")
    if row.button("To the review queue", key="immunize_review", icon=":material/rate_review:"):
        go("review")
