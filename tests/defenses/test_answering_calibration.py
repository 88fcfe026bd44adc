"""Fitting verified answering: T by likelihood, the rest by counting; what a card holds, and what it may not."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from small_models import small_coca

from cmai_core import cli
from cmai_core.data import load_dataset
from cmai_core.data.subset import Subset
from cmai_core.defenses.answering_calibration import AnsweringCalibration, store_answering
from cmai_core.defenses.system import System
from cmai_core.defenses.verified import VerifiedAnswers
from cmai_core.errors import DataError, ModelError, OptionError
from cmai_core.evaluation.verification.answering import (
    GAMMAS,
    KAPPAS,
    Numbers,
    calibrate_answering,
    fit_rule,
    fit_temperature,
    gather,
    task_rule,
    verifiable_tasks,
)
from cmai_core.models import load_model, save_local_dir
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.tasks import get_task

RULE = {"shortlist": 3, "temperature": 0.8, "gamma": 2.0, "kappa": 0.5}
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}


def numbers(seed: int, useful: float, count: int = 60, options: int = 8, read: int = 6) -> Numbers:
    """Random scores, with a verifier that knows the truth as far as `useful` says."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.zeros(count, options, dtype=torch.bool)
    right[torch.arange(count), torch.randint(options, (count,), generator=generator)] = True
    scores = 3 * torch.randn(count, options, generator=generator) + 3 * right
    shortlist = scores.topk(read, dim=1).indices
    log_v = -torch.rand(count, read, generator=generator) - useful * (~right.gather(1, shortlist))
    return Numbers(scores, right, shortlist, log_v, torch.randint(1, 9, (count, read), generator=generator))


def answered(known: Numbers, rule: VerifiedAnswers) -> int:
    """How many answers are right, one pair after another, in plain numbers."""
    found = 0
    for row in range(len(known)):
        best, value = -1, -math.inf
        for place, option in enumerate(known.shortlist[row, : rule.shortlist].tolist()):
            words = int(known.words[row, place])
            fused = float(known.scores[row, option]) / rule.temperature
            fused += rule.gamma * float(known.log_v[row, place]) / words**rule.kappa
            best, value = (option, fused) if fused > value else (best, value)
        found += bool(known.right[row, best])
    return found


def test_the_rule_is_the_best_of_the_grid_and_the_cheapest_of_those():
    known = numbers(0, useful=2.0)
    rule = fit_rule(known)
    assert rule.temperature == fit_temperature(known)
    order = list(itertools.product((2, 3, 5, 6), GAMMAS, KAPPAS))
    found = [
        answered(known, VerifiedAnswers(shortlist=k, temperature=rule.temperature, gamma=g, kappa=p))
        for k, g, p in order
    ]
    assert (rule.shortlist, rule.gamma, rule.kappa) == order[found.index(max(found))]
    assert known.correct(rule).sum() == max(found) > known.correct(None).sum()


def test_a_verifier_that_misleads_is_not_asked():
    known = numbers(1, useful=-50.0)
    assert fit_rule(known) is None
    found = task_rule(known, numbers(2, useful=-50.0))
    assert found.before == found.after and (found.gain.value, found.gain.low, found.gain.high) == (0, 0, 0)


def test_the_temperature_is_the_likeliest():
    known = numbers(3, useful=0.0, count=200)
    found = fit_temperature(known)

    def likelihood(temperature):
        return float((known.scores.double() / temperature).log_softmax(dim=1)[known.right].mean())

    assert all(likelihood(found) >= likelihood(found * f) for f in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))


@pytest.fixture(scope="module")
def pairs():
    return load_dataset("tabletop", split="validation", limit=12)


@pytest.fixture(scope="module")
def model():
    made = small_coca()
    made.heads = ConsistencyHeads(made.head_sizes(8), torch.Generator().manual_seed(4))
    return made


@pytest.mark.parametrize("name", ["retrieval", "zero-shot", "vqa", "text-to-image"])
def test_what_is_counted_is_what_a_system_answers(model, pairs, name):
    task = verifiable_tasks(model, pairs)[name].for_items(len(pairs))
    known = gather(model, task, pairs, most=4, size=5)
    for rule in (VerifiedAnswers(shortlist=3, temperature=0.7, gamma=3.0, kappa=1.0), None):
        system = System(model, answering=rule)
        whole = [pairs[k] for k in range(len(pairs))]
        with torch.no_grad():
            prepared = task.prepare(system, whole, pairs)
            features = system.image_features(system.preprocess([pair.image for pair in whole]))
            right = [bool(p.correct) for p in task.predict(system, features, prepared) if p.correct is not None]
        assert known.correct(rule).tolist() == right


