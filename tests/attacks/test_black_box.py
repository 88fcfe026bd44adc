"""NES, SPSA, genetic and HopSkipJump: known optima and distances, exact query counts, and the promises."""

import pytest
import torch

from cmai_core.attacks import Attack, Consistency, ThreatModel
from cmai_core.attacks.objectives.classes import Margin, Misclassified
from cmai_core.attacks.searches.genetic import Genetic
from cmai_core.attacks.searches.hopskipjump import HopSkipJump
from cmai_core.attacks.searches.score_gradient import ScoreGradient
from cmai_core.errors import OptionError

EPSILON = 8 / 255
NES = ScoreGradient(queries=84, samples=12)
SPSA = ScoreGradient(queries=62, samples=20, directions="rademacher", update="adam", sigma=0.01, step_size=0.02)


def attack(kit, search, norm="linf", epsilon=EPSILON, objective=None):
    task = kit.ScoredTask()
    parts = {"objective": objective or Margin(task)}
    if objective is None:
        parts["success"] = Misclassified(task)
    return Attack(threat=ThreatModel(norm, epsilon), search=search, **parts)


def watched(model):
    sizes = []
    original = model.image_features

    def count(pixels):
        assert pixels.min() >= 0 and pixels.max() <= 1
        sizes.append(len(pixels))
        return original(pixels)

    model.image_features = count
    return sizes


@pytest.mark.parametrize(
    ("search", "share"),
    [
        (ScoreGradient(queries=800, samples=100, stop_on_success=False), 0.75),
        (ScoreGradient(queries=800, samples=100, directions="rademacher", update="adam", sigma=0.01, step_size=0.02,
                       stop_on_success=False), 0.85),
        (Genetic(queries=500, stop_on_success=False), 0.45),
    ],
)  # fmt: skip
def test_comes_near_the_linear_optimum(kit, search, share):
    model = kit.linear_model(size=4)
    batch = kit.make_batch(model, 3, size=4)
    batch.pixels.mul_(0.5).add_(0.25)
    gradient = (model.encode_text(list(batch.texts)) @ model.tower[1].weight).detach()
    result = attack(kit, search, objective=-Consistency())(model, batch, seed=1)
    reached = (result.objective - result.clean_objective) / (EPSILON * gradient.abs().sum(dim=1))
    assert (reached > share).all() and (reached <= 1 + 1e-9).all(), reached
    assert (result.forwards <= search.queries).all() and (result.forwards > 0.98 * search.queries).all()
    assert result.backwards.tolist() == [0] * 3


@pytest.mark.parametrize("search", [NES, SPSA, Genetic(queries=80), HopSkipJump(queries=160, first=10)])
def test_queries_are_counted_exactly_and_stay_within_the_budget(kit, search):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 6, size=8)
    sizes = watched(model)
    norm, epsilon = ("l2", 1.0) if isinstance(search, HopSkipJump) else ("linf", EPSILON)
    result = attack(kit, search, norm, epsilon)(model, batch, seed=0)
    assert sum(sizes[1:-2]) == int(result.forwards.sum())  # but for the clean and the two final scorings
    assert (result.forwards <= search.queries).all() and result.backwards.sum() == 0
    if norm == "linf":
        assert int(result.success.sum()) > 0 and result.linf.max() <= EPSILON + 1e-12
        assert (result.forwards[result.success] < result.forwards.max()).any() or result.success.all()


def test_the_plan_of_an_estimate_spends_the_budget():
    for queries in range(1, 60):
        for samples in (2, 3, 10):
            plan = ScoreGradient(queries=queries, samples=samples).plan()
            spent = 1 + sum(2 * pairs + 1 for pairs in plan)
            assert spent <= queries and queries - spent <= 2 and all(1 <= p <= samples // 2 for p in plan)


@pytest.mark.parametrize(
    ("search", "norm"),
    [(NES, "linf"), (NES, "l2"), (SPSA, "linf"), (Genetic(queries=51), "linf"), (Genetic(queries=51), "patch"),
     (HopSkipJump(queries=90, first=8, tries=20), "l2"), (HopSkipJump(queries=90, first=8, tries=20), "linf")],
)  # fmt: skip
def test_promises(kit, search, norm):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 5, size=8)
    epsilon = {"linf": 6 / 255, "l2": 0.4, "patch": 0.1}[norm]
    make = attack(kit, search, norm, epsilon)
    before, state = batch.pixels.clone(), torch.get_rng_state()
    result = make(model, batch, seed=5)
    assert torch.equal(batch.pixels, before) and torch.equal(torch.get_rng_state(), state)
    assert result.pixels.min() >= 0 and result.pixels.max() <= 1
    size = {"linf": result.linf, "l2": result.l2, "patch": result.l0 / 64}[norm]
    assert (size <= epsilon * (1 + 1e-9)).all()
    for rows in ([4, 0], [2]):
        part = make(model, kit.take(batch, rows), seed=5)
        assert torch.allclose(part.pixels, result.pixels[rows], atol=1e-9)
        assert torch.equal(part.forwards, result.forwards[rows])
    assert not torch.equal(make(model, batch, seed=6).pixels, result.pixels)


