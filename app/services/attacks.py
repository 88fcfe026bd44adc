"""The job that attacks one pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.services.datasets import lab_dataset
from app.services.jobs import quiet_thread
from app.services.models import load_models
from app.services.pairs import lab_pair

if TYPE_CHECKING:
    from app.services.models import ModelCache
    from app.services.thresholds import ThresholdCache
    from app.services.uploads import Upload
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.result import LabResult


def attack(
    experiment: Experiment,
    upload: Upload | None,
    cache: ModelCache,
    thresholds: ThresholdCache,
    progress: Any,
    cancel: Any,
) -> LabResult:
    """Run an experiment; runs in the worker thread."""
    from cmai_core.data.registry import kind_of
    from cmai_core.lab.places import place_of
    from cmai_core.lab.run import run_attack

    with quiet_thread():
        pair = lab_pair(experiment.pair, experiment.caption, upload, experiment.scene)
        kind, bases = kind_of(experiment.pair), {}
        items = lab_dataset(place_of(experiment.pair))
        models = load_models(experiment.models, cache, progress)
        for role, model in models.items():
            if experiment.has_detector:
                bases[role] = thresholds.get(model, kind, progress, cancel)
            else:
                thresholds.note(model, kind)
        return run_attack(experiment, pair, models, dataset=items, bases=bases, progress=progress, cancel=cancel)


def smallest(experiment: Experiment, upload: Upload | None, cache: ModelCache, progress: Any, cancel: Any) -> Any:
    """Find the smallest ε that breaks each model's answer; runs in the worker thread."""
    from cmai_core.lab.places import place_of
    from cmai_core.lab.smallest import smallest_epsilon

    with quiet_thread():
        pair = lab_pair(experiment.pair, experiment.caption, upload, experiment.scene)
        items = lab_dataset(place_of(experiment.pair))
        models = load_models(experiment.models, cache, progress)
        return smallest_epsilon(experiment, pair, models, items, progress, cancel)


def shortlist(result: LabResult, upload: Upload | None, cache: ModelCache, progress: Any, cancel: Any) -> Any:
    """Verify the likeliest captions of a result; runs in the worker thread."""
    from cmai_core.lab.places import place_of
    from cmai_core.lab.shortlist import shortlists

    e = result.experiment
    with quiet_thread():
        pair = lab_pair(e.pair, e.caption, upload, e.scene)
        models = load_models({role: p.spec for role, p in result.attacked.items()}, cache, progress)
        return shortlists(result, models, pair, lab_dataset(place_of(e.pair)))