def test_half_is_fitted_on_and_the_other_half_reported(model, pairs):
    found = calibrate_answering(model, pairs, ["zero-shot"]).tasks["zero-shot"]
    halves = [gather(model, get_task("zero-shot"), Subset(pairs, rows)) for rows in (range(6), range(6, 12))]
    assert found.rule == fit_rule(halves[0]) and found.fitted == len(halves[0])
    after = halves[1].correct(found.rule)
    assert found.after.n == len(halves[1]) and found.after.value == after.mean()
    assert found.gain.value == pytest.approx(np.mean(after * 1.0 - halves[1].correct(None)))


def test_what_cannot_be_fitted_is_refused(model, pairs):
    with pytest.raises(OptionError, match="heads"):
        calibrate_answering(small_coca(), pairs)
    with pytest.raises(OptionError, match="as it is"):
        calibrate_answering(System(model, answering=VerifiedAnswers()), pairs)
    with pytest.raises(OptionError, match="captioning"):
        calibrate_answering(model, pairs, ["captioning"])
    with pytest.raises(DataError, match="few"):
        calibrate_answering(model, load_dataset("tabletop", limit=3))


@pytest.fixture
def folder(model, tmp_path):
    return save_local_dir(model, tmp_path / "model", {"name": "m", "domain": "tabletop", "training": {"seed": 3}})


def test_the_command_prints_writes_and_stores(folder, tmp_path, capsys):
    spec, out = f"local-dir:{folder}", tmp_path / "answering.json"
    options = ["--tasks", "zero-shot", "vqa", "--limit", "12", "--store", "--quiet", "--device", "cpu"]
    assert cli.main(["answering", spec, *options, "--json", str(out)]) == 0
    printed, document = capsys.readouterr().out, json.loads(out.read_text())
    loaded = load_model(spec, device="cpu")
    expected = calibrate_answering(loaded, load_dataset("tabletop", split="validation", limit=12), ["zero-shot", "vqa"])
    assert AnsweringCalibration.from_dict(document["calibration"]) == expected
    assert VerifiedAnswers.of_card(loaded) == expected.rules and loaded.card["training"] == {"seed": 3}
    assert System(loaded, answering=VerifiedAnswers.of_card(loaded)).answering == expected.rules
    assert "zero-shot" in printed and "vqa" in printed


def card(model, **rule):
    entry = {"rule": RULE | rule, "fitted": 10, "before": FIGURE, "after": FIGURE, "gain": FIGURE}
    return {"model": model.hash, "dataset": "tabletop/validation", "tasks": {"vqa": entry}}


def test_a_card_round_trips(folder):
    loaded = load_model(f"local-dir:{folder}", device="cpu")
    assert VerifiedAnswers.of_card(loaded) == {}
    stored = AnsweringCalibration.from_dict(card(loaded))
    store_answering(stored, folder)
    again = load_model(f"local-dir:{folder}", device="cpu")
    assert again.card["answering"] == stored.to_dict()
    assert VerifiedAnswers.of_card(again) == {"vqa": VerifiedAnswers(**RULE)}
    with torch.no_grad():
        again.heads.log_scale.add_(1.0)
    with pytest.raises(ModelError, match="other weights"):
        VerifiedAnswers.of_card(again)


WRONG = [
    {"shortlist": 0},
    {"shortlist": 2.5},
    {"shortlist": True},
    {"shortlist": "all"},
    {"temperature": 0},
    {"temperature": 1e-9},
    {"temperature": 1e9},
    {"gamma": -1},
    {"gamma": 1e300},
    {"gamma": [1]},
    {"kappa": 1.5},
    {"kappa": None},
    {"exponent": 2},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_strangers_rule_is_checked(folder, wrong):
    """It is refused where the card is read, or where the rule is asked for; nothing but a ModelError comes of it."""
    path = folder / "card.json"
    loaded = load_model(f"local-dir:{folder}", device="cpu")
    path.write_text(json.dumps({"name": "m", "answering": card(loaded, **wrong)}))
    with pytest.raises(ModelError):
        VerifiedAnswers.of_card(load_model(f"local-dir:{folder}", device="cpu"))


@pytest.mark.parametrize(
    "wrong", [3, [], {"tasks": 1}, {"tasks": {"vqa": None}}, {"tasks": {"vqa": {"rule": 1}}}], ids=str
)
def test_a_card_of_another_shape_is_refused(folder, wrong):
    loaded = load_model(f"local-dir:{folder}", device="cpu")
    if isinstance(wrong, dict):
        wrong = card(loaded) | wrong
    (folder / "card.json").write_text(json.dumps({"name": "m", "answering": wrong}))
    if wrong == []:
        with pytest.raises(ModelError):
            load_model(f"local-dir:{folder}", device="cpu")
        return
    with pytest.raises(ModelError):
        VerifiedAnswers.of_card(load_model(f"local-dir:{folder}", device="cpu"))
