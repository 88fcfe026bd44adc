"""The combined detector: its views, what it sees, its gradient, what it is stored as, and how it is fitted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import small_clip

from cmai_core.attacks.adaptive_attack import accept_false
from cmai_core.attacks.objectives.detectors import Detector
from cmai_core.data import load_dataset
from cmai_core.defenses import Combination, CombinedDetector, ConsistencyDetector, Regime, System
from cmai_core.defenses.combined import COMBINED_KEY, combination_of
from cmai_core.defenses.evidence import Evidence
from cmai_core.defenses.views import NAMES, Views
from cmai_core.errors import DataError, ModelError, OptionError
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.evaluation.verification.combined import fit_detector, fit_logistic
from cmai_core.models import load_model
from cmai_core.tasks import get_task
from cmai_core.tasks.retrieval import Retrieval

COUNT = 4
TASK = Retrieval(16)


@pytest.fixture(scope="module")
def model():
    return load_model("tabletop-hard-negative", "cpu")


@pytest.fixture(scope="module")
def data():
    return load_dataset("tabletop", split="validation", limit=16)


@pytest.fixture(scope="module")
def batch(model, data):
    return make_batch(model, [data[k] for k in range(COUNT)], 1)


def combination(model, names, **values):
    """A detector whose weights are chosen by hand: all 1, unless others are given."""
    count = len(names)
    known = {"model": model.hash, "dataset": "tabletop/validation", "task": "retrieval", "scores": "answer"}
    known |= {"views": Views(), "shortlist": 4, "names": names, "mean": (0.0,) * count, "scale": (1.0,) * count}
    known |= {"weights": (1.0,) * count, "bias": 0.5, "thresholds": {"0.05": 0.0}, "epsilon": 4.0}
    return Combination(**{**known, "families": ("pgd",), "held_out": ("fgsm",), **values})


@pytest.fixture(scope="module")
def known(model):
    return combination(model, Evidence(TASK).names(model))


def seen(evidence, model, batch):
    with torch.no_grad():
        return evidence.bind(model, batch)(model, batch.pixels, model.image_features(batch.pixels))


def test_views_are_what_they_say():
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    views = Views(bits=2, shift=1 / 8)
    noise = views.noise(("a", "b"), x)
    found = dict(views.of(x, noise))
    assert tuple(found) == NAMES and all(view.shape == x.shape for view in found.values())
    assert len(found["squeezed"].unique()) == 4
    assert torch.equal(found["shifted"][..., 2:, 2:], x[..., :-2, :-2])
    inner = found["blurred"][0, 0, 5, 5]
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=x.dtype) / 16
    assert inner == pytest.approx(float((x[0, 0, 4:7, 4:7] * kernel).sum()))
    assert torch.equal(views.noise(("b",), x[1:])[0], noise[1])  # it belongs to the sample
    with pytest.raises(OptionError, match="bits"):
        Views(bits=9)


def test_rounding_passes_gradients_as_if_it_were_not_there():
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (_, squeezed), *_ = Views(bits=1).of(x, torch.zeros_like(x))
    assert torch.equal(torch.autograd.grad(squeezed.sum(), x)[0], torch.ones_like(x))


def test_columns_have_names_and_the_model_decides_which(model, data, batch):
    evidence = Evidence(TASK, data, shortlist=4)
    names, found = evidence.names(model), seen(evidence, model, batch)
    assert found.shape == (COUNT, len(names)) and found.isfinite().all()
    assert {"S_c", "log V", "agreement", "V gap", "likelihood"} < set(names)
    column = dict(zip(names, found.unbind(1), strict=True))
    assert (column["V gap"] <= 0).all() and (column["agreement"].abs() <= 1 + 1e-5).all()
    assert (column["likelihood"] < 0).all()
    bare = small_clip()
    assert not any("V" in name or name == "likelihood" for name in evidence.names(bare))


def test_the_text_is_the_given_one_or_the_answers(model, data, batch):
    false = replace(batch, texts=("A green torus and nothing else.",) * COUNT)
    given, answer = (Evidence(TASK, data, scores=scores) for scores in ("given", "answer"))
    assert torch.equal(seen(answer, model, batch), seen(answer, model, false))
    log_v = [seen(given, model, one)[:, given.names(model).index("log V")] for one in (batch, false)]
    assert (log_v[0] > log_v[1]).all()  # its own captions are likelier than a false one
    with pytest.raises(OptionError, match="no text"):
        given.bind(model, replace(batch, texts=(), image_of_text=()))
    with pytest.raises(OptionError, match="options"):
        Evidence(get_task("captioning"))


def test_rows_are_scored_by_themselves(model, data, batch):
    evidence = Evidence(TASK, data, scores="given").bind(model, batch)
    rows = torch.tensor([2, 0, 2])
    with torch.no_grad():
        features = model.image_features(batch.pixels)
        whole = evidence(model, batch.pixels, features)
        some = evidence.select(rows)(model, batch.pixels[rows], features[rows])
    torch.testing.assert_close(some, whole[rows], atol=1e-4, rtol=1e-4)


def test_the_gradient_is_that_of_finite_differences(model, data, batch):
    """Without the squeezed view, whose gradient passes rounding by design, and the choice of texts, which is held."""
    names = Evidence(TASK).names(model)
    weights = tuple(0.0 if "squeezed" in name or "spread" in name else 1.0 for name in names)
    score = CombinedDetector(combination(model, names, weights=weights, scores="given"), TASK, data).consistency
    bound = score.bind(model, batch)
    x = batch.pixels.clone().requires_grad_()
    gradient = torch.autograd.grad(bound(model, x, model.image_features(x)).sum(), x)[0]
    unit = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    step = 0.02
    with torch.no_grad():
        up, down = (
            bound(model, batch.pixels + s * unit, model.image_features(batch.pixels + s * unit)) for s in (step, -step)
        )
    slope = (up - down) / (2 * step)
    torch.testing.assert_close(slope, (gradient * unit).flatten(1).sum(dim=1), rtol=0.1, atol=0.02)


def test_an_attacker_climbs_it(model, data, batch, known):
    detector = CombinedDetector(known, TASK, data)
    assert isinstance(detector, Detector)
    system = System(model, detector=replace(detector, combination=replace(known, thresholds={"0.05": 50.0})))
    before = system.respond(TASK, batch, dataset=data)
    assert before.rejected.all()
    result = accept_false(epsilon=4 / 255, steps=2)(system, batch, seed=0)
    assert (result.objective > result.clean_objective).all()
    after = system.respond(TASK, replace(batch, pixels=result.pixels), dataset=data)
    assert (after.scores > before.scores).all()


def test_values_without_gradients_stay_so(model, data, batch, known):
    system = System(model, detector=CombinedDetector(known, TASK, data)).view("scores")
    sampled = system.for_samples(batch, 0)
    x = batch.pixels.clone().requires_grad_()
    value = system.detector.consistency.bind(system, batch)(sampled, x, sampled.image_features(x))
    assert not value.requires_grad


def test_under_a_pathway_views_are_those_before_it(model, data, batch, known):
    """A score decides about the pathway, so it cannot look through it."""
    detector = CombinedDetector(replace(known, thresholds={"0.05": 1e5}), TASK, data)
    plain = System(model, detector=detector).respond(TASK, batch, dataset=data)
    pathway = Regime(load_model("tabletop", "cpu"))
    through = System(model, detector=detector, policy="robust pathway", pathway=pathway)
    response = through.respond(TASK, batch, dataset=data)
    assert response.flagged.all() and torch.allclose(response.scores, plain.scores, atol=1e-4)


def test_it_is_stored_as_plain_numbers(model, known):
    document = json.loads(json.dumps(known.to_dict()))
    assert Combination.from_dict(document) == known
    carded = load_model("tabletop-hard-negative", "cpu")
    carded.card = {**carded.card, COMBINED_KEY: document}
    assert combination_of(carded) == known and combination_of(model) is None
    carded.card[COMBINED_KEY] = {**document, "model": "another"}
    with pytest.raises(ModelError, match="other weights"):
        combination_of(carded)


@pytest.mark.parametrize(
    "strange",
    [
        {"weights": [1.0]},
        {"weights": "all"},
        {"bias": float("nan")},
        {"bias": 1e300},
        {"scale": 0.0},
        {"mean": True},
        {"names": ["S_c", "S_c"]},
        {"views": {"bits": 5, "kernel": "os.system"}},
        {"views": {"bits": 64}},
        {"views": None},
        {"thresholds": {}},
        {"thresholds": {"often": 0.0}},
        {"thresholds": {"0.05": "low"}},
        {"shortlist": 1},
        {"scores": "both"},
        {"epsilon": 0},
        {"held_out": ["pgd"]},
        {"pickle": "…"},
        {"model": None},
    ],
    ids=str,
)
def test_strange_stored_values_are_refused(known, strange):
    document = known.to_dict()
    for name, value in strange.items():
        wanted = isinstance(document.get(name), list) and isinstance(value, (bool, float))
        document[name] = [value] * len(document[name]) if wanted else value
    with pytest.raises(DataError, match="no combined detector"):
        Combination.from_dict(document)


def test_it_belongs_to_a_task_a_rate_and_a_kind_of_model(model, data, batch, known):
    with pytest.raises(OptionError, match="fitted for"):
        CombinedDetector(known, get_task("zero-shot"), data)
    with pytest.raises(OptionError, match="rate"):
        CombinedDetector(known, TASK, data, fpr=0.2)
    bare = small_clip()
    own = make_batch(bare, [data[0], data[1]], 1)
    with pytest.raises(OptionError, match="other parts"):
        CombinedDetector(known, TASK, data).consistency.bind(bare, own)


# Fitting


def test_a_planted_signal_is_found_and_noise_is_not(known):
    rng = np.random.default_rng(0)
    clean, bad = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    bad[:, 1] -= 3
    fitted = fit_logistic(clean, {"one": bad[:150], "another": bad[150:]})
    weights = np.abs(np.array(fitted["weights"]))
    assert fitted["weights"][1] > 0 and weights[1] > 5 * weights[[0, 2]].max()
    values = {**fitted, "names": ("a", "b", "c")}
    odds = replace(known, **values).log_odds(torch.from_numpy(np.concatenate([clean, bad])))
    assert ((odds[:200] > 0).float().mean() + (odds[200:] < 0).float().mean()) / 2 > 0.85


def test_families_weigh_the_same(known):
    """A family of few successes counts as much as one of many."""
    rng = np.random.default_rng(1)
    clean = rng.normal(size=(300, 2))
    many, few = rng.normal(size=(300, 2)) - [3, 0], rng.normal(size=(12, 2)) - [0, 3]
    weights = fit_logistic(clean, {"many": many, "few": few})["weights"]
    assert weights[1] > 0.4 * weights[0]


def test_too_few_or_strange_pictures_are_refused():
    rows = np.zeros((20, 2))
    with pytest.raises(DataError, match="too few"):
        fit_logistic(rows, {"pgd": rows[:3]})
    with pytest.raises(DataError, match="finite"):
        fit_logistic(rows, {"pgd": np.full((20, 2), np.nan)})


def test_families_held_out_are_reported_and_not_fitted_on():
    """The undefended model at a large ε: every attack succeeds, so the counts are known."""
    model, pairs = load_model("tabletop", "cpu"), load_dataset("tabletop", split="validation", limit=20)
    families, options = ("fgsm", "pgd:steps=1", "fgsm:objective=embedding"), {"epsilon": 16, "fprs": (0.25,)}
    found = fit_detector(
        model, pairs, Retrieval(20), families=families, held_out=families[2:], aware=0, shortlist=3, **options
    )
    assert found.families == families[:2] and found.held_out == families[2:]
    report = {entry["family"]: entry for entry in found.figures["families"]}
    assert set(report) == set(families) and [report[f]["held_out"] for f in families] == [False, False, True]
    assert set(found.figures["fitted"]) == {"clean", *families[:2]} and found.figures["fitted"]["clean"] == 10
    for entry in report.values():
        assert entry["clean"] == 10 and entry["successes"] <= 16
        assert entry["auroc"]["low"] <= entry["auroc"]["value"] <= entry["auroc"]["high"]
    half, full = found.figures["half"], found.figures["full"]
    assert half["total"] == full["total"] == 20 and half["hits"] >= full["hits"]
    with pytest.raises(OptionError, match="no family"):
        fit_detector(model, pairs, TASK, families=families, held_out=("apgd",))
    with pytest.raises(OptionError, match="Every family"):
        fit_detector(model, pairs, TASK, families=families, held_out=families)


def test_a_detector_of_s_c_stands_beside_it(model, data, batch, known):
    """Both are detectors, so a system takes either, or both at once."""
    from cmai_core.defenses import AnyDetector

    both = AnyDetector((ConsistencyDetector(-1.0), CombinedDetector(known, TASK, data)))
    response = System(model, detector=both).respond(TASK, batch, dataset=data)
    assert response.scores.shape == (COUNT,)
