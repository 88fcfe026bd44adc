"""DeepFool, FAB and C&W: known distances to the boundary, element-wise agreement with peers, and the promises."""

import pytest
import torch
from torch import nn

from cmai_core.attacks import Attack, Consistency, Flagged, ThreatModel
from cmai_core.attacks.objectives.classes import ClassLoss, Margin, Misclassified
from cmai_core.attacks.objectives.embedding import Constant
from cmai_core.attacks.searches.carlini_wagner import CarliniWagner
from cmai_core.attacks.searches.deepfool import DeepFool
from cmai_core.attacks.searches.fab import FAB
from cmai_core.attacks.searches.halfspace import step_across
from cmai_core.errors import DataError, OptionError

FAR = {"linf": 1.0, "l2": 1e3}
CW = CarliniWagner(steps=120, step_size=0.03, searches=6, initial=0.05)


def attack(kit, search, norm="l2", epsilon=None, **objective):
    task = kit.ScoredTask()
    threat = ThreatModel(norm, FAR[norm] if epsilon is None else epsilon)
    success = Misclassified(task, **objective)
    return Attack(threat=threat, objective=Margin(task, **objective), search=search, success=success)


def inner_batch(kit, model, count=6, size=6, seed=0):
    """Images well inside the box, labelled as the model sees them."""
    batch = kit.make_batch(model, count, size, seed)
    batch.pixels.mul_(0.4).add_(0.3)
    labels = model(batch.pixels).argmax(dim=1).tolist()
    pairs = tuple(type(p)(p.id, p.image, p.captions, label=str(k)) for p, k in zip(batch.pairs, labels, strict=True))
    return type(batch)(batch.ids, batch.pixels, batch.texts, batch.image_of_text, pairs)


def affine_distance(model, batch, norm):
    weight, labels = model.tower[1].weight, [int(p.label) for p in batch.pairs]
    scores, found = model(batch.pixels), []
    for row, label in enumerate(labels):
        others = [k for k in range(len(weight)) if k != label]
        normals = weight[others] - weight[label]
        dual = normals.norm(dim=1) if norm == "l2" else normals.abs().sum(dim=1)
        found.append(((scores[row, label] - scores[row, others]) / dual).min())
    return torch.stack(found).detach()


@pytest.mark.parametrize(
    ("search", "norm", "tolerance"),
    [
        (DeepFool(), "l2", 0.02),
        (DeepFool(), "linf", 0.03),
        (FAB(steps=20), "l2", 0.005),
        (FAB(steps=20), "linf", 0.005),
        (CW, "l2", 0.02),
    ],
)
def test_distance_of_an_affine_model(kit, search, norm, tolerance):
    model = kit.linear_model(scale=0.3)
    batch = inner_batch(kit, model)
    exact = affine_distance(model, batch, norm)
    assert (exact > 0.005).all()
    result = attack(kit, search, norm)(model, batch)
    ratio = result.minimum_norm / exact
    # DeepFool's published constant of 1e-4 comes on top of its overshoot.
    slack = 1.03e-4 / exact if isinstance(search, DeepFool) else 0.0
    assert result.success.all() and (ratio > 1 - 1e-6).all() and (ratio < 1 + tolerance + slack + 1e-6).all(), ratio
    assert torch.equal(result.pixels, result.minimum)
    scored = result.success_at([0.0, exact.min() * 0.99, exact.median() * 1.05, 1e9])
    assert scored.shape == (4, 6) and not scored[:2].any() and 0 < int(scored[2].sum()) < 6 and scored[3].all()


class Ball(nn.Module):
    """Two classes separated by a sphere about the point 0.5: the boundary is at a known distance everywhere."""

    def __init__(self, radius):
        super().__init__()
        self.radius = radius
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        inside = self.radius**2 - ((x - 0.5) ** 2).flatten(1).sum(dim=1)
        return torch.stack([inside, -inside, inside - 9, inside - 9, inside - 9], dim=1) + 0 * self.weight


