"""The files that visitors take away and bring back: an experiment's, and reports."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app import state
from app.services.uploads import upload_of
from cmai_core.lab.experiment_file import read_experiment, write_experiment
from cmai_core.lab.images import encode


def page():
    """An AppTest script: everything of a result that can be taken away, and the place for a file."""
    import streamlit as st

    from app.components.common.experiment_files import comparison_view, experiment_download, experiment_drop
    from app.components.common.report_download import result_report
    from app.services.experiment_files import experiment_file, take_picture
    from app.services.reports import report_of_result
    from cmai_core.lab.again import compare_with_file

    shown = st.session_state["shown"]
    experiment_download(st.container(), shown)
    result_report(st.container(), shown)
    st.session_state["file"], st.session_state["page"] = experiment_file(shown), report_of_result(shown)
    found = experiment_drop("drop")
    if found is not None:
        st.session_state["found"] = found
        take_picture(found)
        comparison_view(compare_with_file(found, shown))


@pytest.fixture
def taken(result):
    def start(shown=result, upload=None) -> AppTest:
        at = AppTest.from_function(page, default_timeout=60)
        at.session_state["shown"], at.session_state[state.UPLOAD] = shown, upload
        return at.run()

    return start


def test_what_is_taken_away_comes_back(taken, result):
    at = taken()
    assert not at.exception
    assert [b.label for b in at.get("download_button")] == ["Experiment (JSON)", "Report (HTML)"]
    assert read_experiment(at.session_state["file"]).experiment == result.experiment
    assert b"What the attack did" in at.session_state["page"]
    at.file_uploader[0].set_value(("e.json", at.session_state["file"], "application/json")).run()
    assert not at.exception and not at.error
    assert at.session_state["found"].experiment == result.experiment
    assert "＝ equal" in set(at.dataframe[0].value.iloc[:, 0]) and "All numbers" in at.markdown[0].value


def test_an_upload_becomes_the_session_s_own(taken, result):
    upload = upload_of(np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    shown = dataclasses.replace(result, experiment=dataclasses.replace(result.experiment, pair=f"upload/{upload.sha}"))
    file = write_experiment(shown, upload.png)
    at = taken(shown)
    assert read_experiment(at.session_state["file"]).picture is None  # somebody else's picture
    at.file_uploader[0].set_value(("e.json", file, "application/json")).run()
    assert at.session_state[state.UPLOAD].sha == upload.sha
    assert read_experiment(at.run().session_state["file"]).picture.shape == (20, 30, 3)


def test_what_is_no_experiment_is_said(taken):
    at = taken()
    at.file_uploader[0].set_value(("e.json", encode(np.zeros((4, 4, 3), np.uint8)), "application/json")).run()
    assert not at.exception and len(at.error) == 1 and "found" not in at.session_state
