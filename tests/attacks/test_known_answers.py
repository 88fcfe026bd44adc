"""Closed forms, element-wise agreement with peers, and the negative controls that the checker must catch."""

from dataclasses import dataclass

import pytest
import torch

from cmai_core.attacks import Attack, Consistency, GradientSearch, TaskObjective, ThreatModel, fgsm, pgd
from cmai_core.attacks.threats.regions.linf import LinfRegion

EPSILON = 8 / 255


def test_fgsm_is_exact_on_a_linear_model(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 6)
    result = fgsm(-Consistency(), epsilon=EPSILON)(model, batch)
    best, value = kit.linear_optimum(model, batch, EPSILON)
    assert torch.equal(result.pixels, best)
    assert torch.allclose(result.objective, value, atol=1e-12)
    assert result.backwards.tolist() == [1] * 6


def test_pgd_is_exact_on_a_linear_model_from_any_start(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 6)
    best, _ = kit.linear_optimum(model, batch, EPSILON)
    for start in (False, True):
        result = pgd(-Consistency(), epsilon=EPSILON, steps=10, random_start=start)(model, batch, seed=1)
        assert torch.equal(result.pixels, best)


def test_l2_pgd_is_exact_on_a_linear_model_inside_the_box(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 3)
    batch.pixels.mul_(0.5).add_(0.25)
    epsilon = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    clean = -(model(batch.pixels) * model.encode_text(list(batch.texts))).sum(dim=1)
    gradient = -(model.encode_text(list(batch.texts)) @ model.tower[1].weight)
    result = pgd(-Consistency(), norm="l2", epsilon=epsilon, steps=60, step_size=0.2)(model, batch, seed=2)
    assert torch.allclose(result.objective, clean + epsilon * gradient.norm(dim=1), rtol=1e-6)
    assert torch.allclose(result.l2, epsilon, rtol=1e-9)


def test_epsilon_may_differ_between_samples(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 4)
    epsilon = [0.0, 1 / 255, 4 / 255, 16 / 255]
    result = pgd(-Consistency(), epsilon=epsilon, steps=5)(model, batch)
    for row, value in enumerate(epsilon):
        best, _ = kit.linear_optimum(model, kit.take(batch, [row]), value)
        assert torch.equal(result.pixels[row : row + 1], best)


def _lockstep(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=8, seed=5)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    search = GradientSearch(steps=12, step_size=1 / 255, random_start=False, keep="last")
    attack = Attack(threat=ThreatModel("linf", EPSILON), objective=TaskObjective(kit.LabelTask()), search=search)
    return model, batch, labels, attack(model, batch).pixels


def test_agrees_with_torchattacks(kit):
    torchattacks = pytest.importorskip("torchattacks")
    model, batch, labels, ours = _lockstep(kit)
    peer = torchattacks.PGD(model, eps=EPSILON, alpha=1 / 255, steps=12, random_start=False)
    theirs = peer(batch.pixels, labels)
    assert theirs.dtype == torch.float64
    assert (theirs - batch.pixels).abs().max() > 0.9 * EPSILON
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-14)


def test_agrees_with_foolbox(kit):
    foolbox = pytest.importorskip("foolbox")
    model, batch, labels, ours = _lockstep(kit)
    peer = foolbox.attacks.LinfPGD(abs_stepsize=1 / 255, steps=12, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    theirs, _, _ = peer(wrapped, batch.pixels, labels, epsilons=EPSILON)
    # Foolbox leaves samples alone that are already wrong; here all are right when clean.
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-14)


def test_agrees_with_foolbox_in_l2(kit):
    foolbox = pytest.importorskip("foolbox")
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=8, seed=5)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    options = {"steps": 12, "step_size": 0.05, "random_start": False, "keep": "last"}
    ours = pgd(TaskObjective(kit.LabelTask()), norm="l2", epsilon=0.3, **options)(model, batch).pixels
    peer = foolbox.attacks.L2PGD(abs_stepsize=0.05, steps=12, random_start=False)
    theirs, _, _ = peer(foolbox.PyTorchModel(model, bounds=(0, 1)), batch.pixels, labels, epsilons=0.3)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@dataclass(frozen=True, eq=False)
class WithRegion(ThreatModel):
    """A threat model whose region is of another class."""

    region: type = LinfRegion

    def around(self, pixels):
        right = super().around(pixels)
        return self.region(right.centre, right.epsilon, right.lower, right.upper)


class Unprojected(LinfRegion):
    def project(self, pixels):
        return pixels


class Unboxed(LinfRegion):
    def project(self, pixels):
        return self.centre + (pixels - self.centre).clamp(-self.epsilon, self.epsilon)


class Flipped(LinfRegion):
    def steepest_step(self, gradient, pixels=None):
        return -gradient.sign()


class Still(LinfRegion):
    def steepest_step(self, gradient, pixels=None):
        return torch.zeros_like(gradient)


def _attack(region, **options):
    search = GradientSearch(**({"steps": 10} | options))
    return lambda objective: Attack(threat=WithRegion("linf", EPSILON, region), objective=objective, search=search)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"random_start": False},
        {"restarts": 2},
        {"momentum": 0.9},
        {"keep": "last"},
        {"micro_batch": 2},
        {"steps": 1, "step_size": 1.0},
    ],
)
def test_the_checker_finds_nothing_wrong(kit, options):
    assert kit.violations(_attack(LinfRegion, **options)) == []


def test_negative_controls_are_caught(kit):
    assert {"ball", "box"} <= set(kit.violations(_attack(Unprojected)))
    assert "box" in kit.violations(_attack(Unboxed))
    assert "optimum" in kit.violations(_attack(Flipped))
    assert "optimum" in kit.violations(_attack(Flipped, keep="last"))
    assert "optimum" in kit.violations(_attack(Still))
    assert "optimum" in kit.violations(_attack(Still, random_start=False))


def test_a_shared_random_start_is_caught(kit):
    """Noise drawn for the batch instead of for the sample depends on the order and the split."""

    class Shared(LinfRegion):
        def random_start(self, generators):
            noise = torch.rand(self.centre.shape, generator=torch.Generator().manual_seed(0), dtype=self.centre.dtype)
            return self.lower + noise * (self.upper - self.lower)

        def steepest_step(self, gradient, pixels=None):
            return torch.zeros_like(gradient)

    assert {"order", "split"} <= set(kit.violations(_attack(Shared, keep="last")))
