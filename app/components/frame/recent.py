"""The experiments of this session whose results were on show, one click back."""

from __future__ import annotations

import streamlit as st

from app import flow, navigation, state
from app.access import permissions
from app.components.common.guard import plain
from cmai_core.lab.belonging import in_force, pair_words
from cmai_core.lab.experiment import Experiment


def recent_panel() -> None:
    """Draw a button for each, the latest first."""
    for number, experiment in enumerate(state.get(state.RECENT)):
        st.button(
            words(experiment), key=f"recent_{number}", on_click=_open, args=(experiment,), width="stretch",
            type="secondary", help=plain(f"“{experiment.caption}”"),
        )  # fmt: skip


def words(experiment: Experiment) -> str:
    """Return pair, attack and models of an experiment in a line."""
    parts = in_force(experiment)
    attack = " ".join(parts[name][1] for name in ("search", "ε") if name in parts)
    models = " · ".join(permissions.display_name(spec) for spec in experiment.models.values())
    return plain(f"{pair_words(experiment)}, {attack}, {models}")


def _open(experiment: Experiment) -> None:
    flow.open_experiment(experiment)
    navigation.head_for(next(iter(navigation.PAGES)))
