"""Explanations of one pair: the job that makes them, and the bundled example."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.services.datasets import lab_dataset
from app.services.pairs import lab_pair
from cmai_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.services.uploads import Upload
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.explanation import LabExplanation
    from cmai_core.lab.result import LabResult

_log = logging.getLogger("cmai.app")


@dataclass(frozen=True)
class Request:
    """What is to be explained, and how.

    Attributes:
        experiment: of the pair. result: its attack; None: the pair as it is. upload: the visitor's own picture.
        methods, steps, checks: as in `lab.explanation.Wanted`.
    """

    experiment: Experiment
    result: LabResult | None
    upload: Upload | None
    methods: tuple[str, ...]
    steps: int
    checks: bool


def explain(wanted: Request, models: Mapping[str, Any], progress: Any, cancel: Any) -> LabExplanation:
    """Explain a pair; runs in the worker thread."""
    from cmai_core.lab.explanation import Wanted, explain_pair, explain_result
    from cmai_core.lab.places import place_of

    e, pair = wanted.experiment, None
    try:
        pair = lab_pair(e.pair, e.caption, wanted.upload, e.scene)
    except DataError:  # an upload that was replaced: its attack is still there, its trace is not
        if wanted.result is None:
            raise
    items = lab_dataset(place_of(e.pair))
    how = Wanted(wanted.methods, wanted.steps, wanted.checks, pair, items)
    if wanted.result is None:
        return explain_pair(e, pair, models, how, progress=progress, cancel=cancel)
    return explain_result(wanted.result, models, how, progress=progress, cancel=cancel)


@st.cache_resource(show_spinner=False)
def bundled_explanation() -> LabExplanation | None:
    """Return the bundled example, None if there is none or it cannot be read (which is logged)."""
    from cmai_core.lab.explanation_file import bundled_path, read_explanation

    path = bundled_path()
    if not path.is_file():
        return None
    try:
        return read_explanation(path)
    except DataError:
        _log.exception("bundled explanation")
        return None
