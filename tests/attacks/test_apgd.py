"""APGD: the linear optimum, the halving rule by hand, element-wise agreement with torchattacks, and the promises."""

import dataclasses
import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from cmai_core.attacks import Attack, Consistency, Objective, ThreatModel
from cmai_core.attacks.objectives.classes import DLR, ClassLoss, Margin, Misclassified
from cmai_core.attacks.searches.apgd import APGD, Ascent
from cmai_core.attacks.threats.regions.l2 import L2Region
from cmai_core.attacks.threats.regions.linf import LinfRegion
from cmai_core.errors import OptionError

EPSILON = 8 / 255


def attack(objective, norm="linf", epsilon=EPSILON, success=None, **options):
    parts = {} if success is None else {"success": success}
    return Attack(threat=ThreatModel(norm, epsilon), objective=objective, search=APGD(**options), **parts)


def test_keeps_every_promise_and_reaches_the_linear_optimum(kit):
    for options in ({"steps": 30}, {"steps": 30, "micro_batch": 2}, {"steps": 20, "restarts": 2}):
        make = lambda objective, o=options: attack(objective, stop_on_success=False, **o)  # noqa: E731
        assert kit.violations(make, EPSILON) == []


def test_l2_reaches_the_linear_optimum(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 3)
    batch.pixels.mul_(0.5).add_(0.25)
    epsilon = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    gradient = -(model.encode_text(list(batch.texts)) @ model.tower[1].weight)
    result = attack(-Consistency(), "l2", epsilon, steps=60, stop_on_success=False)(model, batch)
    assert torch.allclose(result.objective, result.clean_objective + epsilon * gradient.norm(dim=1), rtol=1e-6)


def test_checkpoints_are_the_papers():
    # p: 0, .22, .41, .57, .70, .80, .87, .93, .99
    assert APGD(steps=100).checkpoints() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert APGD(steps=100, rule="code").checkpoints() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert APGD(steps=50).checkpoints() == [11, 21, 29, 35, 40, 44, 47, 50]
    assert APGD(steps=50, rule="code").checkpoints() == [11, 21, 30, 38, 45]
    for steps in range(1, 60):
        for rule in ("paper", "code"):
            found = APGD(steps=steps, rule=rule).checkpoints()
            assert all(0 < w <= steps for w in found) and found == sorted(set(found))


def test_the_halving_rule_by_hand():
    """Fewer than three quarters of the steps rose, or neither the step nor the best has changed since the last time."""
    state = SimpleNamespace(
        rises=torch.tensor([7.0, 7.5, 8.0, 9.0, 9.0]),
        reduced=torch.tensor([False, False, False, False, True]),
        checked=torch.tensor([0.0, 0.0, 1.0, 5.0, 5.0]),
        best=torch.tensor([1.0, 1.0, 2.0, 5.0, 5.0]),
        length=torch.ones(5, 1),
        x=torch.zeros(5, 1),
        best_x=torch.ones(5, 1),
        gradient=torch.zeros(5, 1),
        best_gradient=torch.ones(5, 1),
    )

    def reconsidered(search):
        ascent = Ascent.__new__(Ascent)
        ascent.search, ascent.state = search, SimpleNamespace(**vars(state))
        ascent.reconsider(10)
        return ascent.state

    paper = reconsidered(APGD())
    assert paper.length.flatten().tolist() == [0.5, 1, 1, 0.5, 1]
    assert paper.x.flatten().tolist() == [1, 0, 0, 1, 0] == paper.gradient.flatten().tolist()
    assert paper.reduced.tolist() == [True, False, False, True, False] and not paper.rises.any()
    assert reconsidered(APGD(rule="code")).length.flatten().tolist() == [0.5, 0.5, 1, 0.5, 1]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_agrees_with_torchattacks(kit, norm, loss):
    torchattacks = pytest.importorskip("torchattacks")
    model = kit.conv_model()
    batch = kit.make_batch(model, 6, size=8, seed=5)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    epsilon = EPSILON if norm == "Linf" else 0.3

    class SameStart(LinfRegion if norm == "Linf" else L2Region):
        def boundary_start(self, generators):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                x = self.centre
                noise = 2 * torch.rand(x.shape) - 1 if norm == "Linf" else torch.randn(x.shape)
            size = noise.flatten(1).abs().amax(dim=1) if norm == "Linf" else (noise**2).sum(dim=(1, 2, 3)).sqrt()
            return (x + epsilon * torch.ones(len(x), 1, 1, 1) * noise / size.view(-1, 1, 1, 1)).clamp(0, 1)

    with torch.random.fork_rng():
        peer = torchattacks.APGD(model, norm=norm, eps=epsilon, steps=30, loss=loss, seed=0)
        torch.manual_seed(0)
        best, _, value, _ = peer.attack_single_run(batch.pixels, labels)
    task = kit.ScoredTask()
    objective = {"ce": ClassLoss(task), "dlr": DLR(task)}[loss]

    class Threat(ThreatModel):
        def around(self, pixels):
            right = super().around(pixels)
            return SameStart(right.centre, right.epsilon, right.lower, right.upper)

    made = attack(objective, norm.lower(), epsilon, steps=30, rule="code", stop_on_success=False)
    ours = dataclasses.replace(made, threat=Threat(norm.lower(), epsilon))(model, batch)
    assert torch.allclose(ours.objective_trace.amax(dim=0), value, rtol=1e-6)
    # The peer keeps values in single precision, so that ties between iterates fall differently now and then.
    assert ((ours.pixels - best).abs() < 1e-7).double().mean() > 0.8


