"""What happens between the widgets of the attack lab: link in, job started, result collected, link out."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import streamlit as st

from app import services, state
from app.components import verdict_flow
from app.components.attack_form import described, experiment, fill_form
from app.components.guard import guard, plain, show_error
from app.threshold_desk import bases_of, threshold_shelf
from cmai_core.errors import CmaiError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import LabResult

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis
    from cmai_core.showcase import Showcase


def read_link() -> None:
    """Takes the experiment of a permalink, once a session."""
    if state.get(state.LINK_READ):
        return
    state.put(state.LINK_READ, True)
    query = st.query_params.to_dict()
    found = Experiment.from_query(query)
    if found is None:
        return
    fill_form(found)
    unknown = Experiment.unknown_in(query)
    if unknown:
        words = ", ".join(f"“{name}”" for name in unknown)
        st.info(f"The link also speaks of {plain(words)}, which the lab does not know: left out.", icon="ℹ️")


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
        shelf, known = services.shelf(), threshold_shelf()
        verdict_flow.drop()
        handle = services.submit(
            "attack",
            lambda progress, cancel: services.attack_work(wanted, upload, shelf, known, progress, cancel),
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


def thresholds(result: LabResult) -> dict[str, Basis]:
    """Role → the thresholds of its model for pairs of this kind."""
    from cmai_core.data.registry import kind_of

    return bases_of(result, kind_of(result.experiment.pair))


def stale(result: LabResult) -> tuple[Difference, ...]:
    """How the form has moved on from a result."""
    return differences(result.experiment, described())


def stale_example(bundle: Showcase) -> tuple[Difference, ...]:
    """The same of the bundled example, whose settings are its own: another pair or sentence."""
    found = differences(bundle.result.experiment, described()) if state.get(state.PAIR) else ()
    return tuple(difference for difference in found if difference.what in ("pair", "sentence"))


def restore(experiment: Experiment) -> None:
    """Sets the form back to a result's experiment."""
    fill_form(experiment)


def link(result: LabResult) -> str:
    """The permalink of a result."""
    with guard():
        base = str(st.context.url or "").split("?")[0]
        return f"{base}?{urlencode(result.experiment.to_query())}"
    return ""
