"""Experiments as files: what a visitor takes away, and what is brought back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app import state
from app.services.uploads import taken_once, turn, upload_of

if TYPE_CHECKING:
    from cmai_core.lab.experiment_file import ExperimentFile
    from cmai_core.lab.result import LabResult
    from cmai_core.lab.verdict import LabVerdict


def experiment_file(result: LabResult, verdict: LabVerdict | None = None) -> bytes:
    """Return the file of a result, with the visitor's own picture where it is about one."""
    from cmai_core.lab.experiment_file import write_experiment

    upload = state.get(state.UPLOAD)
    mine = upload is not None and result.experiment.pair == f"upload/{upload.sha}"
    return write_experiment(result, upload.png if mine else None, verdict)


def taken_experiment(file: Any) -> ExperimentFile:
    """Return what an uploaded experiment's file holds; it is read in the first run that sees it.

    Args:
        file: as `st.file_uploader` gives it. Its bytes are let go of as soon as they have been read.

    Raises:
        CmaiError: it is none; in each run the same.
    """
    return taken_once(file, _read)


def _read(data: bytes) -> ExperimentFile:
    from cmai_core.lab.experiment_file import read_experiment

    with turn():
        return read_experiment(data)


def take_picture(found: ExperimentFile) -> None:
    """Make the picture of a file the session's own upload, so that its experiment can be run."""
    if found.picture is not None:
        state.put(state.UPLOAD, upload_of(found.picture))
