"""Square (exact query counts, near the linear optimum, as good as the published code) and the cascade of attacks."""

import pytest
import torch

from cmai_core.attacks import Attack, Consistency, GradientSearch, ThreatModel
from cmai_core.attacks.objectives.classes import DLR, ClassLoss, Margin, Misclassified
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.searches.deepfool import DeepFool
from cmai_core.attacks.searches.ensemble import Cascade, Member
from cmai_core.attacks.searches.external import External
from cmai_core.attacks.searches.square import HALVINGS, Square, _wave
from cmai_core.errors import OptionError


def attack(kit, search, norm="linf", epsilon=8 / 255, objective=None):
    task = kit.ScoredTask()
    parts = (
        {"objective": Margin(task), "success": Misclassified(task)} if objective is None else {"objective": objective}
    )
    return Attack(threat=ThreatModel(norm, epsilon), search=search, **parts)


def watched(model):
    sizes = []
    original = model.image_features

    def count(pixels):
        sizes.append(len(pixels))
        return original(pixels)

    model.image_features = count
    return sizes


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", 0.5), ("patch", 0.25)])
def test_square_comes_near_the_linear_optimum_within_its_budget(kit, norm, epsilon):
    model = kit.linear_model(size=5)
    batch = kit.make_batch(model, 4, size=5)
    batch.pixels.mul_(0.5).add_(0.25)
    texts = model.encode_text(list(batch.texts))
    gradient = -(texts @ model.tower[1].weight).view_as(batch.pixels).detach()
    search = Square(queries=400, share=0.5, stop_on_success=False)
    result = attack(kit, search, norm, epsilon, -Consistency())(model, batch, seed=1)
    if norm == "linf":
        most = epsilon * gradient.abs().flatten(1).sum(dim=1)
    elif norm == "l2":
        most = epsilon * gradient.flatten(1).norm(dim=1)
    else:
        room = torch.where(gradient > 0, 1 - batch.pixels, batch.pixels) * gradient.abs()
        most = (room * ThreatModel(norm, epsilon).masks(batch.pixels)).flatten(1).sum(dim=1)
    share = (result.objective - result.clean_objective) / most
    # A window of at least 3×3 cannot follow independent gradients of single pixels: hence the lower bar in l2.
    assert (share > {"linf": 0.9, "l2": 0.4, "patch": 0.8}[norm]).all() and (share < 1 + 1e-9).all()
    assert result.forwards.tolist() == [400] * 4 and result.backwards.tolist() == [0] * 4
    kept = result.objective_trace
    assert (kept[1:] >= kept[:-1]).all() and torch.allclose(kept[-1], result.objective)


def test_square_counts_its_queries_exactly(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 8, size=8)
    sizes = watched(model)
    result = attack(kit, Square(queries=60, share=0.3), epsilon=12 / 255)(model, batch, seed=0)
    assert sum(sizes[1:-2]) == int(result.forwards.sum())  # but for the clean and the two final scorings
    assert 0 < int(result.success.sum()) < 8 and (result.forwards[~result.success] == 60).all()
    assert (result.forwards[result.success] < 60).any()
    assert int((~result.objective_trace.isnan()).sum()) == int(result.forwards.sum())


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", 0.4), ("patch", 0.1)])
def test_square_keeps_the_promises(kit, norm, epsilon):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 6, size=8)
    make = attack(kit, Square(queries=80, share=0.3), norm, epsilon)
    state = torch.get_rng_state()
    result = make(model, batch, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert result.pixels.min() >= 0 and result.pixels.max() <= 1
    if norm == "patch":
        mask = ThreatModel(norm, epsilon).masks(batch.pixels)
        assert torch.equal(torch.where(mask, batch.pixels, result.pixels), batch.pixels)
    else:
        assert (getattr(result, norm) <= epsilon + 1e-12).all()
    for rows in ([4, 0, 5], [2], [3, 1]):
        part = make(model, kit.take(batch, rows), seed=5)
        assert torch.allclose(part.pixels, result.pixels[rows], atol=1e-9)
        assert torch.equal(part.forwards, result.forwards[rows])
    assert not torch.equal(make(model, batch, seed=6).pixels, result.pixels)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_square_is_as_strong_as_torchattacks(kit, norm):
    torchattacks = pytest.importorskip("torchattacks")
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 16, size=8)
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    epsilon = {"Linf": 16 / 255, "L2": 0.5}[norm]
    search = Square(queries=101, share=0.5, stop_on_success=False)
    ours = attack(kit, search, norm.lower(), epsilon)(model, batch).objective.mean()
    with torch.random.fork_rng():
        peer = torchattacks.Square(model, norm=norm, eps=epsilon, n_queries=100, p_init=0.5, loss="margin", seed=0)
        peer.init_hyperparam(batch.pixels)
        peer.margin_and_loss = lambda x, y: (torch.ones(len(x)), -margin(model, x, y))  # never stops, as ours
        torch.manual_seed(0)
        _, found = peer.attack_single_run(batch.pixels, labels)
    theirs, clean = margin(model, found, labels).mean(), margin(model, batch.pixels, labels).mean()
    assert ours - clean > 0.93 * (theirs - clean) > 0


def margin(model, pixels, labels):
    with torch.no_grad():
        scores = model(pixels)
    right = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    return scores.scatter(1, labels.unsqueeze(1), -torch.inf).amax(dim=1) - right


