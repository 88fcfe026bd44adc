"""Tests of the tests: broken searches must fail the very checks that the real ones pass (checks.py)."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import pytest
import torch

from cmai_core.attacks import Attack, Consistency, GradientSearch, ThreatModel
from cmai_core.attacks.engine.problem import Problem
from cmai_core.attacks.objectives.classes import Margin, Misclassified
from cmai_core.attacks.objectives.success import Raised
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.searches.score_gradient import ScoreGradient
from cmai_core.attacks.searches.square import Square
from cmai_core.attacks.threats.regions.linf import LinfRegion
from cmai_core.reporting import Watch

# Each with the successes it reaches among six samples at 8/255; doing nothing, or the opposite, reaches none.
SEARCHES = {
    "pgd": (GradientSearch(steps=8), 4),
    "apgd": (APGD(steps=8), 4),
    "square": (Square(queries=40, share=0.5), 1),
    "nes": (ScoreGradient(queries=107, samples=20), 1),
}


@pytest.fixture(scope="module")
def subject(kit):
    model = kit.conv_model(seed=1)
    return model, kit.make_batch(model, 6, size=8)


def build(kit, search, kind=Attack, epsilon=8 / 255):
    task = kit.ScoredTask()
    parts = {"objective": Margin(task), "success": Misclassified(task)}
    return kind(threat=ThreatModel("linf", epsilon), search=search, **parts)


@dataclass(frozen=True)
class Broken:
    """A search that runs a real one and gets something wrong."""

    inner: object

    def describe(self):
        return {"search": type(self).__name__}

    def run(self, problem, *, seed, watch):
        return self.inner.run(problem, seed=seed, watch=watch)


class NoOp(Broken):
    def run(self, problem, *, seed, watch):
        outcome = super().run(problem, seed=seed, watch=watch)
        outcome.pixels = problem.region.centre
        return outcome


class FlippedSign(Broken):
    def run(self, problem, *, seed, watch):
        evaluator = problem.evaluator.with_objective(-problem.evaluator.objective)
        evaluator.criterion = None
        clean = dataclasses.replace(problem.clean, value=-problem.clean.value)
        return super().run(Problem(problem.region, problem.ids, evaluator, clean), seed=seed, watch=watch)


class Overshooting(Broken):
    """No projection at the end."""

    def run(self, problem, *, seed, watch):
        outcome = super().run(problem, seed=seed, watch=watch)
        outcome.pixels = problem.region.centre + 3 * (outcome.pixels - problem.region.centre)
        return outcome


class Unboxed(Broken):
    """Projects onto the ball only."""

    def run(self, problem, *, seed, watch):
        outcome = super().run(problem, seed=seed, watch=watch)
        region = problem.region
        corner = torch.where(outcome.pixels >= region.centre, region.epsilon, -region.epsilon)
        outcome.pixels = region.centre + corner
        return outcome


class NumberedByRow(Broken):
    """Random numbers that belong to the place in the batch instead of to the sample."""

    def run(self, problem, *, seed, watch):
        rows = [str(row) for row in range(len(problem.ids))]
        return super().run(Problem(problem.region, rows, problem.evaluator, problem.clean), seed=seed, watch=watch)


class Unseeded(Broken):
    def run(self, problem, *, seed, watch):
        return super().run(problem, seed=random.SystemRandom().randrange(2**60), watch=watch)


class GloballySeeded(Broken):
    def run(self, problem, *, seed, watch):
        torch.manual_seed(seed)
        return super().run(problem, seed=seed, watch=watch)


class InPlace(Broken):
    def run(self, problem, *, seed, watch):
        outcome = super().run(problem, seed=seed, watch=watch)
        problem.region.centre.copy_(outcome.pixels)
        return outcome


class LeavesHooks(Broken):
    def run(self, problem, *, seed, watch):
        problem.evaluator.model.register_forward_hook(lambda *_: None)
        return super().run(problem, seed=seed, watch=watch)


class Deaf(Broken):
    """Does not ask whether it was cancelled."""

    def run(self, problem, *, seed, watch):
        return super().run(problem, seed=seed, watch=Watch(None, None))


CONTROLS = {
    NoOp: "weak",
    FlippedSign: "weak",
    Overshooting: "ball",
    Unboxed: "box",
    Unseeded: "seed",
    GloballySeeded: "global random state changed",
    InPlace: "input changed",
    LeavesHooks: "model changed",
    Deaf: "cancel",
}


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_is_wrong_with_the_real_searches(kit, subject, name):
    search, least = SEARCHES[name]
    assert kit.flaws(build(kit, search), *subject, least=least) == []


@pytest.mark.parametrize("name", ["pgd", "apgd", "square"])
@pytest.mark.parametrize("control", CONTROLS)
def test_broken_searches_are_caught(kit, control, name):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 6, size=8)
    search, least = SEARCHES[name]
    assert CONTROLS[control] in kit.flaws(build(kit, control(search)), model, batch, least=least)


def test_numbers_of_the_row_are_caught(kit, subject):
    for search in (GradientSearch(steps=2), Square(queries=20, share=0.5)):
        assert {"order", "split"} <= set(kit.flaws(build(kit, NumberedByRow(search)), *subject, least=0))


def test_a_missing_projection_is_caught(kit, subject):
    @dataclass(frozen=True, eq=False)
    class Free(ThreatModel):
        def around(self, pixels):
            right = super().around(pixels)
            return Unprojected(right.centre, right.epsilon, right.lower, right.upper)

    class Unprojected(LinfRegion):
        def project(self, pixels):
            return pixels

    for search in (GradientSearch(steps=8), APGD(steps=8), ScoreGradient(queries=84, samples=20, step_size=0.03)):
        attack = build(kit, search)
        attack = dataclasses.replace(attack, threat=Free("linf", 8 / 255))
        assert "ball" in kit.flaws(attack, *subject, least=0)


def test_the_last_iterate_alone_is_caught(kit, subject):
    """A step that overshoots: the best iterate is not the last."""
    long = {"steps": 8, "step_size": 0.5, "random_start": False}
    kept = build(kit, GradientSearch(**long), epsilon=0.3)
    last = build(kit, GradientSearch(keep="last", **long), epsilon=0.3)
    for attack, expected in ((kept, False), (last, True)):
        attack = dataclasses.replace(attack, success=Raised(1e9))  # nothing succeeds: the objective decides
        assert ("best" in kit.flaws(attack, *subject, least=0)) == expected


def test_unchecked_rounding_is_caught(kit, subject):
    """Changes under half a level round to nothing."""

    class Unrounded(Attack):
        def __call__(self, *args, **options):
            result = super().__call__(*args, **options)
            return dataclasses.replace(result, success_8bit=result.success)

    for kind, expected in ((Attack, False), (Unrounded, True)):
        attack = kind(threat=ThreatModel("linf", 0.4 / 255), objective=-Consistency(), search=GradientSearch(steps=2))
        assert ("rounding" in kit.flaws(attack, *subject)) == expected


def test_claimed_successes_are_caught(kit, subject):
    class Boasting(Attack):
        def __call__(self, *args, **options):
            result = super().__call__(*args, **options)
            return dataclasses.replace(result, success=torch.ones_like(result.success))

    assert "report" in kit.flaws(build(kit, GradientSearch(steps=2), Boasting), *subject, least=0)
