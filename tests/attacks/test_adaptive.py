"""Detector-aware attacks: the constrained optimum of a linear model, multipliers, EOT, BPDA, and the ensemble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmai_core.attacks import Attack, GradientSearch, TaskObjective, ThreatModel, Untargeted, pgd
from cmai_core.attacks.adaptive_attack import accept_false, adaptive, detector_pgd, reject_true
from cmai_core.attacks.engine.evaluator import jacobian
from cmai_core.attacks.engine.transforms import InputTransform, Noise
from cmai_core.attacks.objectives.classes import Margin
from cmai_core.attacks.objectives.detection import MULTIPLIER_RANGE, DetectorAware
from cmai_core.attacks.objectives.detectors import Accepted, Decided, Guard, Slack, Verification
from cmai_core.attacks.searches.ensemble import Cascade
from cmai_core.attacks.searches.hopskipjump import HopSkipJump
from cmai_core.attacks.searches.square import Square
from cmai_core.data.pair import Batch, Pair
from cmai_core.defenses.detector import ConsistencyDetector
from cmai_core.defenses.pathways import Smoothing
from cmai_core.defenses.preprocessing import Quantise
from cmai_core.defenses.system import System
from cmai_core.errors import OptionError

SIZE = 4
FORMS = ("lagrangian", "selective", "orthogonal")


@dataclass(frozen=True)
class Features:
    embedding: torch.Tensor
    pooled: torch.Tensor
    tokens: torch.Tensor | None = None


class Linear(nn.Module):
    """Three outputs, linear in the pixels around grey: scores of two classes, and what the detector reads (S_c)."""

    def __init__(self, weight, bias):
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], 3).double()
        self.layer.weight.data, self.layer.bias.data = weight.double(), bias.double()

    def image_features(self, pixels):
        out = self.layer((pixels - 0.5).flatten(1))
        return Features(out, out)

    def encode_text(self, texts, normalize=True):
        return torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(len(texts), 3)


@dataclass(frozen=True)
class Labels:
    values: torch.Tensor

    def select_rows(self, rows):
        return Labels(self.values[rows])


class Binary:
    """Class 0 or 1 by the larger score."""

    name = "binary"

    def prepare(self, model, pairs, dataset=None):
        return Labels(torch.tensor([int(pair.label) for pair in pairs]))

    def logits(self, model, features, prepared):
        return features.embedding[:, :2]

    def true_classes(self, prepared):
        return F.one_hot(prepared.values, 2).bool()

    def loss(self, model, features, prepared):
        return F.cross_entropy(features.embedding[:, :2], prepared.values, reduction="none")

    def wrong(self, model, features, prepared):
        return features.embedding[:, :2].argmax(dim=1) != prepared.values


def tilted(angle=2.2, seed=0):
    """A linear model whose loss and detector pull against each other: the cosine of their gradients is cos(angle)."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.linalg.qr(torch.randn(3 * SIZE * SIZE, 2, generator=generator, dtype=torch.float64))[0].T
    loss, score = plane[0], np.cos(angle) * plane[0] + np.sin(angle) * plane[1]
    return Linear(torch.stack([-0.5 * loss, 0.5 * loss, score]), torch.tensor([0.2, -0.2, 0.3]))


