"""Reports, made when their button is pressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app import state
from app.services.benchmark import as_seen, benchmark_service

if TYPE_CHECKING:
    from cmai_core.lab.benchmark.results import Results
    from cmai_core.lab.result import LabResult
    from cmai_core.lab.verdict import LabVerdict


def report_of_result(result: LabResult, verdict: LabVerdict | None = None) -> bytes:
    """Return the report of an experiment, with the visitor's own picture where it is about one."""
    from cmai_core.reports.experiment import experiment_report

    upload = state.get(state.UPLOAD)
    mine = upload is not None and result.experiment.pair == f"upload/{upload.sha}"
    return experiment_report(result, verdict, upload=upload.png if mine else None).encode()


def report_of_runs(made: Results) -> bytes:
    """Return the report of the runs on show."""
    from cmai_core.reports.evaluation import evaluation_report

    return evaluation_report(benchmark_service().folder, made.runs, seen=as_seen, made=made).encode()
