"""The probing checks: small experiments on a model, a task and an attack."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from cmai_core.errors import Cancelled, OptionError
from cmai_core.evaluation.checks import comparison, effort, gradients, inference, sameness, strength, verdict
from cmai_core.evaluation.checks.attacker import attacker_of
from cmai_core.evaluation.checks.check import Check, skipped
from cmai_core.evaluation.checks.context import Bench
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.evaluation.runs.setting import RememberingTask
from cmai_core.options import whole
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.registry import Registry

_WITHOUT_ATTACK = (inference.CLEAN, inference.OPTIMISES)
# Those of the model alone come first, quick ones before slow ones.
_PROBES: dict[str, Callable[[Bench], Any]] = {
    inference.CLEAN: inference.clean_accuracy,
    inference.OPTIMISES: inference.optimises,
    inference.RANDOM: inference.randomised,
    gradients.PRESENT: gradients.gradients,
    sameness.WATCHED: sameness.watched,
    sameness.LATTICE: sameness.lattice,
    effort.BUDGET: effort.budget,
    effort.STEPS: effort.steps,
    effort.RAISES: effort.raises,
    strength.ROUNDED: strength.rounded,
    strength.RISES: strength.rises,
    strength.SINGLE: strength.single_step,
    comparison.NOISE: comparison.noise,
    strength.GROWS: strength.grows,
    strength.LARGE: strength.large,
    strength.RESTARTS: strength.restarts,
    strength.CONVERGED: strength.converged,
    comparison.STANDARD: comparison.standard,
    comparison.TARGETED: comparison.targeted,
    comparison.TRANSFER: comparison.transfer,
    comparison.SCORES: comparison.black_box,
}

PROBES: Registry[Callable[[Bench], Check | list[Check]]] = Registry("self-check", "cmai.probes", _PROBES)
"""What ought to hold → experiment on a model and an attack that gives one `Check` or several."""


def probe_names() -> tuple[str, ...]:
    """Name all probing checks; the second one of gradients comes with the first."""
    return (*PROBES, verdict.TOGETHER, verdict.ENOUGH)


def probe(
    model: Any,
    task: Any,
    dataset: Any,
    *,
    epsilon: float | None = None,
    attack: Any = "pgd",
    samples: int = 32,
    seed: int = 0,
    norm: str = "linf",
    surrogates: Mapping[str, Any] | None = None,
    queries: int = 500,
    only: Collection[str] | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> list[Check]:
    """Check an attack on a model by small experiments; the model is left as it was found.

    A check that looks at strength compares attacks on the samples that the model gets right when clean; few samples
    decide little, so a small lead is a warning, and only a lead that chance would hardly give is a failure.

    Args:
        model: a `VisionLanguageModel` or a `System`. task: an object or a name. dataset: its first `samples` pairs are
            used.
        epsilon: in the units of `ThreatModel` ([0, 1] pixel units for linf); None: the attack's own.
        attack: what is tested; see `attacker_of`. norm: "linf" or "l2", of recipes and functions.
        surrogates: name → another model, to make transferred pictures on.
        queries: budget of the black-box search. only: names of checks (`probe_names`); None: all.
        cancel: looked at between and within the experiments; what was not run is "skipped".

    Raises:
        OptionError: options that do not fit, or a task the model cannot be asked.
    """
    from cmai_core.tasks import get_task

    whole("samples", samples, 1)
    whole("queries", queries, 1)
    whole("seed", seed, 0)
    if unknown := sorted(set(only or ()) - set(probe_names())):
        raise OptionError(f"There is no check {unknown[0]!r}.", f"Accepted: {'; '.join(probe_names())}.")
    task = get_task(task) if isinstance(task, str) else task
    if hasattr(task, "applies_to") and (why := task.applies_to(dataset, model)):
        raise OptionError(f"The task {task.name} does not apply: {why}", "Choose another task, model or dataset.")
    task = RememberingTask(task)  # each of the many attacks prepares it
    pairs = [dataset[k] for k in range(min(samples, len(dataset)))]
    batch = make_batch(model, pairs, 1)
    attacker = attacker_of(attack, model, task, dataset, norm, epsilon, batch.pixels[0].numel(), seed)
    bench = Bench(model, task, dataset, batch, attacker, dict(surrogates or {}), seed, queries, cancel)
    return run_checks(bench, only, progress)


def run_checks(
    bench: Bench, only: Collection[str] | None = None, progress: ProgressCallback | None = None
) -> list[Check]:
    """Make the probing checks of a set-up, in order."""
    found: list[Check] = []
    every = {name: check for name, check in PROBES.items() if only is None or name in only}
    why = "" if bench.count else "The model gets none of the samples right, so there is nothing to attack."
    for done, (name, check) in enumerate(every.items()):
        if progress is not None:
            progress(Progress(done, len(every), name))
        if bench.cancel is not None and bench.cancel.cancelled:
            found.append(skipped(name, "Stopped before it was made."))
        elif why and name not in _WITHOUT_ATTACK:
            found.append(skipped(name, why))
        else:
            found += _one(name, check, bench)
    found += _in_all(bench, found, only)
    if progress is not None:
        progress(Progress(len(every), len(every), "done"))
    return found


def _in_all(bench: Bench, found: Sequence[Check], only: Collection[str] | None) -> list[Check]:
    """Judge the checks together."""
    if bench.cancel is not None and bench.cancel.cancelled:
        why = "Stopped before it was made."
    else:
        why = "" if bench.count else "There is no sample to attack."
    out = []
    if only is None or verdict.TOGETHER in only:
        out.append(skipped(verdict.TOGETHER, why) if why else verdict.together(found))
    if only is None or verdict.ENOUGH in only:
        if why:
            out.append(skipped(verdict.ENOUGH, why))
        else:
            enough = lambda bench: verdict.enough(bench, found, len(bench.everyone.ids))  # noqa: E731
            out += _one(verdict.ENOUGH, enough, bench)
    return out


def _one(name: str, check: Callable[[Bench], Any], bench: Bench) -> Sequence[Check]:
    try:
        result = check(bench)
    except Cancelled:
        return [skipped(name, "Stopped before it was finished.")]
    except OptionError as error:  # the attack does not go with the model: what that means, the gradients' check says
        return [skipped(name, f"The attack cannot be run: {error.message}")]
    return result if isinstance(result, list) else [result]