@pytest.mark.parametrize(("search", "tolerance"), [(DeepFool(), 0.05), (FAB(steps=40), 0.01), (CW, 0.04)])
def test_distance_of_a_quadratic_model(kit, search, tolerance, generator):
    model = kit.FakeVLM(Ball(1.0))
    batch = kit.make_batch(model, 5)
    direction = torch.randn(batch.pixels.shape, generator=generator, dtype=torch.float64)
    radii = torch.tensor([0.3, 0.5, 0.8, 0.9, 1.4], dtype=torch.float64)
    if isinstance(search, DeepFool):  # from within a sphere its linearisation overshoots: only near the boundary
        radii = torch.tensor([0.97, 0.98, 0.99, 1.02, 1.4], dtype=torch.float64)
    batch.pixels.copy_(0.5 + direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * radii.view(-1, 1, 1, 1))
    labels = model(batch.pixels).argmax(dim=1).tolist()
    pairs = tuple(type(p)(p.id, p.image, p.captions, label=str(k)) for p, k in zip(batch.pairs, labels, strict=True))
    batch = type(batch)(batch.ids, batch.pixels, (), (), pairs)
    result = attack(kit, search)(model, batch)
    ratio = result.minimum_norm / (radii - 1).abs()
    assert (ratio > 1 - 1e-6).all() and (ratio < 1 + tolerance).all(), ratio


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_across_a_hyperplane_is_the_shortest_in_the_box(norm, generator):
    point = torch.rand(40, 6, generator=generator, dtype=torch.float64)
    normal = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    normal[:, 0] = 0
    rise = torch.randn(40, generator=generator, dtype=torch.float64)
    delta = step_across(point, normal, rise, norm)
    moved = point + delta
    assert moved.min() >= -1e-12 and moved.max() <= 1 + 1e-12
    toward = (normal * rise.sign().unsqueeze(1)).sign()
    room = torch.where(toward > 0, 1 - point, point)
    most = (normal.abs() * room).sum(dim=1)
    gained = (normal * delta).sum(dim=1)
    assert torch.allclose(gained, rise.sign() * torch.minimum(most, rise.abs()))
    # Optimal: among feasible points, moving each coordinate by the rule for a slightly smaller t gains too little.
    size = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
    reachable = most > rise.abs() * 1.001
    assert reachable.sum() > 20
    if norm == "linf":
        shorter = (normal.abs() * torch.minimum(room, 0.999 * size.unsqueeze(1))).sum(dim=1)
        assert (shorter[reachable] < rise.abs()[reachable]).all()
    else:
        for _ in range(50):  # feasible directions within the hyperplane never shorten it
            other = torch.randn(40, 6, generator=generator, dtype=torch.float64)
            other -= normal * ((other * normal).sum(1) / (normal**2).sum(1)).unsqueeze(1)
            near = delta + 1e-3 * other
            inside = ((point + near >= 0) & (point + near <= 1)).all(dim=1) & reachable
            assert (near.norm(dim=1)[inside] >= size[inside] - 1e-12).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_agrees_with_foolbox(kit, norm):
    foolbox = pytest.importorskip("foolbox")
    model = kit.conv_model()
    batch = kit.make_batch(model, 6, size=8, seed=5)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    ours = attack(kit, DeepFool(), norm)(model, batch)
    kind = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[norm]
    raw, _, wrong = kind()(foolbox.PyTorchModel(model, bounds=(0, 1)), batch.pixels, labels, epsilons=None)
    assert wrong.all() and ours.success.all()
    assert torch.allclose(ours.minimum, raw, rtol=0, atol=1e-6)
    assert (ours.minimum_norm > 0.001).all()


def test_carlini_wagner_agrees_with_foolbox(kit):
    foolbox = pytest.importorskip("foolbox")
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=8, seed=5)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    search = CarliniWagner(steps=30, step_size=0.03, searches=4, initial=0.3, abort_early=False)
    ours = attack(kit, search)(model, batch)
    peer = foolbox.attacks.L2CarliniWagnerAttack(4, 30, 0.03, initial_const=0.3, abort_early=False)
    raw, _, _ = peer(foolbox.PyTorchModel(model, bounds=(0, 1)), batch.pixels, labels, epsilons=None)
    assert ours.success.all() and torch.allclose(ours.minimum, raw, rtol=0, atol=1e-5)


def test_carlini_wagner_spares_steps_and_does_not_wait(kit):
    """Samples that come no further down leave their c, and begin the next while others are still busy with the last."""
    model = kit.conv_model()
    batch = kit.make_batch(model, 8, size=8, seed=5)
    sizes, encode = [], model.image_features
    model.image_features = lambda pixels: (sizes.append(len(pixels)), encode(pixels))[1]
    options = {"steps": 100, "step_size": 0.03, "searches": 4, "initial": 0.3}
    result = attack(kit, CarliniWagner(**options))(model, batch)
    steps = sizes[1:-2]  # but for the clean and the two final scorings
    assert sum(steps) == int(result.forwards.sum()) == int(result.backwards.sum())
    assert len(steps) == int(result.forwards.max()) == result.steps_done < 400
    assert len(set(result.forwards.tolist())) > 1
    whole = attack(kit, CarliniWagner(**options, abort_early=False))(model, batch)
    assert (whole.forwards == 400).all() and result.forwards.double().mean() < 0.8 * 400
    ratio = result.minimum_norm / whole.minimum_norm
    assert result.success.all() and ratio.median() < 1.005 and ratio.max() < 1.02


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fab_is_as_close_as_torchattacks(kit, norm):
    torchattacks = pytest.importorskip("torchattacks")
    model = kit.conv_model().float()
    batch = kit.make_batch(model.double(), 6, size=8, seed=5)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    ours = attack(kit, FAB(steps=12, final=0), norm.lower())(model, batch)
    single = kit.conv_model().float()
    peer = torchattacks.FAB(single, norm=norm, eps=1.0, steps=12, n_restarts=1, alpha_max=0.1, eta=1.05, beta=0.9)
    theirs = peer.attack_single_run(batch.pixels.float(), labels)
    delta = (theirs.double() - batch.pixels).flatten(1)
    size = delta.abs().amax(dim=1) if norm == "Linf" else delta.norm(dim=1)
    assert torch.allclose(ours.minimum_norm, size, rtol=1e-3)