def test_nes_estimates_the_gradient(kit):
    """Agreement of the first step's direction with the true gradient grows with the number of samples."""
    model = kit.linear_model(size=4)
    batch = kit.make_batch(model, 4, size=4)
    batch.pixels.mul_(0.5).add_(0.25)
    gradient = -(model.encode_text(list(batch.texts)) @ model.tower[1].weight).detach()
    cosines = []
    for samples in (8, 1200):
        search = ScoreGradient(queries=samples + 2, samples=samples, stop_on_success=False)
        result = attack(kit, search, "l2", 0.5, -Consistency())(model, batch)
        step = (result.pixels - batch.pixels).flatten(1)
        cosines.append(float(torch.cosine_similarity(step, gradient, dim=1).mean()))
    assert cosines[0] < 0.6 and cosines[1] > 0.95


@pytest.mark.parametrize(("norm", "slack"), [("l2", 1.5), ("linf", 2.2)])
def test_hopskipjump_comes_near_the_boundary_by_decisions_alone(kit, norm, slack):
    model = kit.linear_model(size=4, scale=0.3)
    batch = kit.make_batch(model, 4, size=4)
    batch.pixels.mul_(0.4).add_(0.3)
    labels = model(batch.pixels).argmax(dim=1)
    pairs = tuple(
        type(p)(p.id, p.image, p.captions, label=str(int(k))) for p, k in zip(batch.pairs, labels, strict=True)
    )
    batch = type(batch)(batch.ids, batch.pixels, (), (), pairs)
    weight = model.tower[1].weight.detach()
    exact = []
    for row, label in enumerate(labels.tolist()):
        others = [k for k in range(kit.CLASSES) if k != label]
        normals = weight[others] - weight[label]
        dual = normals.norm(dim=1) if norm == "l2" else normals.abs().sum(dim=1)
        scores = model(batch.pixels)[row].detach()
        exact.append(((scores[label] - scores[others]) / dual).min())
    exact = torch.stack(exact)

    class Blind(Margin):
        """Scores that say nothing: the search must not use them."""

        def value(self, scores, true, false, target):
            return 0.0 * true

    task = kit.ScoredTask()
    threat, success = ThreatModel(norm, 1.0 if norm == "linf" else 100.0), Misclassified(task)
    search = HopSkipJump(queries=800, first=40)
    result = Attack(threat=threat, objective=Blind(task), search=search, success=success)(model, batch)
    ratio = result.minimum_norm / exact
    assert (ratio > 1 - 1e-6).all() and (ratio < slack).all(), ratio
    early = Attack(threat=threat, objective=Blind(task), search=HopSkipJump(queries=90, first=20), success=success)
    assert (early(model, batch).minimum_norm >= result.minimum_norm).all()
    model.tower[1].bias.data[labels[0]] += 1e6  # nothing can be found for this class
    lost = Attack(threat=threat, objective=Blind(task), search=search, success=success)(model, batch)
    assert lost.minimum_norm[0] == torch.inf and torch.equal(lost.pixels[0], batch.pixels[0])
    assert lost.forwards[0] == search.tries


def test_options():
    for kind, wrong, words in (
        (ScoreGradient, {"samples": 1}, "samples=1"),
        (ScoreGradient, {"directions": "any"}, "gaussian, rademacher"),
        (ScoreGradient, {"update": "sgd"}, "ascent, adam"),
        (Genetic, {"queries": 3}, "queries=3"),
        (HopSkipJump, {"gamma": 0}, "gamma=0"),
        (HopSkipJump, {"speed": 1}, "'speed'"),
    ):
        with pytest.raises(OptionError) as caught:
            kind(**wrong)
        assert words in str(caught.value)
