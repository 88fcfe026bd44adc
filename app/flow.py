"""What happens between the widgets: an experiment opened or started, its result collected and put on show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app import state, subject, verification_flow
from app.services.attacks import attack
from app.services.experiment_files import take_picture
from app.services.jobs import cancel_job, collect_job, submit_job
from app.services.models import model_cache
from app.services.results import keep_result, kept_result
from app.services.thresholds import bases_of, threshold_cache
from cmai_core.errors import CmaiError
from cmai_core.lab.belonging import Difference, differences
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import LabResult

if TYPE_CHECKING:
    from cmai_core.defenses.basis import Basis
    from cmai_core.lab.experiment_file import ExperimentFile


def start() -> None:
    """Validate the form and queue the attack; an error is shown in the next run, and nothing is lost."""
    try:
        wanted = subject.requested()
        upload, cache, thresholds = state.get(state.UPLOAD), model_cache(), threshold_cache()
        verification_flow.drop()
        handle = submit_job(
            "attack",
            lambda progress, cancel: attack(wanted, upload, cache, thresholds, progress, cancel),
            models=wanted.models.values(),
        )
    except CmaiError as error:
        state.put(state.NOTICE, error)
        return
    state.put(state.NOTICE, None)
    state.put(state.ATTACK_JOB, handle)


def open_experiment(experiment: Experiment, *, run: bool = True) -> None:
    """Set the form to an experiment and show its result: the one that is kept, or by running it at once.

    Call it before the widgets are drawn.

    Args:
        run: whether to run it where no result is kept.
    """
    subject.restore(experiment)
    wanted = subject.described()
    found = kept_result(wanted)
    if found is not None:
        show_result(found)
    elif run and state.get(state.NOTICE) is None:  # what could not be restored is not run as something else
        start()


def run_file(found: ExperimentFile) -> None:
    """Run the experiment of a file again, to be held against it. Call it before the widgets are drawn."""
    take_picture(found)
    subject.restore(found.experiment)
    state.put(state.RECORDED, found)
    start()


def remember(experiment: Experiment) -> None:
    """Put an experiment whose result is on show first among the recent ones."""
    kept = [one for one in state.get(state.RECENT) if one != experiment]
    state.put(state.RECENT, [experiment, *kept][: state.RECENT_MOST])


def undo() -> None:
    """Go back to the experiment before the one on show. Call it before the widgets are drawn."""
    kept = state.get(state.RECENT)
    if len(kept) > 1:
        state.put(state.RECENT, kept[1:])
        open_experiment(kept[1])


def collect() -> bool:
    """Take over the finished job's result, whose verification then begins.

    Returns:
        Whether the attack is still waiting or running.
    """
    before = state.get(state.RESULT)
    running = collect_job(state.ATTACK_JOB, state.RESULT)
    made = state.get(state.RESULT)
    if made is not None and made is not before:
        keep_result(made)
        show_result(made)
    verification_flow.collect()
    return running


def show_result(result: LabResult) -> None:
    """Put a result on show; its verification begins where that is quick."""
    cancel_job(state.get(state.ATTACK_JOB))
    state.put(state.ATTACK_JOB, None)
    state.put(state.RESULT, result)
    remember(result.experiment)
    verification_flow.follow(result)


def bases(result: LabResult) -> dict[str, Basis]:
    """Return role → the thresholds of its model for pairs of this kind."""
    from cmai_core.data.registry import kind_of

    return bases_of(result, kind_of(result.experiment.pair))


def moved_on(result: LabResult) -> tuple[Difference, ...]:
    """Return how the form has moved on from a result."""
    return differences(result.experiment, subject.described())