def batch_of(count=6, spread=0.02, seed=1):
    """Nearly grey pictures of class 0."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.5 + spread * torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    blank = np.zeros((SIZE, SIZE, 3), np.uint8)
    pairs = tuple(Pair(f"grey/{k}", blank, (f"text {k}",), label="0") for k in range(count))
    return Batch(tuple(p.id for p in pairs), pixels, tuple(p.captions[0] for p in pairs), tuple(range(count)), pairs)


def scores(model, pixels):
    """(margin of the false class, S_c)."""
    out = model.image_features(pixels).embedding.detach()
    return out[:, 1] - out[:, 0], out[:, 2]


def constrained_optimum(model, batch, epsilon, tau):
    """The largest margin within the L2 ball where S_c ≥ τ: the gradient, or its projection on the constraint."""
    weight = model.layer.weight.detach()
    loss, score = weight[1] - weight[0], weight[2] / weight[2].norm()
    margin, slack = scores(model, batch.pixels)
    slack = (slack - tau) / weight[2].norm()
    along = loss @ score
    free = epsilon * loss.norm()
    rest = (loss - along * score).norm()
    bound = -along * slack + rest * (epsilon**2 - slack**2).clamp(min=0).sqrt()
    binding = epsilon * along / loss.norm() < -slack
    return margin + torch.where(binding, bound, free), binding


EPSILON, TAU = 0.6, 0.15


def aware(form, **options):
    task = Binary()
    options = {"norm": "l2", "epsilon": EPSILON, "steps": 60, "random_start": False} | options
    return detector_pgd(task, form=form, loss=Margin(task), tau=TAU, margin=0.0, **options)


@pytest.mark.parametrize("form", FORMS)
def test_plain_pgd_is_flagged_where_the_detector_aware_attack_is_wrong_and_accepted(form):
    model, batch, task = tilted(), batch_of(), Binary()
    best, binding = constrained_optimum(model, batch, EPSILON, TAU)
    assert binding.all() and (best > 0).all() and (scores(model, batch.pixels)[0] < 0).all()
    naive = pgd(Margin(task), norm="l2", epsilon=EPSILON, steps=60, success=Untargeted(task))(model, batch)
    assert naive.success.all() and (scores(model, naive.pixels)[1] < TAU).all()
    result = aware(form)(model, batch)
    margin, score = scores(model, result.pixels)
    assert result.success.all() and (margin > 0).all() and (score >= TAU).all()
    assert (margin <= best + 1e-9).all()
    if form == "lagrangian":  # the others settle for any success
        assert (margin > 0.9 * best).all()


def test_where_the_constraint_does_not_bind_the_lagrangian_form_reaches_the_plain_optimum():
    model, batch = tilted(angle=1.2), batch_of()
    best, binding = constrained_optimum(model, batch, EPSILON, TAU)
    assert not binding.any()
    margin = scores(model, aware("lagrangian")(model, batch).pixels)[0]
    assert torch.allclose(margin, best, rtol=1e-3)


def test_an_impossible_constraint_gives_no_success():
    model, batch, task = tilted(), batch_of(), Binary()
    result = detector_pgd(task, loss=Margin(task), tau=0.9, norm="l2", epsilon=0.3, steps=20)(model, batch)
    assert not result.success.any()


def climbed(form, model, batch, pixels, tau=TAU, **options):
    task = Binary()
    objective = DetectorAware(Margin(task), Untargeted(task), (Guard(tau),), form, **options).bind(model, batch)
    x = pixels.clone().requires_grad_(True)
    return objective, objective.value_and_grad(model, x, model.image_features(x))


def test_the_multiplier_grows_while_flagged_and_shrinks_while_accepted_for_each_sample_alone():
    model, batch = tilted(), batch_of(4)
    direction = (model.layer.weight[2].detach()).view(1, 3, SIZE, SIZE)
    # S_c of the four: far below τ, a little below, a little above, far above
    pixels = 0.5 + direction * torch.tensor([-0.4, -0.175, -0.125, 0.4]).view(-1, 1, 1, 1)
    assert torch.allclose(scores(model, pixels)[1], torch.tensor([-0.1, 0.125, 0.175, 0.7], dtype=torch.float64))
    objective, _ = climbed("lagrangian", model, batch, pixels, margin=0.0, rate=0.5, scale=0.05)
    expected = torch.tensor([0.5, 0.25, -0.25, -0.5], dtype=torch.float64).exp()
    assert torch.allclose(objective.multiplier, expected)
    rows = torch.tensor([3, 0])
    x = pixels[rows].requires_grad_(True)
    features = model.image_features(x)
    for _ in range(40):
        objective.select(rows).value_and_grad(model, x, model.image_features(x))
    assert torch.allclose(objective.multiplier[[1, 2]], expected[[1, 2]])
    assert objective.multiplier[[3, 0]].tolist() == pytest.approx(MULTIPLIER_RANGE)
    value = objective.select(rows)(model, x, features)
    margin, score = scores(model, pixels[rows])
    assert torch.allclose(value.detach(), margin - 10 * (TAU - score).clamp(min=0)), "the value does not know λ"


def test_directions_of_the_three_forms():
    model, batch = tilted(), batch_of(2)
    weight = model.layer.weight.detach()
    loss, score = weight[1] - weight[0], weight[2]
    away = loss.view(3, SIZE, SIZE)
    pixels = torch.stack([torch.full_like(away, 0.5), 0.5 + away])  # right; wrong and flagged
    assert (scores(model, pixels)[0] > 0).tolist() == [False, True]
    gradients = {form: climbed(form, model, batch, pixels)[1][1].flatten(1) for form in FORMS}
    assert torch.allclose(gradients["lagrangian"], (loss / loss.norm() + score / score.norm()).expand(2, -1))
    assert torch.allclose(gradients["selective"], torch.stack([loss, score]))
    right, wrong = gradients["orthogonal"]
    assert abs(float(right @ score)) < 1e-9 < float(right @ loss)
    assert abs(float(wrong @ loss)) < 1e-9 < float(wrong @ score)


def test_without_a_detector_the_loss_is_raised_alone_and_a_bare_model_is_refused():
    model, batch, task = tilted(), batch_of(), Binary()
    plain = pgd(TaskObjective(task), norm="l2", epsilon=EPSILON, success=Untargeted(task))(model, batch)
    attack = detector_pgd(task, norm="l2", epsilon=EPSILON)
    assert torch.equal(attack(System(model), batch).pixels, plain.pixels)
    with pytest.raises(OptionError, match=r"Guard\(tau\)"):
        attack(model, batch)
    with pytest.raises(OptionError, match=r"tau.*detectors"):
        detector_pgd(task, tau=0.1, detectors=(Guard(0.1),))
    with pytest.raises(OptionError, match="lagrangian"):
        detector_pgd(task, form="dual")
    with pytest.raises(OptionError, match="margin"):
        adaptive(task, losses=("logit",))


def test_the_systems_own_detector_is_the_default():
    model, batch, task = tilted(), batch_of(), Binary()
    system = System(model, detector=ConsistencyDetector(TAU))
    options = {"norm": "l2", "epsilon": EPSILON, "steps": 10}
    a, b = detector_pgd(task, **options)(system, batch), detector_pgd(task, tau=TAU, **options)(model, batch)
    assert torch.equal(a.pixels, b.pixels) and a.success.all()


class Halves(InputTransform):
    """A random half of the positions turned grey, the middle of the linear model."""

    def draw(self, generators, like):
        return torch.stack([torch.rand(1, *like.shape[2:], generator=g) < 0.5 for g in generators])

    def apply(self, pixels, drawn):
        return torch.where(drawn, pixels, 0.5)

    def describe(self):
        return {"transform": "halves"}


def test_averaging_over_the_defences_randomness_beats_a_single_draw():
    model, batch, task = tilted(), batch_of(), Binary()
    system = System(model, smoothing=Smoothing(Halves(), copies=1))
    reached = {}
    for eot in (1, 24):
        attack = Attack(
            threat=ThreatModel("linf", 0.05),
            objective=Margin(task),
            search=GradientSearch(steps=2, random_start=False, keep="last", eot=eot),
            success=Untargeted(task),
        )
        result = attack(system, batch, seed=0)
        # Exact expectation of the defended margin: the mean of the masks is one half.
        reached[eot] = scores(model, 0.5 + (result.pixels - 0.5) / 2)[0]
        assert result.backwards.tolist() == [2 * eot] * len(batch.ids)
    assert (reached[24] > reached[1]).all()
    assert reached[24].mean() - reached[1].mean() > 0.02


def test_going_around_quantisation_beats_its_own_gradient():
    model, batch, task = tilted(), batch_of(), Binary()
    system = System(model, preprocessing=(Quantise(levels=16),))
    attack = pgd(Margin(task), epsilon=0.2, steps=10, random_start=False, success=Untargeted(task))
    blocked = attack(system.view(bpda=False), batch)
    around = attack(system, batch)
    assert torch.equal(blocked.pixels, batch.pixels), "rounding has no slope anywhere"
    assert not blocked.success.any() and around.success.all()


def test_the_ensemble_is_the_worst_case_over_its_members():
    batch, task = batch_of(24, spread=0.08), Binary()
    model = tilted(angle=2.6)
    attack = adaptive(task, tau=0.1, epsilon=0.12, steps=6)
    result = attack(model, batch, seed=5)
    alone = []
    for index, member in enumerate(attack.search.members):
        single = Attack(threat=attack.threat, objective=member.objective, search=member.search, success=attack.success)
        alone.append(single(model, batch, seed=Cascade.member_seed(5, index)).success)
    alone = torch.stack(alone)
    assert torch.equal(result.success, alone.any(dim=0))
    assert alone.sum(dim=1).max() < result.success.sum() < len(batch.ids), "more than any member alone"
    margin, score = scores(model, result.pixels)
    assert torch.equal(result.success, (margin > 0) & (score >= 0.1))
    assert [m.name for m in attack.search.members[:3]] == ["task", "margin", "lagrangian task"]


def test_the_mirrors_reach_the_linear_optimum_and_cross_the_threshold():
    model, batch = tilted(), batch_of()
    reach = 0.02 * model.layer.weight[2].abs().sum().item()
    clean = scores(model, batch.pixels)[1]
    options = {"epsilon": 0.02, "steps": 5}
    accepted = accept_false(tau=0.3 + 0.5 * reach, **options)(model, batch)
    rejected = reject_true(tau=0.3 - 0.5 * reach, **options)(model, batch)
    assert torch.allclose(scores(model, accepted.pixels)[1], clean + reach)
    assert torch.allclose(scores(model, rejected.pixels)[1], clean - reach)
    assert torch.equal(accepted.success, clean + reach >= 0.3 + 0.5 * reach)
    assert torch.equal(rejected.success, clean - reach < 0.3 - 0.5 * reach)
    assert accepted.success.any() and rejected.success.any()


@pytest.mark.parametrize("make", (accept_false, reject_true, lambda **options: detector_pgd(Binary(), **options)))
def test_attacks_on_a_detector_refuse_alike(make):
    with pytest.raises(OptionError, match=r"tau.*detectors"):
        make(tau=0.1, detectors=(Guard(0.1),))
    with pytest.raises(OptionError, match="'stpes'"):
        make(tau=0.1, stpes=3)
    with pytest.raises(OptionError, match="norm"):
        make(norm="linfinity")


def test_a_verifier_is_an_objective_and_a_detector():
    model, batch = tilted(), batch_of(3)
    several = Batch(batch.ids, batch.pixels, ("a", "b", "c", "d"), (0, 2, 1, 2), batch.pairs)

    def verify(h_v, h_t):
        return torch.sigmoid(4 * (h_v * h_t).sum(dim=1))

    bound = Verification(verify).bind(model, several)
    features = model.image_features(batch.pixels)
    expected = torch.sigmoid(4 * scores(model, batch.pixels)[1])
    assert torch.allclose(bound(model, batch.pixels, features).detach(), expected)
    rows = torch.tensor([2, 0, 2])
    part = bound.select(rows)(model, batch.pixels[rows], model.image_features(batch.pixels[rows]))
    assert torch.allclose(part.detach(), expected[rows])
    lowered = pgd(-Verification(verify), epsilon=0.02, steps=5)(model, several)
    assert (lowered.objective > -expected).all()
    guards = (Guard(0.1), Guard(0.75, Verification(verify)))
    slack = Slack(guards).bind(model, several)(model, batch.pixels, features).detach()
    assert torch.allclose(slack, torch.minimum(scores(model, batch.pixels)[1] - 0.1, expected - 0.75))


def test_a_view_with_less_knowledge_gives_less():
    model, batch, task = tilted(), batch_of(), Binary()
    system = System(model, detector=ConsistencyDetector(TAU))
    with pytest.raises(OptionError, match="gradient"):
        pgd(Margin(task), success=Untargeted(task))(system.view("scores"), batch)
    criterion = Untargeted(task) & Accepted()
    asked = Attack(
        threat=ThreatModel("linf", 0.2), objective=Margin(task), search=Square(queries=200), success=criterion
    )(system.view("scores"), batch)
    assert asked.success.any() and asked.consistency is not None
    with pytest.raises(OptionError, match="Decided"):
        Attack(threat=ThreatModel(), objective=Margin(task), search=Square(queries=5))(system.view("decisions"), batch)
    decided = Attack(
        threat=ThreatModel("l2", 2.0), objective=Decided(criterion), search=HopSkipJump(queries=400), success=criterion
    )(system.view("decisions"), batch)
    assert decided.success.any() and decided.consistency is None


def test_random_systems_are_attacked_the_same_in_any_order_and_left_as_found():
    model, batch, task = tilted().train(), batch_of(5), Binary()
    model.layer.bias.requires_grad_(False)
    system = System(model, smoothing=Smoothing(Noise(sigma=0.1), copies=2), detector=ConsistencyDetector(TAU))
    attack = adaptive(task, epsilon=0.05, steps=3, forms=("orthogonal",), losses=("margin",))
    state = torch.get_rng_state()
    whole = attack(system, batch, seed=2)
    order = [3, 0, 4, 2, 1]
    moved = Batch(
        tuple(batch.ids[k] for k in order),
        batch.pixels[order],
        tuple(batch.texts[k] for k in order),
        tuple(range(5)),
        tuple(batch.pairs[k] for k in order),
    )
    small = adaptive(task, epsilon=0.05, steps=3, forms=("orthogonal",), losses=("margin",), micro_batch=2)
    assert torch.allclose(small(system, moved, seed=2).pixels, whole.pixels[order], atol=1e-12)
    assert not torch.equal(attack(system, batch, seed=3).pixels, whole.pixels)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.layer.weight.requires_grad and not model.layer.bias.requires_grad
    assert model.layer.weight.grad is None
    first = pgd(Margin(task), epsilon=0.05, steps=3)(system, batch)
    assert first.forwards.tolist() == [4 * 2] * 5 and first.backwards.tolist() == [3 * 2] * 5


def test_jacobian_of_the_slack_is_the_detectors_weight():
    model, batch = tilted(), batch_of(2)
    x = batch.pixels.clone().requires_grad_(True)
    slack = Slack((Guard(TAU),)).bind(model, batch)
    rows = jacobian(slack.margins(model, x, model.image_features(x)), x)
    assert torch.allclose(rows[:, 0].flatten(1), model.layer.weight[2].detach().expand(2, -1))
