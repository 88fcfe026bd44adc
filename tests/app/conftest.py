"""The lab without a browser: two random models of a bundled architecture, and pages as AppTest runs them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import Answer, Example, LabResult, PairPrediction

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A folder of bundled models with random weights: tabletop (undefended) and tabletop-cmai (defended)."""
    import torch

    from cmai_core.models import new_model, save_local_dir

    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("tabletop", 0), ("tabletop-cmai", 1)):
        model = new_model("tabletop", torch.Generator().manual_seed(seed))
        model.card.update(defended=name != "tabletop", description="random weights", domain="tabletop")
        save_local_dir(model, folder / name)
    return folder


@pytest.fixture
def switch():
    """switch(at, name): goes to a page; run it afterwards. (AppTest.switch_page knows pages that are files only.)"""

    def switched(at, name: str):
        pages = {page["url_pathname"]: script for script, page in at._registered_pages.items()}
        at._page_hash = pages[name]
        return at

    return switched


def idle() -> None:
    """Cancel what a test has left in the queue: what a link describes is run at once."""
    from app.services.jobs import job_queue

    queue = job_queue()
    for job in queue._pending():
        queue.cancel(job)


@pytest.fixture
def app(tiny_models, monkeypatch, switch):
    """A function that opens a page of the lab with these models."""
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    import cmai_core.models.families.bundled as bundled
    from app.services.models import model_cards
    from app.services.thresholds import threshold_cache

    monkeypatch.setattr(bundled, "bundled_dir", lambda: tiny_models)
    monkeypatch.setenv("CMAI_ALLOW_ANY", "1")  # what is refused without is tested in test_owner.py
    monkeypatch.setenv("CMAI_OPEN_REVIEW", "1")
    monkeypatch.setenv("CMAI_WARM_UP", "0")  # a thread would go on into the next test
    model_cards.clear()
    threshold_cache.clear()  # thresholds found out by a test are not known to the next
    st.cache_data.clear()

    def opened(page: str = "", query: dict[str, str] | None = None, **values) -> AppTest:
        at = AppTest.from_file(str(ROOT / "app" / "streamlit_app.py"), default_timeout=240)
        for name, value in (query or {}).items():
            at.query_params[name] = value
        if values and not query:  # a session that has begun: the form is as it is given, else as an experiment's is
            values = {"link_read": True, **values}
        for name, value in values.items():
            at.session_state[name] = value
        at.run()
        if page:
            switch(at, page).run()
        return at

    yield opened
    idle()


@pytest.fixture
def texts():
    """texts(at): everything a page says, in one string."""

    def said(at) -> str:
        parts = [e.proto.body for e in at.get("html")]
        for kind in ("markdown", "caption", "info", "warning", "error", "success"):
            parts += [str(e.value) for e in at.get(kind)]
        return "\n".join(parts)

    return said


@pytest.fixture
def finished():
    """finished(at, key): runs the page again until the session's job of this key is over."""

    def wait(at, key: str, seconds: float = 240):
        end = time.monotonic() + seconds
        while at.session_state[key] is not None:
            assert time.monotonic() < end, "the job did not end"
            time.sleep(0.1)
            at.run()
        return at

    return wait


@pytest.fixture
def result() -> LabResult:
    """A small made-up result: undefended fooled by a white-box attack, defended shown the same picture."""
    rng = np.random.default_rng(0)
    clean = rng.integers(30, 220, (16, 16, 3), dtype=np.uint8)
    adversarial = (clean + rng.integers(-4, 5, clean.shape)).astype(np.uint8)
    experiment = Experiment(pair="tabletop/test/0", caption="a red cube <b>& a blue ring</b>")
    example = Example(
        "A", clean, adversarial, (0.1, 0.9), (0.6, -0.2), -0.21, 2, False, True, True, 4.0, 2.5, 3, 2, 0.5
    )
    right, wrong = (
        Answer("a red cube", True, 0.9, (("a red cube", 0.9, True), ("x", 0.1, False))),
        Answer("a ring", False, 0.7),
    )
    answers = {"zero-shot": (right, wrong), "retrieval": (right, right)}
    prediction = {
        "A": PairPrediction(
            "A", "tabletop", "tabletop", "h1", "tabletop", "A", 0.612, -0.204, -0.21, -0.1, answers,
            {"nlvr": "no second picture"},
        ),
        "B": PairPrediction(
            "B", "tabletop-cmai", "tabletop-cmai", "h2", "tabletop", "A", 0.55, 0.5, None, 0.5,
            {"zero-shot": (right, right)},
        ),
    }  # fmt: skip
    return LabResult(experiment, {"A": example}, prediction, 0.7, "cpu", "2025-01-01T00:00:00+00:00", {"python": "3"})
