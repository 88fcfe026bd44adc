"""What happens between the widgets of the attack lab: link in, job started, result collected, link out."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import streamlit as st

from app import state, subject
from app.components.attack_lab import verification_flow
from app.components.common.guard import guard, plain
from app.services.attacks import attack
from app.services.jobs import collect_job, submit_job
from app.services.models import experiment_models, model_cache
from app.services.thresholds import bases_of, threshold_cache
from cmai_core.errors import CmaiError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import LabResult

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis
    from cmai_core.showcase import Showcase


def read_link() -> None:
    """Set the form to the experiment of a permalink, once a session."""
    if state.get(state.LINK_READ):
        return
    state.put(state.LINK_READ, True)
    query = st.query_params.to_dict()
    found = Experiment.from_query(query)
    if found is None:
        return
    subject.restore(found)
    unknown = Experiment.unknown_in(query)
    if unknown:
        words = ", ".join(f"“{name}”" for name in unknown)
        st.info(f"The link also speaks of {plain(words)}, which the lab does not know: left out.", icon="ℹ️")


def start() -> None:
    """Validate the form and queue the attack; an error is shown in the next run, and nothing is lost."""
    try:
        wanted = subject.requested()
        upload, cache, thresholds = state.get(state.UPLOAD), model_cache(), threshold_cache()
        verification_flow.drop()
        handle = submit_job(
            "attack",
            lambda progress, cancel: attack(wanted, upload, cache, thresholds, progress, cancel),
            models=experiment_models(wanted).values(),
        )
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.NOTICE, None)
    state.put(state.ATTACK_JOB, handle)


def collect() -> bool:
    """Take over the finished job's result, whose verification then begins.

    Returns:
        Whether the attack is still waiting or running.
    """
    before = state.get(state.RESULT)
    running = collect_job(state.ATTACK_JOB, state.RESULT)
    if state.get(state.RESULT) is not before:
        verification_flow.follow(state.get(state.RESULT))
    verification_flow.collect()
    return running


def bases(result: LabResult) -> dict[str, Basis]:
    """Return role → the thresholds of its model for pairs of this kind."""
    from cmai_core.data.registry import kind_of

    return bases_of(result, kind_of(result.experiment.pair))


def moved_on(result: LabResult) -> tuple[Difference, ...]:
    """Return how the form has moved on from a result."""
    return differences(result.experiment, subject.described())


def moved_on_from_example(bundle: Showcase) -> tuple[Difference, ...]:
    """Return the same for the bundled example, whose settings are its own: another pair or caption."""
    found = differences(bundle.result.experiment, subject.described()) if state.get(state.PAIR) else ()
    return tuple(difference for difference in found if difference.what in ("pair", "sentence"))


def link(result: LabResult) -> str:
    """Return the permalink of a result."""
    with guard():
        base = str(st.context.url or "").split("?")[0]
        return f"{base}?{urlencode(result.experiment.to_query())}"
    return ""
