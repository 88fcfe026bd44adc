"""An experiment's file: taken away, brought back, and held against what comes out now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.components.common.guard import guard
from app.components.common.theme import number
from app.services.experiment_files import experiment_file, taken_experiment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamlit.delta_generator import DeltaGenerator

    from cmai_core.lab.again import Compared
    from cmai_core.lab.experiment_file import ExperimentFile
    from cmai_core.lab.result import LabResult
    from cmai_core.lab.verdict import LabVerdict

MARKS = {"equal": "＝", "close": "≈", "different": "≠", "not recorded": "–"}


def experiment_download(place: DeltaGenerator, result: LabResult, verdict: LabVerdict | None = None) -> None:
    """Draw the button that saves an experiment's file."""
    place.download_button(
        "Experiment (JSON)",
        lambda: experiment_file(result, verdict),
        "cmai-experiment.json",
        "application/json",
        icon=":material/data_object:",
        on_click="ignore",
        width="stretch",
        help="Settings, seed, pictures, traces, answers, model hashes and versions: enough to replay it exactly. Drop "
        "it onto the lab to open it again.",
    )


def experiment_drop(key: str) -> ExperimentFile | None:
    """Draw the place where an experiment's file can be dropped; returns what it holds, None until there is one."""
    file = st.file_uploader("An experiment that the lab exported", type=["json"], key=key, help="Up to 10 MB.")
    if file is None:
        return None
    with guard():
        return taken_experiment(file)
    return None


def comparison_view(rows: Sequence[Compared]) -> None:
    """Draw what a file recorded beside what came out now."""
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in MARKS}
    said = [f"{count} {outcome}" for outcome, count in counts.items() if count]
    title = "All numbers are the recorded ones" if counts["equal"] == len(rows) else "Against the file"
    st.markdown(f"**{title}**: {', '.join(said)}.")
    order = ("different", "close", "not recorded", "equal")
    st.dataframe(
        [
            {
                "": f"{MARKS[row.outcome]} {row.outcome}", "value": row.name, "in the file": _words(row.recorded),
                "now": _words(row.now), "apart": "" if not row.distance else f"{row.distance:.2g}",
            }
            for row in sorted(rows, key=lambda row: order.index(row.outcome))
        ],
        hide_index=True, height="content" if len(rows) <= 14 else 480,
    )  # fmt: skip
    st.caption(
        "On the same machine with the same versions numbers are equal to the last digit. Other processors round "
        "otherwise: there S_c within 0.005 and sizes within 1/255 count as close."
    )


def _words(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)
