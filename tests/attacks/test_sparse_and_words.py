"""JSMA (the best pair by exhaustive search, its budget); the typographic attack (what is drawn, where, how often)."""

import itertools

import numpy as np
import pytest
import torch

from cmai_core.attacks import Attack, Consistency, ThreatModel
from cmai_core.attacks.objectives.classes import Margin, Misclassified
from cmai_core.attacks.searches.jsma import JSMA, Saliency
from cmai_core.attacks.searches.typographic import Typographic, letters, words_of
from cmai_core.errors import OptionError


def jsma(kit, epsilon, **options):
    task = kit.ScoredTask()
    search = JSMA(**options)
    return Attack(
        threat=ThreatModel("l0", epsilon), objective=Saliency(task), search=search, success=Misclassified(task)
    )


@pytest.mark.parametrize("direction", ["up", "down", "both"])
@pytest.mark.parametrize("budget", [1, 4])
def test_jsma_takes_the_best_of_all_pairs(kit, direction, budget):
    model = kit.linear_model(size=3, scale=0.05)
    batch = kit.make_batch(model, 4, size=3)
    result = jsma(kit, budget, direction=direction, steps=1, top=27 * 2)(model, batch)
    weight = model.tower[1].weight.detach()
    target = model(batch.pixels).topk(2, dim=1).indices[:, 1]
    for row in range(4):
        alpha = weight[target[row]].tolist()
        beta = (weight.sum(dim=0) - weight[target[row]]).tolist()
        flat, found = batch.pixels[row].flatten(), []
        values = flat.tolist()
        signs = {"up": (1,), "down": (-1,), "both": (1, -1)}[direction]
        for (p, s), (q, t) in itertools.combinations(list(itertools.product(range(27), signs)), 2):
            a, b = s * alpha[p] + t * alpha[q], s * beta[p] + t * beta[q]
            free = all(0 <= values[v] + 1e-9 * w <= 1 for v, w in ((p, s), (q, t)))
            if p != q and free and a > 0 and b < 0 and len({p % 9, q % 9}) <= budget:
                found.append((-a * b, (p, s), (q, t)))
        expected = flat.clone()
        for value, sign in max(found)[1:]:
            expected[value] = (flat[value] + sign).clamp(0, 1)
        assert (
            torch.allclose(result.pixels[row].flatten(), expected)
            or result.objective[row] <= result.clean_objective[row]
        )


@pytest.mark.parametrize("options", [{}, {"direction": "both"}, {"theta": 0.3, "top": 16}])
def test_jsma_keeps_its_budget_and_the_promises(kit, options):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 6, size=8)
    budget = [0, 1, 2, 5, 9, 64]
    result = jsma(kit, budget, steps=8, **options)(model, batch)
    assert (result.l0 <= torch.tensor(budget)).all() and result.pixels.min() >= 0 and result.pixels.max() <= 1
    assert result.success.any() and not result.success[0]
    assert (result.objective >= result.clean_objective).all() and (result.backwards % 2 == 0).all()
    wrong = model(result.pixels).argmax(dim=1) != torch.tensor([int(p.label) for p in batch.pairs])
    assert torch.equal(wrong, result.success)
    for rows in ([4, 1], [5], [2, 0]):
        part = jsma(kit, [budget[i] for i in rows], steps=8, **options)(model, kit.take(batch, rows))
        assert torch.allclose(part.pixels, result.pixels[rows], atol=1e-9)
    assert "→rank 1" in Saliency(kit.ScoredTask()).describe()
    with pytest.raises(OptionError, match="l0"):
        search = JSMA()
        Attack(threat=ThreatModel(), objective=Saliency(kit.ScoredTask()), search=search)(model, batch)
    with pytest.raises(OptionError, match="Saliency"):
        Attack(threat=ThreatModel("l0", 3), objective=Margin(kit.ScoredTask()), search=JSMA())(model, batch)


# Typographic


def test_letters_are_drawn_and_scale():
    small, large = letters("cube", 10), letters("cube", 30)
    assert small.min() == 0 and small.max() > 0.5 and 2.2 < large.shape[1] / small.shape[1] < 3.8
    assert (small[0] == 0).all() or small.shape[0] < 14
    assert not np.array_equal(letters("cube", 20), letters("cone", 20))
    assert words_of(["A red cube.", "a blue cube!"]) == ("a", "red", "cube", "blue")


def build(search, threat, objective=None):
    return Attack(threat=threat, objective=objective or -Consistency(), search=search)


def test_typographic_writes_within_the_patch_and_counts(kit):
    model = kit.linear_model(size=32)
    batch = kit.make_batch(model, 3, size=32)
    search = Typographic(words=("red", "cube"), queries=12, stop_on_success=False, largest=0.4)
    for threat in (ThreatModel("patch", 1.0), ThreatModel("patch", 0.3, place=(1.0, 0.0)), ThreatModel("linf", 0.1)):
        result = build(search, threat)(model, batch, seed=1)
        region = threat.around(batch.pixels)
        assert torch.equal(region.project(result.pixels), result.pixels)
        assert result.forwards.tolist() == [12] * 3 and result.backwards.sum() == 0
        assert (result.l0 > 0).all() and (result.objective > result.clean_objective).all()
        assert torch.allclose(result.objective, result.objective_trace[1:].amax(dim=0))
        for rows in ([2, 0], [1]):
            part = build(search, threat)(model, kit.take(batch, rows), seed=1)
            assert torch.allclose(part.pixels, result.pixels[rows])
    early = Typographic(words=("red", "cube"), queries=12)
    stopped = build(early, ThreatModel("patch", 1.0))(model, batch, seed=1)
    assert (stopped.forwards <= 12).all() and int(stopped.forwards.sum()) < 36 and stopped.success.all()


def test_typographic_finds_the_word_that_works(kit):
    """A model that looks for one word's shape: the search chooses that word."""
    pattern = torch.from_numpy(letters("red", 10)).double()

    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            kernel = (pattern - pattern.mean()) / (pattern - pattern.mean()).norm()
            self.kernel = torch.nn.Parameter(kernel.expand(1, 3, *kernel.shape) / 3)

        def forward(self, x):
            seen = torch.nn.functional.conv2d(x, self.kernel).flatten(1).amax(dim=1)
            return torch.stack([torch.full_like(seen, 2.5), seen, seen * 0, seen * 0, seen * 0], dim=1)

    model = kit.FakeVLM(Reader())
    batch = kit.make_batch(model, 2, size=32)
    batch.pixels.mul_(0.1).add_(0.4)
    values = {}
    for words in (("red",), ("oooo",)):
        search = Typographic(words=words, queries=40, smallest=0.3, largest=0.33, stop_on_success=False)
        values[words] = build(search, ThreatModel("patch", 1.0), Margin(kit.ScoredTask(), target=1))(model, batch)
    assert (values[("red",)].objective > values[("oooo",)].objective + 0.2).all()
    both = Typographic(words=("oooo", "red"), queries=80, smallest=0.3, largest=0.33, stop_on_success=False)
    result = build(both, ThreatModel("patch", 1.0), Margin(kit.ScoredTask(), target=1))(model, batch)
    assert (result.objective > values[("oooo",)].objective + 0.2).all()


def test_typographic_options():
    for options in (
        {"words": ()},
        {"words": "red"},
        {"words": ("a",), "largest": 0.05},
        {"words": ("a",), "queries": 0},
    ):
        with pytest.raises(OptionError):
            Typographic(**options)
