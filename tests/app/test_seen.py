"""What models saw before and after an attack, and the likeliest captions before and after verification."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from cmai_core.data import load_dataset
from cmai_core.data.tabletop.truth import TRUTH
from cmai_core.errors import DataError
from cmai_core.lab.cached_dataset import KeptItems
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import Answer, PairPrediction
from cmai_core.lab.run import run_attack
from cmai_core.lab.seen import Bar, Fact, seen
from cmai_core.lab.shortlist import BEST, shortlists
from cmai_core.models import load_model, new_model, save_local_dir
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.tasks import get_task
from cmai_core.tasks.verified import VerifiedAnswers


def shown(result, **answers):
    one = result.predictions["A"]
    return dataclasses.replace(result, predictions={"A": dataclasses.replace(one, answers=answers)})


def test_an_answer_with_its_likeliest_options(result):
    before = Answer("yellow ring", True, 0.8, (("yellow ring", 0.8, True), ("red cube", 0.1, False)))
    after = Answer("white cone", False, 0.6, (("white cone", 0.6, False), ("yellow ring", 0.3, True)))
    change = seen(shown(result, **{"zero-shot": (before, after)}))["A"]["zero-shot"]
    assert change.headline == "yellow ring → white cone" and change.changed
    assert change.right == (True, False) and change.confidence == (0.8, 0.6)
    assert change.bars == (
        Bar("white cone", False, None, 0.6),
        Bar("yellow ring", True, 0.8, 0.3),
        Bar("red cube", False, 0.1, None),
    )
    same = seen(shown(result, **{"vqa": (before, before)}))["A"]["vqa"]
    assert same.headline == "yellow ring" and not same.changed


def test_facts_of_a_caption_that_changed_with_their_truth(result):
    pair = load_dataset("tabletop", split="test", limit=1)[0]
    true = pair.captions[0]
    facts = TRUTH.facts(true)
    answers = (Answer(true, True, 0.5), Answer("a purple cone left of a small thing", False, 0.4))
    change = seen(shown(result, captioning=answers), pair)["A"]["captioning"]
    assert {fact.text for fact in change.gone} == set(facts) - {"a small thing"}
    assert all(fact.true for fact in change.gone)
    assert Fact("a purple cone", TRUTH.holds("a purple cone", pair.scene)) in change.new
    assert change.bars == () and json.dumps(change.to_dict())
    assert seen(shown(result, captioning=answers))["A"]["captioning"].gone == ()
    unreadable = (answers[0], Answer("colourless green ideas", False, 0.4))
    assert seen(shown(result, captioning=unreadable), pair)["A"]["captioning"].new == ()
    no_scene = dataclasses.replace(pair, scene=None)
    assert seen(shown(result, captioning=answers), no_scene)["A"]["captioning"].new == ()


def test_who_was_shown_no_attack_is_left_out(result):
    one = result.predictions["A"]
    never = PairPrediction("B", "b", "b", "h", "tabletop", "A", 0.5, None)
    assert set(seen(dataclasses.replace(result, predictions={"A": one, "B": never}))) == {"A"}


def test_every_fact_of_a_true_caption_is_true():
    items = load_dataset("tabletop", split="test", limit=40)
    for pair in (items[k] for k in range(len(items))):
        for caption in pair.captions:
            facts = TRUTH.facts(caption)
            assert facts and all(TRUTH.holds(fact, pair.scene) for fact in facts), caption
    assert TRUTH.facts("a big shiny ball right of a can") == (
        "a cylinder",
        "a large shiny sphere",
        "a cylinder left of a large shiny sphere",
    )
    assert TRUTH.facts("one thing: a cube") == ("a cube", "there is exactly one thing")
    assert TRUTH.facts("there are exactly two red cubes") == ("there are exactly two red cubes",)
    assert TRUTH.facts("what is this") is None


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """An attack on a random model without consistency heads and on one with."""
    folder, models = tmp_path_factory.mktemp("listed"), {}
    for role, seed in (("A", 2), ("B", 3)):
        model = new_model("tabletop", torch.Generator().manual_seed(seed))
        if role == "B":
            model.heads = ConsistencyHeads(model.head_sizes(8), torch.Generator().manual_seed(seed))
        save_local_dir(model, folder / role)
        models[role] = load_model(f"local-dir:{folder / role}", device="cpu")
    items = KeptItems(load_dataset("tabletop", split="test", limit=60))
    experiment = Experiment(pair=items[0].id, caption=items[0].captions[0], steps=3, objective="margin")
    return run_attack(experiment, items[0], models, dataset=items), models, items


def test_the_order_is_the_cosines_where_nothing_verifies(attacked):
    result, models, items = attacked
    found = shortlists(result, models, items[0], items)["A"]
    assert found.note and not found.rule and not found.of_card
    for side, answer in zip((found.clean, found.attacked), result.predictions["A"].answers["retrieval"], strict=True):
        assert [e.rank for e in side] == [e.verified_rank for e in side] == list(range(1, BEST + 1))
        assert side[0].text == answer.text and side[0].true == answer.correct
        assert all(e.log_v is None and e.words is None for e in side)
        assert [e.cosine for e in side] == sorted((e.cosine for e in side), reverse=True)


def test_verified_ranks_are_those_of_a_system_that_answers_so(attacked):
    from cmai_core.defenses.system import System
    from cmai_core.evaluation.runs.predictor import encode

    result, models, items = attacked
    found = shortlists(result, models, items[0], items)["B"]
    rule = VerifiedAnswers()
    assert found.rule == rule.describe() and not found.of_card and not found.note
    system, task, example = System(models["B"], answering=rule), get_task("retrieval"), result.example_for("B")
    for side, picture in ((found.clean, example.clean), (found.attacked, example.adversarial)):
        with torch.no_grad():
            prepared = task.prepare(system, [items[0]], items)
            values = task.logits(system, encode(models["B"], [picture]).features, prepared)[0]
        order = [prepared.options[k] for k in values.argsort(descending=True)[:BEST].tolist()]
        assert [e.text for e in side if e.verified_rank <= BEST] == order
        verified = [e for e in side if e.log_v is not None]
        assert len(verified) == rule.shortlist and {e.rank for e in verified} == set(range(1, rule.shortlist + 1))
        for e in verified:
            score = e.cosine * float(models["B"].logit_scale)
            assert e.fused == pytest.approx(score + e.log_v, abs=1e-3) and e.words > 0 and e.log_v <= 0
            assert e.true == bool(TRUTH.holds(e.text, items[0].scene))


def test_a_rule_in_the_card_is_gone_by(attacked, monkeypatch):
    result, models, items = attacked
    rule = VerifiedAnswers(shortlist=4, temperature=2.0, gamma=0.5, kappa=1.0)
    entry = {"model": models["B"].hash, "tasks": {"retrieval": {"rule": rule.describe()}}}
    monkeypatch.setitem(models["B"].card, "answering", entry)
    found = shortlists(result, models, items[0], items)["B"]
    assert found.of_card and found.rule == rule.describe()
    for e in (entry for entry in found.attacked if entry.log_v is not None):
        score = e.cosine * float(models["B"].logit_scale)
        assert e.rank <= 4 and e.fused == pytest.approx(score / 2 + 0.5 * e.log_v / e.words, abs=1e-3)


def test_who_moves_where(attacked):
    result, models, items = attacked
    found = shortlists(result, models, items[0], items)["B"]
    moves = {move.text: move for move in found.moves}
    assert set(moves) == {e.text for e in (*found.clean, *found.attacked)} and len(moves) == len(found.moves)
    for place, side in enumerate((found.clean, found.attacked)):
        for entry in side:
            move = moves[entry.text]
            assert (move.ranks[place], move.verified_ranks[place]) == (entry.rank, entry.verified_rank)
    assert all(1 <= rank <= 60 for move in found.moves for rank in (*move.ranks, *move.verified_ranks))
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_edited_sentence_stands_on_its_own_side_only(attacked):
    _, models, items = attacked
    experiment = Experiment(
        pair=items[0].id, caption=items[0].captions[0], norm="text", recipe="char", objective="consistency", b=""
    )
    result = run_attack(experiment, items[0], {"A": models["A"]}, dataset=items)
    edited = result.examples["A"].caption
    found = shortlists(result, models, items[0], items)["A"]
    move = next((move for move in found.moves if move.text == edited), None)
    assert edited and (move is None or move.ranks[0] is None)


def test_another_model_is_not_asked_in_its_place(attacked):
    result, models, items = attacked
    with pytest.raises(DataError):
        shortlists(result, {**models, "A": models["B"]}, items[0], items)
