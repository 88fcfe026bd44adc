"""The button that saves a report: one HTML file that opens without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.services.reports import report_of_result, report_of_runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamlit.delta_generator import DeltaGenerator

    from cmai_core.lab.benchmark.results import Results
    from cmai_core.lab.result import LabResult
    from cmai_core.lab.verdict import LabVerdict

HELP = "One HTML file with pictures, charts, settings, hashes and the command that makes it again. It needs no network."


def result_report(place: DeltaGenerator, result: LabResult, verdict: LabVerdict | None = None) -> None:
    """Draw the button that saves the report of an experiment."""
    _button(place, lambda: report_of_result(result, verdict), "cmai-experiment.html", "report_result")


def runs_report(place: DeltaGenerator, made: Results) -> None:
    """Draw the button that saves the report of the runs on show."""
    _button(place, lambda: report_of_runs(made), f"cmai-{'-'.join(made.runs)[:60]}.html", "report_runs")


def _button(place: DeltaGenerator, made: Callable[[], bytes], name: str, key: str) -> None:
    place.download_button(
        "Report (HTML)", made, name, "text/html", key=key, icon=":material/description:", on_click="ignore", help=HELP,
        width="stretch",
    )  # fmt: skip
