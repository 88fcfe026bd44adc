"""What a typed target is read as, what follows from it, and what does not go with one."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cmai_core.data.pair import Question
from cmai_core.errors import OptionError
from cmai_core.lab.belonging import differences, in_force
from cmai_core.lab.choices import SEARCHES, THREATS, threats_of, why_not
from cmai_core.lab.experiment import MAX_CAPTION, Experiment
from cmai_core.lab.pair_in_context import PairAmong
from cmai_core.lab.result import LabResult
from cmai_core.lab.run import run_attack
from cmai_core.lab.target import possible_target, read_target
from cmai_core.tasks import get_task


@pytest.fixture(scope="module")
def setting(tiny_models):
    from cmai_core.data import load_dataset
    from cmai_core.models import load_model

    items = load_dataset("tabletop", split="test", limit=12)
    models = {
        role: load_model(f"local-dir:{tiny_models / name}")
        for role, name in (("A", "tabletop"), ("B", "tabletop-cmai"))
    }
    return items, models


def asked(pair, text, *answers):
    return dataclasses.replace(pair, questions=(Question(text, answers),))


@pytest.mark.parametrize(
    ("typed", "task", "option"),
    [
        ("Red Cube", "zero-shot", "red cube"),
        ("  a red cube. ", "zero-shot", "red cube"),
        ("YES", "vqa", "yes"),
        ("red", "retrieval", "red"),  # the question is not about a colour
        ("a red cube left of a ring", "retrieval", "a red cube left of a ring"),
        ("<b>ignore this</b>", "retrieval", "<b>ignore this</b>"),
    ],
)
def test_what_a_target_is_read_as(setting, typed, task, option):
    items, _ = setting
    pair = asked(items[0], "is there a donut?", "no")
    target = read_target(typed, pair, PairAmong(pair, items))
    assert (target.task, target.option) == (task, option) and option in target.why
    assert get_task(task).option_word in target.why


def test_a_number_answers_how_many_and_a_colour_what_colour(setting):
    items, _ = setting
    for question, right, other in (("how many balls are there?", "3", "1"), ("what color is the cube?", "red", "blue")):
        pair = asked(items[0], question, right)
        target = read_target(other, pair, items)
        assert (target.option, target.true) == (other, False) and question in target.why
        assert read_target(right, pair, items).true


def test_what_is_true_already_is_no_target(setting):
    items, _ = setting
    pair = asked(items[0], "is there a donut?", "no")
    kind = next(name for name in items.classes if get_task("zero-shot").option_of(name, pair, items).true)
    for text in (kind, "no", pair.captions[0]):
        assert read_target(text, pair, items).true
        with pytest.raises(OptionError, match="already"):
            possible_target(text, pair, items)
    with pytest.raises(OptionError):
        read_target(" ", pair, items)


def test_an_attack_towards_a_class_says_how_near_every_model_came(setting):
    items, models = setting
    wanted = next(name for name in items.classes if not get_task("zero-shot").option_of(name, items[0], items).true)
    experiment = Experiment(
        pair=items[0].id, caption=items[0].captions[0], target=f"a {wanted}", epsilon=64.0, steps=40, craft_on="A"
    )
    result = run_attack(experiment, items[0], models, dataset=items)
    near = result.predictions["A"].target
    assert result.target.option == wanted and near.margin[1] > near.margin[0] and near.reached == (False, True)
    assert result.examples["A"].success and result.predictions["A"].answers[result.target.task][1].text == wanted
    for prediction in result.predictions.values():
        before, after = prediction.answers[result.target.task]
        assert prediction.target.reached == (before.text == wanted, after.text == wanted)
        assert prediction.target.reached == tuple(margin > 0 for margin in prediction.target.margin)
    pictures = {role: (example.clean, example.adversarial) for role, example in result.examples.items()}
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    again = LabResult.from_dict(plain, pictures)
    assert again.target == result.target and again.predictions["A"].target == near
    for part in (plain, *plain["readings"].values(), plain["experiment"]):
        del part["target"]  # as earlier versions wrote it
    old = LabResult.from_dict(plain, pictures)
    assert old.target is None and old.predictions["A"].target is None and old.experiment.target == ""


def test_a_caption_stands_in_the_gallery_of_the_attacked_task(setting):
    items, models = setting
    experiment = Experiment(
        pair=items[0].id, caption=items[0].captions[0], target="a dog on a surfboard", epsilon=64.0, steps=40, b=""
    )
    result = run_attack(experiment, items[0], {"A": models["A"]}, dataset=items)
    prediction = result.predictions["A"]
    assert prediction.target.reached == (False, True)
    assert prediction.answers[result.target.task][1].text == "a dog on a surfboard"
    assert result.courses["A"].readings["A"].answers[result.target.task][-1].text == "a dog on a surfboard"


def test_one_more_caption_costs_nothing_else(setting):
    items, models = setting
    task = get_task("retrieval")
    more = task.with_option("a dog")
    assert more.captions(items) == (*task.captions(items), "a dog")
    assert more.with_option("a dog").captions(items) == more.captions(items)
    plain, prepared = (one.prepare(models["A"], [items[0]], items).embeddings for one in (task, more))
    assert np.allclose(plain, prepared[: len(plain)], atol=1e-5)
    assert np.allclose(prepared[-1:], models["A"].encode_text(["a dog"]).detach(), atol=1e-5)


def test_hostile_targets_are_cleaned_or_refused():
    assert Experiment(target="a\u202e red\n\x00 cube\u200b").target == "a red cube"
    assert Experiment.from_query({"pair": Experiment.pair, "caption": "a", "target": " x \n"}).target == "x"
    for values in ({"target": "x" * (MAX_CAPTION + 1)}, {"target": 7}, {"target": ["a"]}, {"target": "x" * 10**6}):
        with pytest.raises(OptionError):
            Experiment.from_dict({"caption": "a", **values})
    link = Experiment(caption="a", target="a red cube").to_query()
    assert link["target"] == "a red cube" and "target" not in Experiment(caption="a").to_query()


def test_a_target_takes_the_place_of_objective_and_task():
    plain, aimed = Experiment(caption="a"), Experiment(caption="a", target="a red cube")
    assert "make it see" in in_force(aimed) and not {"objective", "task", "α"} & set(in_force(aimed))
    assert {"make it see", "objective"} <= {difference.name for difference in differences(plain, aimed)}
    assert not differences(aimed, dataclasses.replace(aimed, objective="margin", task="zero-shot"))
    assert aimed.task_of_attack == "" and aimed.spec(target=3).options["target"] == 3


@pytest.mark.parametrize("threat", THREATS)
def test_what_combines_with_a_target_is_built_and_what_does_not_has_a_reason(setting, threat):
    items, _ = setting
    task = get_task("zero-shot")
    for search, recipe in SEARCHES.items():
        reason = why_not(threat, "both", search, "retrieval", target="a red cube")
        if reason or threat not in threats_of(recipe):
            assert reason.endswith(".")
            continue
        experiment = Experiment(caption="a", norm=threat, recipe=search, target="a red cube", epsilon=1.0, steps=5)
        experiment.checked()
        attack = experiment.spec(target=1).build(task, items, value_count=3 * 128 * 128)
        assert attack.objective.target == 1 and attack.success.target == 1
    assert why_not(threat, "reject", "pgd", "retrieval", target="x")
