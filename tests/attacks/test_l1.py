"""L1: the projection onto ball and box, sparse steps, PGD and Auto-PGD, 8 bits; a peer where it does the same."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmai_core.attacks import Attack, Consistency, GradientSearch, ThreatModel
from cmai_core.attacks.objectives.classes import ClassLoss, Margin
from cmai_core.attacks.objectives.success import Untargeted
from cmai_core.attacks.result import LEVELS
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.threats.regions.l1 import SHARE, project_l1

SIZE = 8
VALUES = 3 * SIZE * SIZE


def nearest_of_all(delta, room, epsilon):
    """The projection by trying every way in which a value can end: at 0, at its limit, or shifted like all others."""
    best, best_distance = None, math.inf
    for ends in itertools.product(("zero", "limit", "shifted"), repeat=len(delta)):
        size = np.abs(delta)
        fixed = sum(room[k] for k, end in enumerate(ends) if end == "limit")
        free = [k for k, end in enumerate(ends) if end == "shifted"]
        shifts = [0.0]
        if free:
            shifts.append((sum(size[k] for k in free) + fixed - epsilon) / len(free))
        for shift in shifts:
            z = np.array(
                [{"zero": 0.0, "limit": room[k], "shifted": size[k] - shift}[end] for k, end in enumerate(ends)]
            )
            allowed = z.min() >= -1e-12 and (z <= room + 1e-12).all() and z.sum() <= epsilon + 1e-9
            distance = float(((z - size) ** 2).sum())
            if allowed and distance < best_distance:
                best, best_distance = np.sign(delta) * z, distance
    return best


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_projection_is_the_nearest_allowed_point(data):
    number = st.floats(-1.5, 1.5, allow_nan=False)
    delta = np.array(data.draw(st.lists(number, min_size=5, max_size=5)))
    room = np.array(data.draw(st.lists(st.floats(0, 1), min_size=5, max_size=5)))
    epsilon = data.draw(st.floats(0, 4))
    given = (torch.tensor(value, dtype=torch.float64).view(1, -1) for value in (delta, room, epsilon))
    found = project_l1(*given)[0].numpy()
    assert np.abs(found).sum() <= epsilon * (1 + 1e-12) and (np.abs(found) <= room + 1e-12).all()
    expected = nearest_of_all(delta, room, epsilon)
    assert ((found - delta) ** 2).sum() == pytest.approx(((expected - delta) ** 2).sum(), abs=1e-9)
    assert found == pytest.approx(expected, abs=1e-5)


def test_projecting_uses_the_whole_budget_where_ball_then_box_would_not():
    """What the paper is about: a value at its limit leaves its part of ε to the others."""
    pixels = torch.full((1, 3, SIZE, SIZE), 0.9, dtype=torch.float64)
    region = ThreatModel("l1", 2.0).around(pixels)
    point = pixels.clone()
    point[0, :, 0] += torch.linspace(0.5, 1.5, 3 * SIZE).view(3, SIZE)
    assert float(region.distance(region.project(point))) == pytest.approx(2.0)
    on_ball = project_l1(point - pixels, (point - pixels).abs(), region.epsilon)
    assert float(region.distance((pixels + on_ball).clamp(0, 1))) < 1.0


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_projecting_large_pictures_in_any_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 3, 64, 64, generator=generator, dtype=dtype)
    epsilon = [0.0, 5.0, 200.0]
    region = ThreatModel("l1", epsilon).around(pixels)
    far = pixels + torch.randn(pixels.shape, generator=generator, dtype=dtype)
    near = region.project(far)
    assert near.min() >= 0 and near.max() <= 1
    assert region.distance(near).tolist() == pytest.approx(epsilon, rel=1e-5, abs=0)
    assert torch.allclose(region.project(near), near, atol=1e-6)
    inside = pixels + 1e-7 * (far - pixels)
    assert torch.equal(region.select(torch.tensor([2])).project(inside[2:]), inside[2:].clamp(0, 1))


def test_steps_change_a_hundredth_of_the_values_and_none_at_the_edge_of_the_box():
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(2, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    pixels = torch.full_like(gradient, 0.5)
    region = ThreatModel("l1", 3.0).around(pixels)
    step = region.steepest_step(gradient, pixels)
    count = math.ceil(SHARE * VALUES)
    largest = gradient.flatten(1).abs().topk(count, dim=1).indices
    for row in range(2):
        assert sorted(step[row].flatten().nonzero()[:, 0].tolist()) == sorted(largest[row].tolist())
    assert torch.equal(step[step != 0].sign(), gradient[step != 0].sign())
    assert step.abs().flatten(1).sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    stuck = torch.where(gradient > 0, 1.0, 0.5)
    assert (region.steepest_step(gradient, stuck) <= 0).all()
    shares = torch.tensor([0.5, 1.0], dtype=torch.float64)
    assert (region.steepest_step(gradient, pixels, share=shares) != 0).flatten(1).sum(dim=1).tolist() == [96, 192]
    assert not region.steepest_step(torch.zeros_like(gradient), pixels).any()


def test_random_starts_are_uniform_in_the_ball():
    """The size of a uniform draw from a ball of n dimensions is U^(1/n) of the radius."""
    pixels = torch.full((4000, 3, 1, 1), 0.5, dtype=torch.float64)
    region = ThreatModel("l1", 0.4).around(pixels)
    generators = [torch.Generator().manual_seed(k) for k in range(4000)]
    start = region.random_start(generators)
    share = (region.distance(start) / 0.4) ** 3
    assert share.max() <= 1 and float(share.mean()) == pytest.approx(0.5, abs=0.02)
    assert float((share < 0.25).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert (start - pixels).mean(dim=0).abs().max() < 0.01
    far = region.boundary_start(generators)
    assert float((region.distance(far) / 0.4 > 0.999).double().mean()) > 0.95


@pytest.fixture(scope="module")
def subject(kit):
    model = kit.conv_model()
    return model, kit.make_batch(model, 6, size=SIZE, seed=5)


def attacked(kit, subject, search, epsilon=3.0, objective=Margin):
    task = kit.ScoredTask()
    threat = ThreatModel("l1", epsilon)
    return Attack(threat=threat, objective=objective(task), search=search, success=Untargeted(task))(*subject, seed=4)


@pytest.mark.parametrize(
    "search",
    [
        GradientSearch(steps=8),
        GradientSearch(steps=4, restarts=2, momentum=0.9),
        GradientSearch(steps=4, stop_on_success=True, random_start=False),
        APGD(steps=25),
        APGD(steps=10, restarts=2, stop_on_success=False),
    ],
)
def test_searches_keep_every_promise(kit, subject, search):
    task = kit.ScoredTask()
    attack = Attack(
        threat=ThreatModel("l1", 3.0), objective=Margin(task), search=search, success=Untargeted(task), name="l1"
    )
    assert kit.flaws(attack, *subject, best=not search.describe().get("stop_on_success")) == []


def test_auto_pgd_is_at_least_as_strong_as_pgd(kit):
    """On the optimum of a linear model, where PGD comes near and Auto-PGD nearer, at equal gradients."""
    model = kit.linear_model(size=16)
    batch = kit.make_batch(model, 6, size=16)
    reached = []
    for search in (GradientSearch(steps=50), APGD(steps=50, stop_on_success=False)):
        result = Attack(threat=ThreatModel("l1", 6.0), objective=-Consistency(), search=search)(model, batch, seed=0)
        gained = (result.objective - result.clean_objective) / torch.tensor(linear_optimum(model, batch, 6.0))
        assert (gained <= 1 + 1e-9).all()
        reached.append(gained)
    plain, automatic = reached
    assert plain.mean() > 0.8 and automatic.mean() > 0.98 and (automatic >= plain - 0.01).all()


def linear_optimum(model, batch, epsilon):
    """The lowest S_c of a linear model: the values of the largest weights moved to the box's edge until ε is spent."""
    vectors = model.encode_text(list(batch.texts))
    slopes = -(vectors @ model.tower[1].weight.detach())
    found = []
    for pixels, slope in zip(batch.pixels.flatten(1), slopes, strict=True):
        order = slope.abs().argsort(descending=True)
        room = torch.where(slope > 0, 1 - pixels, pixels)[order]
        moved = torch.minimum(room, (epsilon - (room.cumsum(0) - room)).clamp(min=0))
        found.append(float((moved * slope.abs()[order]).sum()))
    return found


