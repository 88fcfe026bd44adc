"""Gradients in half precision: they climb, and a success that only half precision sees does not count."""

from dataclasses import dataclass

import pytest
import torch

from cmai_core.attacks import Attack, GradientSearch, TaskObjective, ThreatModel
from cmai_core.attacks.objectives.success import Criterion, Untargeted
from cmai_core.attacks.recipes.registry import get_recipe
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.data import load_dataset
from cmai_core.data.pair import Batch
from cmai_core.errors import OptionError
from cmai_core.models import load_model
from cmai_core.tasks import get_task

EPSILON = 4 / 255


@pytest.fixture(scope="module")
def bundled():
    model, dataset = load_model("tabletop", device="cpu"), load_dataset("tabletop", split="test", limit=6)
    pairs = tuple(dataset[k] for k in range(6))
    pixels = model.preprocess([pair.image for pair in pairs])
    return model, Batch(tuple(p.id for p in pairs), pixels, tuple(p.captions[0] for p in pairs), tuple(range(6)), pairs)


@dataclass(frozen=True)
class OnlyInHalf(Criterion):
    """Says yes wherever the features came out of a pass in half precision; in single precision to the first row."""

    rows: torch.Tensor | None = None

    def bind(self, model, batch, shared=None):
        return OnlyInHalf(torch.arange(len(batch.ids)))

    def select(self, rows):
        return OnlyInHalf(self.rows[rows])

    def __call__(self, scored):
        lowered = torch.is_autocast_enabled("cpu")
        return torch.full((len(self.rows),), lowered) | (self.rows == 0)

    def describe(self):
        return "only in half precision"


@pytest.mark.parametrize("search", [GradientSearch, APGD])
def test_half_precision_climbs_nearly_as_high(bundled, search):
    model, batch = bundled
    task = get_task("retrieval")
    dataset = load_dataset("tabletop", split="test", limit=6)
    found = {}
    for precision in ("float32", "bfloat16"):
        attack = Attack(
            threat=ThreatModel("linf", EPSILON),
            objective=TaskObjective(task, dataset=dataset),
            search=search(steps=6, precision=precision),
            success=Untargeted(task, dataset=dataset),
        )
        found[precision] = attack(model, batch, seed=0)
    full, half = found["float32"], found["bfloat16"]
    assert half.pixels.dtype == torch.float32 and half.objective.dtype == full.objective.dtype
    assert not torch.equal(half.pixels, full.pixels)
    risen = lambda result: (result.objective - result.clean_objective).mean()  # noqa: E731
    assert risen(half) > 0.8 * risen(full) > 0
    assert half.attack["precision"] == "bfloat16" and "precision" not in full.attack


@pytest.mark.parametrize("search", [GradientSearch, APGD])
def test_what_only_half_precision_calls_a_success_is_none(bundled, search):
    model, batch = bundled
    attack = Attack(
        threat=ThreatModel("linf", EPSILON),
        objective=TaskObjective(get_task("retrieval"), dataset=load_dataset("tabletop", split="test", limit=6)),
        search=search(steps=3, precision="bfloat16", stop_on_success=True),
        success=OnlyInHalf(),
    )
    result = attack(model, batch, seed=0)
    assert result.success.tolist() == [True] + 5 * [False]
    assert (result.backwards[1:] == result.backwards[1]).all() and result.backwards[1] >= 3


def test_searches_inside_searches_take_it_too(bundled):
    """A target after another, members of an ensemble, a surrogate: their gradients are in half precision too."""
    model, batch = bundled
    dataset = load_dataset("tabletop", split="test", limit=6)
    for slug, options in (("apgd-t", {"steps": 2, "targets": 1}), ("transfer", {"steps": 2, "surrogate": model})):
        found = [
            get_recipe(slug).build(dataset=dataset, epsilon=EPSILON, precision=precision, **options)(
                model, batch, seed=0
            )
            for precision in ("float32", "bfloat16")
        ]
        assert not torch.equal(found[0].pixels, found[1].pixels), slug


def test_unknown_precisions_are_refused():
    for search in (GradientSearch, APGD):
        with pytest.raises(OptionError, match="bfloat16"):
            search(precision="float16")
