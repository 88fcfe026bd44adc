"""Threats l0 and patch, and the settings of the gradient search: starts, diversity, EOT, universal perturbation."""

import pytest
import torch

from cmai_core.attacks import Attack, Consistency, GradientSearch, TaskObjective, ThreatModel, Untargeted, pgd
from cmai_core.attacks.engine.transforms import Diversity, Noise, Pose
from cmai_core.attacks.objectives.objective import TaskRows
from cmai_core.attacks.threats.regions.region import changed_positions
from cmai_core.errors import OptionError
from cmai_core.seeds import sample_generators

EPSILON = 8 / 255


def run(model, batch, threat, objective=None, seed=0, success=None, **options):
    options = {"objective": objective or -Consistency(), "search": GradientSearch(**options)}
    if success is not None:
        options["success"] = success
    return Attack(threat=threat, **options)(model, batch, seed=seed)


def gradient_of(model, batch):
    return -(model.encode_text(list(batch.texts)) @ model.tower[1].weight).view_as(batch.pixels)


# Threats


def test_l0_projection_is_the_nearest_image_with_few_changes(generator):
    centre = torch.rand(1, 3, 2, 2, generator=generator, dtype=torch.float64)
    region = ThreatModel("l0", 2).around(centre)
    for _ in range(20):
        point = centre + torch.randn(centre.shape, generator=generator, dtype=torch.float64)
        projected = region.project(point)
        best = torch.inf
        for first in range(4):
            for second in range(first):
                kept = torch.zeros(4, dtype=torch.bool)
                kept[[first, second]] = True
                candidate = torch.where(kept.view(1, 1, 2, 2), point.clamp(0, 1), centre)
                best = min(best, float((candidate - point).norm()))
        assert float((projected - point).norm()) == pytest.approx(best)
        assert int(changed_positions(projected, centre)) <= 2


def test_l0_attack_reaches_the_optimum_of_a_linear_model(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 4)
    budget = [0, 1, 3, 7]
    result = run(model, batch, ThreatModel("l0", budget), steps=60, step_scale=60.0, random_start=False)
    gradient = gradient_of(model, batch)
    gain = torch.where(gradient > 0, gradient * (1 - batch.pixels), -gradient * batch.pixels).sum(dim=1).flatten(1)
    best = torch.stack([g.sort(descending=True).values[:k].sum() for g, k in zip(gain, budget, strict=True)])
    gained = result.objective - result.clean_objective
    assert (result.l0 <= torch.tensor(budget)).all()
    # Which positions survive is decided by gradient magnitude, which is not quite which gain most inside the box.
    assert (gained >= 0.9 * best - 1e-12).all() and (gained <= best + 1e-9).all()
    start = ThreatModel("l0", budget).around(batch.pixels).random_start(sample_generators(1, batch.ids, 0))
    assert (changed_positions(start, batch.pixels) <= torch.tensor(budget)).all() and start.max() <= 1


def test_a_patch_changes_its_square_only_and_is_exact_on_a_linear_model(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 3)
    threat = ThreatModel("patch", [0.0, 4 / 36, 9 / 36], place=(0.0, 1.0))
    mask = threat.masks(batch.pixels)
    assert mask.flatten(1).sum(dim=1).tolist() == [0, 4, 9]
    assert mask[2, 0, :3, 3:].all() and mask[1, 0, :2, 4:].all()
    result = run(model, batch, threat, steps=10, step_size=1.0)
    expected = torch.where(mask, (gradient_of(model, batch) > 0).double(), batch.pixels)
    assert torch.equal(result.pixels, expected)
    own = torch.zeros(6, 6, dtype=torch.bool)
    own[1, 2:4] = True
    result = run(model, batch, ThreatModel("patch", 0.5, mask=own), steps=4)
    assert ((result.pixels != batch.pixels).any(dim=1) <= own).all() and (result.l0 == 2).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "patch", "epsilon": 1.5}, "epsilon=1.5"),
        ({"norm": "l0", "epsilon": -1}, "epsilon=-1"),
        ({"norm": "linf", "mask": torch.ones(2, 2, dtype=torch.bool)}, "norm='patch'"),
        ({"norm": "patch", "epsilon": 0.1, "mask": torch.ones(2, 2)}, "mask"),
        ({"norm": "patch", "epsilon": 0.1, "place": (0.5, 2.0)}, "place"),
    ],
)
def test_threat_options(options, words):
    with pytest.raises(OptionError) as caught:
        ThreatModel(**options)
    assert words in str(caught.value)


