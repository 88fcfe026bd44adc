"""What happens between the widgets of the attack lab: link in, job started, result collected, link out."""

from __future__ import annotations

from urllib.parse import urlencode

import streamlit as st

from app import services, state
from app.components import verdict_flow
from app.components.attack_form import experiment, fill_form
from app.components.guard import guard, show_error
from cmai_core.errors import CmaiError
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import LabResult
from cmai_core.showcase import Showcase


def read_link() -> None:
    """Takes the experiment of a permalink, once a session."""
    if state.get(state.LINK_READ):
        return
    state.put(state.LINK_READ, True)
    found = Experiment.from_query(st.query_params.to_dict())
    if found is not None:
        fill_form(found)


def first_pair() -> None:
    """Where nothing is chosen yet: the bundled example's pair, without loading a dataset."""
    if state.get(state.PAIR):
        return
    bundle = services.showcase()
    if bundle is not None:
        state.put(state.PAIR, bundle.result.experiment.pair)
        state.put(state.CAPTION, bundle.result.experiment.caption)


def start() -> None:
    """Validates the form and queues the attack; what is wrong is said in the next run, and nothing is lost."""
    try:
        wanted = experiment()
        upload = state.get(state.UPLOAD)
        shelf, detectors = services.shelf(), services.threshold_shelf()
        verdict_flow.drop()
        handle = services.submit(
            "attack",
            lambda progress, cancel: services.attack_work(wanted, upload, shelf, detectors, progress, cancel),
            models=services.experiment_models(wanted).values(),
        )
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.NOTICE, None)
    state.put(state.ATTACK_JOB, handle)


def collect() -> bool:
    """Takes over the finished job's result, whose verification then begins. Returns whether a job is still waiting or
    running."""
    before = state.get(state.RESULT)
    running = services.collect(state.ATTACK_JOB, state.RESULT)
    if state.get(state.RESULT) is not before:
        verdict_flow.follow(state.get(state.RESULT))
    verdict_flow.collect()
    return running


def show_notice() -> None:
    """The error of the last action, if any, once."""
    error = state.get(state.NOTICE)
    if error is not None:
        state.put(state.NOTICE, None)
        show_error(error)


def thresholds(result: LabResult, bundle: Showcase | None) -> dict[str, float]:
    """τ of each role: the detector's that was attacked, else the one calibrated for exactly this model's weights."""
    detectors = {role: r.tau for role, r in result.readings.items() if r.tau is not None}
    if bundle is None or detectors:
        return detectors
    known = {reading.hash: bundle.tau[role] for role, reading in bundle.result.readings.items() if role in bundle.tau}
    return {role: known[r.hash] for role, r in result.readings.items() if r.hash in known}


def link(result: LabResult) -> str:
    """The permalink of a result."""
    with guard():
        base = str(st.context.url or "").split("?")[0]
        return f"{base}?{urlencode(result.experiment.to_query())}"
    return ""