def test_rounded_pictures_hold_whole_levels_within_the_budget(kit, subject):
    """Counted in whole levels, so that no tolerance hides anything."""
    for epsilon in (0.7, 2.0, 3.3):
        for search in (GradientSearch(steps=8), APGD(steps=20)):
            result = attacked(kit, subject, search, epsilon)
            levels = (result.pixels_8bit * LEVELS).round().long()
            clean = (subject[1].pixels * LEVELS).round().long()
            assert (result.size_8bit <= epsilon * (1 + 1e-9)).all() and (result.size <= epsilon * (1 + 1e-9)).all()
            assert ((levels - clean).abs().flatten(1).sum(dim=1) <= int(epsilon * LEVELS + 1e-6)).all()


def test_steps_are_those_of_foolbox_element_by_element(kit):
    """Within the ball: beyond it, Foolbox 3.3.4 projects with one value too many and ends outside of its own ε."""
    foolbox = pytest.importorskip("foolbox")
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=SIZE, seed=3)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    search = GradientSearch(steps=6, step_size=0.06, random_start=False, keep="last")
    ours = Attack(threat=ThreatModel("l1", 0.4), objective=ClassLoss(kit.ScoredTask()), search=search)(model, batch)
    peer = foolbox.attacks.SparseL1DescentAttack(quantile=1 - SHARE, abs_stepsize=0.06, steps=6, random_start=False)
    theirs, _, _ = peer(foolbox.PyTorchModel(model, bounds=(0, 1)), batch.pixels, labels, epsilons=0.4)
    assert torch.allclose(ours.pixels, theirs, rtol=0, atol=1e-12)
    assert (ours.size > 0.1).all()


def test_the_projection_onto_the_ball_alone_is_that_of_foolbox():
    foolbox = pytest.importorskip("foolbox")
    eagerpy = pytest.importorskip("eagerpy")
    delta = torch.randn(5, VALUES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    epsilon = torch.tensor([0.5, 2.0, 10.0, 50.0, 1000.0], dtype=torch.float64)
    project = foolbox.attacks.fast_minimum_norm.project_onto_l1_ball
    theirs = project(eagerpy.astensor(delta), eagerpy.astensor(epsilon)).raw
    assert torch.allclose(project_l1(delta, delta.abs(), epsilon.view(-1, 1)), theirs, rtol=0, atol=1e-10)