@pytest.mark.parametrize("norm", ["linf", "l2", "patch"])
def test_stops_where_it_succeeds_and_compacts(kit, norm):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 12, size=8)
    task = kit.ScoredTask()
    epsilon = {"linf": 10 / 255, "l2": 0.5, "patch": 0.03}[norm]
    make = lambda **o: attack(Margin(task), norm, epsilon, Misclassified(task), steps=12, **o)  # noqa: E731
    early = make()(model, batch, seed=2)
    full = make(stop_on_success=False)(model, batch, seed=2)
    assert torch.equal(early.success, full.success) and 0 < int(early.success.sum()) < 12
    assert int(early.forwards.sum()) < int(full.forwards.sum()) == 12 * 13
    assert (full.backwards == 12).all() and (early.backwards[~early.success] == 12).all()
    failed = ~early.success
    assert torch.allclose(early.pixels[failed], full.pixels[failed], atol=1e-9)
    for rows in ([5, 1, 7], [0], [11, 2]):
        part = make()(model, kit.take(batch, rows), seed=2)
        assert torch.allclose(part.pixels, early.pixels[rows], atol=1e-9)
        assert torch.equal(part.forwards, early.forwards[rows])


def test_is_stronger_than_pgd_of_the_same_length_on_a_curved_model(kit):
    from cmai_core.attacks import GradientSearch

    model = kit.conv_model(seed=3)
    batch = kit.make_batch(model, 16, size=8)
    loss = ClassLoss(kit.ScoredTask())
    ours = attack(loss, epsilon=0.2, steps=40, stop_on_success=False)(model, batch)
    search = GradientSearch(steps=40, step_size=0.1)
    pgd = Attack(threat=ThreatModel("linf", 0.2), objective=loss, search=search)(model, batch)
    assert ours.objective.mean() > pgd.objective.mean() - 1e-3 * abs(float(pgd.objective.mean()))


def test_cancel_and_a_gradient_that_is_not_finite(kit):
    from cmai_core.progress import CancelToken

    model = kit.conv_model()
    batch = kit.make_batch(model, 3, size=8)
    token, seen = CancelToken(), []

    def listener(update):
        seen.append(update)
        if len(seen) == 5:
            token.cancel()

    run = attack(ClassLoss(kit.ScoredTask()), steps=500, stop_on_success=False)
    result = run(model, batch, progress=listener, cancel=token, progress_interval=0)
    assert result.cancelled and result.steps_done == 4 and (result.objective > result.clean_objective).all()
    assert [m.done for m in seen[:5]] == [0, 1, 2, 3, 4]

    @dataclass(frozen=True, eq=False)
    class Broken(Objective):
        factors: torch.Tensor
        inner: Objective

        def bind(self, model, batch, shared=None):
            return Broken(self.factors, self.inner.bind(model, batch, shared))

        def select(self, rows):
            return Broken(self.factors[rows], self.inner.select(rows))

        def __call__(self, model, pixels, features):
            return self.factors * self.inner(model, pixels, features)

        def describe(self):
            return "broken"

    factors = torch.tensor([1.0, math.nan, 1.0], dtype=torch.float64)
    result = attack(Broken(factors, ClassLoss(kit.ScoredTask())), steps=10, stop_on_success=False)(model, batch)
    assert "not finite" in result.notes[1] and result.notes[0] == "" == result.notes[2]
    assert torch.equal(result.pixels[1], batch.pixels[1])
    assert (result.objective[[0, 2]] > result.clean_objective[[0, 2]]).all()


def test_options(kit):
    with pytest.raises(OptionError, match="paper, code"):
        APGD(rule="guess")
    with pytest.raises(OptionError, match=r"'step_size'.*steps"):
        APGD(step_size=1)
    model = kit.linear_model()
    with pytest.raises(OptionError, match="linf, l2, l1, patch"):
        attack(-Consistency(), "l0", 3)(model, kit.make_batch(model, 2))
