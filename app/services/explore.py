"""The bundled run, and numbers of selections that are asked for again in every rerun: worked out once each."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from cmai_core.errors import DataError

if TYPE_CHECKING:
    from cmai_core.evaluation.figures.detection import Interval
    from cmai_core.lab.explore.predictors import Predictor
    from cmai_core.lab.explore.run import ExploreRun

_log = logging.getLogger("cmai.app")


@st.cache_resource(show_spinner=False)
def bundled() -> ExploreRun | None:
    """Return the bundled run, None if there is none or it cannot be read (which is logged)."""
    from cmai_core.lab.explore.bundle import bundled_run

    try:
        return bundled_run()
    except DataError:
        _log.exception("bundled run")
        return None


def named(chosen: np.ndarray) -> str:
    """Return a name of a selection (bool N), for caches."""
    return hashlib.sha256(np.packbits(chosen).tobytes()).hexdigest()[:16]


def area(run: ExploreRun, role: str, level: int, chosen: np.ndarray) -> Interval | None:
    """Return the area under the ROC of a selection with its interval."""
    return _area(run.key, role, level, named(chosen), run, chosen)


@st.cache_data(show_spinner=False, max_entries=256)
def _area(key: str, role: str, level: int, name: str, _run: ExploreRun, _chosen: np.ndarray) -> Any:
    from cmai_core.lab.explore import rates

    return rates.area(_run, role, level, _chosen)


def predictors(run: ExploreRun, role: str, level: int, chosen: np.ndarray) -> tuple[Predictor, ...]:
    """Return what predicts success in a selection."""
    return _predictors(run.key, role, level, named(chosen), run, chosen)


@st.cache_data(show_spinner=False, max_entries=64)
def _predictors(key: str, role: str, level: int, name: str, _run: ExploreRun, _chosen: np.ndarray) -> Any:
    from cmai_core.lab.explore import predictors as core

    return core.predictors(_run, role, level, _chosen, generator=np.random.default_rng(0))