def test_a_mask_must_fit(kit):
    pixels = kit.make_batch(kit.linear_model(), 2).pixels
    with pytest.raises(OptionError, match=r"mask.* 1 "):
        ThreatModel("patch", 0.1, mask=torch.ones(6, 6, dtype=torch.bool)).around(pixels)
    with pytest.raises(OptionError, match="6×6"):
        ThreatModel("patch", 1.0, mask=torch.ones(5, 6, dtype=torch.bool)).around(pixels)


# Settings


def test_r_fgsm_starts_at_a_corner_and_keeps_the_ball(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 3)
    batch.pixels.mul_(0.5).add_(0.25)
    options = {"steps": 1, "step_scale": 0.5, "start": "sign", "start_scale": 0.5, "keep": "last"}
    result = run(model, batch, ThreatModel("linf", EPSILON), **options)
    delta = (result.pixels - batch.pixels) / EPSILON
    # Corner of half the ball, then half a step by the gradient's sign: 0 or ±ε everywhere.
    assert torch.allclose(delta, delta.round(), atol=1e-9) and (delta == 0).any()
    assert (delta * gradient_of(model, batch).sign() > -1e-9).all()
    with pytest.raises(OptionError, match="linf"):
        run(model, batch, ThreatModel("l2", 1.0), start="sign")


def test_momentum_agrees_with_torchattacks(kit):
    torchattacks = pytest.importorskip("torchattacks")
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=8, seed=5)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    options = {"steps": 10, "step_scale": 1.0, "momentum": 1.0, "random_start": False, "keep": "last"}
    ours = run(model, batch, ThreatModel("linf", EPSILON), TaskObjective(kit.LabelTask()), **options).pixels
    theirs = torchattacks.MIFGSM(model, eps=EPSILON, alpha=EPSILON / 10, steps=10, decay=1.0)(batch.pixels, labels)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_diversity_shrinks_and_pads(generator):
    pixels = torch.rand(64, 3, 20, 20, generator=generator, dtype=torch.float64) * 0.5 + 0.5
    transform = Diversity(probability=1.0, lowest=0.7)
    drawn = transform.draw(sample_generators(0, [str(i) for i in range(64)], 0), pixels)
    moved = transform.apply(pixels, drawn)
    inside = (moved > 0.5 - 1e-9).all(dim=1)
    sides = inside.any(dim=2).sum(dim=1)
    assert set(sides.tolist()) <= set(range(14, 21)) and len(set(sides.tolist())) > 4
    assert torch.equal(sides, inside.any(dim=1).sum(dim=1))
    assert ((moved.abs() < 1e-9).all(dim=1) | inside).all()
    assert torch.equal(Diversity(probability=0.0).apply(pixels, drawn), pixels)
    same = Diversity(probability=1.0, lowest=1.0).apply(pixels, drawn)
    assert torch.allclose(same, pixels, atol=1e-9)


@pytest.mark.parametrize("transform", [Diversity(), Noise(sigma=0.1), Pose()])
def test_transforms_keep_the_promises(kit, transform):
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=8)
    options = {"transform": transform, "eot": 2, "steps": 4, "restarts": 2}
    threat = ThreatModel("linf", EPSILON)
    result = run(model, batch, threat, seed=3, **options)
    assert result.linf.max() <= EPSILON + 1e-12 and (result.objective > result.clean_objective).all()
    assert result.backwards.tolist() == [16] * 4 and result.forwards.tolist() == [16 + 10] * 4
    for rows in ([2, 0], [3], [1]):
        part = run(model, kit.take(batch, rows), threat, seed=3, **options)
        assert torch.allclose(part.pixels, result.pixels[rows], atol=1e-9)
    # Traces and success are of the untransformed picture.
    with torch.no_grad():
        fresh = -(model(result.pixels) * model.encode_text(list(batch.texts))).sum(dim=1)
    assert torch.allclose(result.objective_trace.amax(dim=0), fresh)
    other = run(model, batch, threat, seed=4, **options)
    assert not torch.equal(other.pixels, result.pixels)