def test_the_wave_and_the_schedule():
    wave = _wave(7, torch.zeros(1, dtype=torch.float64))
    assert wave.norm().item() == pytest.approx(1) and (wave[:3] > 0).all() and (wave[3:] < 0).all()
    assert wave[1, 3] == wave[:3].max() and wave[5, 3] == wave[3:].min()
    search = Square(queries=10_000, share=0.8)
    assert [search.portion(i) for i in (0, 10, 11, 51, 8001)] == [0.8, 0.8, 0.4, 0.2, 0.8 / 2 ** len(HALVINGS)]
    assert Square(queries=100, share=0.8).portion(1) == 0.2 != Square(queries=100, share=0.8, rescale=False).portion(1)


# The cascade


def members(kit):
    task = kit.ScoredTask()
    return (
        Member(name="weak", search=GradientSearch(steps=1, random_start=False)),
        Member(name="apgd-ce", search=APGD(steps=5), objective=ClassLoss(task)),
        Member(name="apgd-dlr", search=APGD(steps=5), objective=DLR(task)),
        Member(name="square", search=Square(queries=40, share=0.3)),
    )


def test_an_ensemble_is_never_weaker_than_its_best_member(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 16, size=8)
    parts = members(kit)
    epsilon = 9 / 255
    whole = attack(kit, Cascade(members=parts), epsilon=epsilon)(model, batch, seed=3)
    alone = []
    for index, member in enumerate(parts):
        make = attack(kit, member.search, epsilon=epsilon)
        objective = member.objective or Margin(kit.ScoredTask())
        make = Attack(threat=make.threat, objective=objective, search=member.search, success=make.success)
        alone.append(make(model, batch, seed=Cascade.member_seed(3, index)))
    any_member = torch.stack([result.success for result in alone]).any(dim=0)
    assert torch.equal(whole.success, any_member)
    assert len({int(result.success.sum()) for result in alone} | {0, 16}) > 3  # members differ, none is trivial
    # A sample fooled by the first member, when rounded too, costs no more than the pass that tells.
    first = alone[0].success_8bit
    assert (whole.forwards[first] == alone[0].forwards[first] + 2).all() and whole.success_8bit[first].all()
    assert (whole.forwards[~whole.success] > 40).all() and whole.linf.max() <= epsilon + 1e-12
    rows = [9, 2, 13]
    part = attack(kit, Cascade(members=parts), epsilon=epsilon)(model, kit.take(batch, rows), seed=3)
    assert torch.allclose(part.pixels, whole.pixels[rows], atol=1e-9)


def test_the_order_of_members_does_not_change_who_is_fooled(kit):
    """Deterministic members: the union of successes is the same either way."""
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 12, size=8)
    parts = (Member(name="deepfool", search=DeepFool()), Member(name="pgd", search=GradientSearch(random_start=False)))
    results = [attack(kit, Cascade(members=p))(model, batch) for p in (parts, parts[::-1])]
    assert torch.equal(results[0].success, results[1].success) and results[0].success.any()


def test_progress_of_an_ensemble_covers_the_whole_batch(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 6, size=8)
    seen = []
    attack(kit, Cascade(members=members(kit)))(model, batch, progress=seen.append, progress_interval=0)
    shown = [m for m in seen if m.data]
    assert all(m.data["pixels"].shape == batch.pixels.shape for m in shown)
    assert all(m.data["objective"].shape[1] == 6 == m.data["consistency"].shape[1] for m in shown)
    assert [m.fraction for m in seen] == sorted(m.fraction for m in seen) and seen[-1].fraction == 1
    assert {m.stage for m in shown} >= {"weak (1 of 4)", "square (4 of 4)"}


def test_a_third_partys_attack_joins(kit):
    foolbox = pytest.importorskip("foolbox")
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 12, size=8)
    asked = []

    def theirs(model, batch):
        asked.append(batch.ids)
        labels = torch.tensor([int(pair.label) for pair in batch.pairs])
        wrapped = foolbox.PyTorchModel(model._model, bounds=(0, 1))
        return foolbox.attacks.LinfPGD(steps=20)(wrapped, batch.pixels, labels, epsilons=8 / 255)[1]

    weak = Member(name="weak", search=GradientSearch(steps=1, step_scale=0.3, random_start=False))
    both = Cascade(members=(weak, Member(name="theirs", search=External(name="theirs", function=theirs))))
    alone = attack(kit, weak.search, epsilon=8 / 255)(model, batch)
    result = attack(kit, both, epsilon=8 / 255)(model, batch)
    assert asked == [tuple(i for i, s in zip(batch.ids, alone.success.tolist(), strict=True) if not s)]
    assert result.success.sum() > alone.success.sum() and result.linf.max() <= 8 / 255 + 1e-12
    with pytest.raises(OptionError, match=r"\bint\b"):
        attack(kit, External(name="bad", function=lambda model, batch: 3))(model, batch)


def test_options(kit):
    for search in (
        lambda: Cascade(members=()),
        lambda: Member(name="a", search=3),
        lambda: External(name="a", function=1),
    ):
        with pytest.raises(OptionError, match=r"Accepted|members"):
            search()
    model = kit.linear_model()
    with pytest.raises(OptionError, match="linf, l2, patch"):
        attack(kit, Square(queries=5), "l0", 3)(model, kit.make_batch(model, 2))