@pytest.mark.parametrize("search", [DeepFool(), FAB(steps=15, restarts=2), CarliniWagner(steps=40, searches=4)])
def test_promises(kit, search):
    model = kit.conv_model().train()
    batch = kit.make_batch(model.eval(), 6, size=8)
    model.train()
    before = batch.pixels.clone()
    state = torch.get_rng_state()
    make = attack(kit, search)
    whole = make(model, batch, seed=4)
    assert torch.equal(batch.pixels, before) and torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in model.modules()) and all(p.grad is None for p in model.parameters())
    model.eval()
    wrong = model(whole.minimum).argmax(dim=1) != torch.tensor([int(p.label) for p in batch.pairs])
    assert wrong.all() and whole.minimum.min() >= 0 and whole.minimum.max() <= 1
    assert torch.allclose((whole.minimum - before).flatten(1).norm(dim=1), whole.minimum_norm)
    for rows in ([4, 0], [2], [5, 1, 3]):
        part = make(model, kit.take(batch, rows), seed=4)
        assert torch.allclose(part.minimum, whole.minimum[rows], atol=1e-7)
        assert torch.equal(part.forwards, whole.forwards[rows])
    # With a budget the result stays in the ball; what was found is unchanged.
    epsilon = float(whole.minimum_norm.median())
    bounded = attack(kit, search, epsilon=epsilon)(model, batch, seed=4)
    assert (bounded.l2 <= epsilon * (1 + 1e-9)).all()
    if not isinstance(search, FAB):  # whose random starts depend on ε
        assert torch.allclose(bounded.minimum_norm, whole.minimum_norm)
    assert torch.equal(bounded.success & ~bounded.clean_success, bounded.success_at(epsilon)[0])


@pytest.mark.parametrize("search", [DeepFool(), FAB(steps=20), CW])
def test_boundary_of_any_objective(kit, search):
    """Not only classes: the closest image whose S_c falls below a threshold."""
    model = kit.linear_model(scale=0.05)
    batch = inner_batch(kit, model, 3)
    texts = model.encode_text(list(batch.texts))
    scores = (model(batch.pixels) * texts).sum(dim=1)
    tau = float(scores.min().detach()) - 0.2
    gradient = texts @ model.tower[1].weight
    exact = ((scores - tau) / gradient.norm(dim=1)).detach()
    threat = ThreatModel("l2", 1e3)
    whole = Attack(threat=threat, objective=Constant(tau) - Consistency(), search=search, success=Flagged(tau))
    tau = max(tau, -1.0)
    result = whole(model, batch)
    assert ((result.minimum_norm / exact) < 1.03).all() and (result.minimum_norm / exact > 1 - 1e-6).all()


def test_targeted(kit):
    model = kit.linear_model(scale=0.3)
    batch = inner_batch(kit, model, 4)
    order = model(batch.pixels).argsort(dim=1, descending=True)
    for search in (FAB(steps=20), CW):
        result = attack(kit, search, rank=2)(model, batch)
        assert torch.equal(model(result.minimum).argmax(dim=1), order[:, 2])


def test_what_is_refused(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 2)
    task = kit.ScoredTask()
    for search in (DeepFool(), FAB(), CarliniWagner()):
        with pytest.raises(OptionError, match="norm='l0'"):
            Attack(threat=ThreatModel("l0", 3), objective=ClassLoss(task), search=search)(model, batch)
    for kind in (DeepFool, FAB, CarliniWagner):
        with pytest.raises(OptionError, match="steps=0"):
            kind(steps=0)
        with pytest.raises(OptionError, match="'speed'"):
            kind(speed=1)
    from cmai_core.attacks import pgd

    with pytest.raises(DataError, match="minimum-norm"):
        pgd(-Consistency())(model, batch).success_at([0.1])