def test_eot_sees_through_a_randomised_model(kit):
    """Noise in the model drowns one gradient; the mean of many finds the linear optimum's corner more often."""

    class Noisy(kit.FakeVLM):
        def image_features(self, pixels):
            weight = self.tower[1].weight
            noise = torch.randn(len(pixels), *weight.shape, generator=self.generator, dtype=torch.float64)
            scores = self.tower(pixels) + 3 * (noise * pixels.flatten(1).unsqueeze(1)).sum(dim=2)
            return kit.Features(scores, scores)

    agreement = []
    for eot in (1, 100):
        model = Noisy(kit.linear_model().tower)
        model.generator = torch.Generator().manual_seed(0)
        batch = kit.make_batch(model, 4)
        options = {"steps": 1, "random_start": False, "keep": "last", "eot": eot}
        result = run(model, batch, ThreatModel("linf", EPSILON), **options)
        best, _ = kit.linear_optimum(model, batch, EPSILON)
        agreement.append(float((result.pixels == best).double().mean()))
        assert result.backwards.tolist() == [eot] * 4
    assert agreement[0] < 0.75 < 0.85 < agreement[1]


@pytest.mark.parametrize("norm", ["linf", "l2", "patch"])
def test_universal_is_one_perturbation_for_all(kit, norm):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 8, size=8)
    batch.pixels.mul_(0.5).add_(0.25)
    task = kit.LabelTask()
    epsilon = {"linf": 40 / 255, "l2": 2.0, "patch": 0.2}[norm]
    options = {"steps": 10, "universal": True, "restarts": 2}
    result = run(model, batch, ThreatModel(norm, epsilon), TaskObjective(task), success=Untargeted(task), **options)
    assert result.universal is not None and result.universal.shape == (3, 8, 8)
    if norm == "patch":
        mask = ThreatModel(norm, epsilon).masks(batch.pixels)
        assert torch.equal(result.pixels, torch.where(mask, result.universal, batch.pixels))
    else:
        assert torch.allclose(result.pixels, (batch.pixels + result.universal).clamp(0, 1), atol=1e-12)
        size = result.universal.abs().max() if norm == "linf" else result.universal.norm()
        assert size <= epsilon + 1e-9
    assert result.objective.mean() > result.clean_objective.mean()
    with pytest.raises(OptionError):
        run(model, batch, ThreatModel(norm, [epsilon] * 7 + [epsilon / 2]), **options)


def test_universal_is_exact_on_a_linear_model(kit):
    model = kit.linear_model()
    batch = kit.make_batch(model, 5)
    batch.pixels.mul_(0.5).add_(0.25)
    result = run(model, batch, ThreatModel("linf", EPSILON), universal=True, steps=10)
    assert torch.equal(result.universal, EPSILON * gradient_of(model, batch).sum(dim=0).sign())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eot": 0}, "eot=0"),
        ({"start": "middle"}, "uniform, sign"),
        ({"step_scale": 0}, "step_scale=0"),
        ({"start_scale": 2}, "start_scale=2"),
        ({"transform": "flip"}, "InputTransform"),
        ({"universal": True, "stop_on_success": True}, "stop_on_success=False"),
    ],
)
def test_options(options, words):
    with pytest.raises(OptionError) as caught:
        GradientSearch(**options)
    assert words in str(caught.value)


def test_rows_may_be_repeated(kit):
    """Several candidates of one sample in one call, for tasks that cannot narrow what they prepared."""
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, size=8)
    task = kit.LabelTask()
    rows = torch.tensor([2, 0, 2, 3, 0, 2])
    pixels = batch.pixels[rows] + 0.01 * torch.arange(6).view(6, 1, 1, 1)
    bound = TaskObjective(task).bind(model, batch).select(rows)
    with torch.no_grad():
        features = model.image_features(pixels)
        expected = task.loss(model, features, task.prepare(model, batch.pairs)[rows])
        assert torch.allclose(bound(model, pixels, features), expected)
    assert TaskRows(task, None, 4, rows)._groups[1].tolist() == [2, 4]


def test_pgd_is_what_it_was(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 3, size=8)
    assert "universal" not in pgd(-Consistency()).describe()
    assert pgd(-Consistency())(model, batch).universal is None
