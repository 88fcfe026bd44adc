"""The losses that an experiment can name: each raises what it says."""

from __future__ import annotations

import pytest
import torch

from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.data import load_dataset
from cmai_core.defenses.detector import ConsistencyDetector
from cmai_core.defenses.system import System
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.experiment import AttackExperiment
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.models import load_model
from cmai_core.tasks import get_task


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("recipe", ["", "apgd"])
def test_every_objective_is_raised(objective, recipe):
    dataset, task = load_dataset("tabletop", split="test", limit=20), get_task("zero-shot")
    model = load_model("tabletop", "cpu")
    batch = make_batch(model, [dataset[0], dataset[1]], 1)
    options = {"options": {"steps": 4}} if recipe else {"steps": 4}
    experiment = AttackExperiment(objective=objective, recipe=recipe, task="zero-shot", epsilon=2, **options)
    tau = 1.0 if objective == "accept" else -1.0  # out of reach, so that the search goes on
    attacked = System(model, detector=ConsistencyDetector(tau)) if experiment.spec.needs_detector else model
    result = experiment.build(task, dataset, 3 * 128**2)(attacked, batch, seed=0)
    trace = result.objective_trace
    best = trace.nan_to_num(nan=-torch.inf).amax(dim=0)
    # Two right classes lead on one picture, so that its best false score is its third: there DLR is -1.
    assert (best >= trace[0]).all() and (best > trace[0]).sum() >= (1 if objective == "dlr" else 2)
    assert ("accepted" in result.attack["success"]) == (OBJECTIVES[objective].success != "wrong")


def test_losses_on_images_are_refused_for_texts():
    experiment = AttackExperiment(recipe="hotflip", objective="margin", task="retrieval")
    with pytest.raises(OptionError, match="objective="):
        experiment.build(get_task("retrieval"), None, 3 * 128**2)


@pytest.mark.parametrize("recipe", ["apgd", "hotflip", "sga"])
def test_a_recipe_keeps_its_own_objective(recipe):
    assert AttackExperiment(recipe=recipe).build(get_task("zero-shot"), None, 3 * 128**2) is not None
