"""The smallest ε that breaks an answer: a ladder and halving, on pictures that a file can hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cmai_core.budget import NORMS
from cmai_core.errors import OptionError
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.pair_in_context import PairAmong
from cmai_core.lab.run import Setting, clean_pixels, with_sentence
from cmai_core.lab.smallest import between, smallest_epsilon
from cmai_core.progress import CancelToken

TASK = "zero-shot"


@pytest.fixture(scope="module")
def setting(tiny_models):
    """Two random models, with a pair that the first is right about and one that it is wrong about."""
    from cmai_core.data import load_dataset
    from cmai_core.evaluation.runs.predictor import encode
    from cmai_core.models import load_model

    items = load_dataset("tabletop", split="test", limit=24)
    models = {
        role: load_model(f"local-dir:{tiny_models / name}")
        for role, name in (("A", "tabletop"), ("B", "tabletop-cmai"))
    }
    known = {}
    for pair in (items[k] for k in range(len(items))):
        pair = with_sentence(pair, pair.captions[0])
        seen = encode(models["A"], clean_pixels(models["A"], [pair.image]))
        (said,) = Setting(pair, PairAmong(pair, items)).asked(TASK, models["A"], seen)
        known.setdefault(said.correct, pair)
    return items, models, known


def asked(setting, right, *, progress=None, cancel=None, **options):
    items, models, known = setting
    pair = known[right]
    usual = {"steps": 3, "objective": "margin", "b": ""}
    experiment = Experiment(pair=pair.id, caption=pair.captions[0], task=TASK, **{**usual, **options})
    return smallest_epsilon(experiment, pair, {"A": models["A"]}, items, progress, cancel)


def test_between_what_held_and_what_broke():
    assert between("linf", 2, 4) == 3 and between("linf", 8, 16) == 12 and between("l0", 10, 30) == 20
    assert between("linf", 1, 2) is None and between("linf", 0.5, 1) is None and between("linf", 0, 0.5) is None
    assert between("l2", 0, 0.5) == 0.25 and between("patch", 0.05, 0.1) == 0.075 and between("l2", 1, 1) is None


def test_the_smallest_breaks_and_what_lies_below_holds(setting):
    found = asked(setting, True)
    limit = found.models["A"]
    assert limit.complete and not limit.already and limit.clean_answer.correct and not found.cancelled
    sizes = [rung.epsilon for rung in limit.rungs]
    assert sizes == sorted(set(sizes)) and NORMS["linf"].ladder[0] == sizes[0]
    breaking = limit.breaking
    broken = [rung.broken for rung in limit.rungs]
    assert breaking is not None and broken == sorted(broken) and limit.rungs[broken.index(True)] is breaking
    clean = (clean_pixels(setting[1]["A"], [setting[2][True].image])[0] * 255).round().permute(1, 2, 0).numpy()
    for rung in limit.rungs:
        assert np.abs(rung.picture - clean).max() <= rung.epsilon
        assert rung.broken == (rung.answer.correct is False) and -1 <= rung.s_c <= 1
    assert limit.held is None or limit.held.epsilon < breaking.epsilon
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [rung["epsilon"] for rung in plain["models"]["A"]["rungs"]] == sizes


def test_an_answer_that_is_wrong_already_is_not_attacked(setting):
    heard = []
    limit = asked(setting, False, progress=heard.append).models["A"]
    assert limit.already and limit.complete and not limit.rungs and not limit.holds and not heard


def test_what_nothing_breaks_holds_up_to_the_top(setting):
    """One step of the least norm towards the sentence that the model likes least."""
    limit = asked(setting, True, target="a dog on a surfboard", recipe="pgd", norm="l1", steps=1).models["A"]
    assert limit.holds and limit.breaking is None, [rung.margin for rung in limit.rungs]
    assert tuple(rung.epsilon for rung in limit.rungs) == NORMS["l1"].ladder
    assert limit.held.epsilon == NORMS["l1"].ladder[-1] and limit.held.margin < 0


def test_a_target_is_what_has_to_be_reached(setting):
    limit = asked(setting, True, target="a dog on a surfboard", norm="l2", steps=10).models["A"]
    assert limit.complete and limit.rungs
    for rung in limit.rungs:
        assert rung.broken == (rung.margin > 0) == (rung.answer.text == "a dog on a surfboard")


def test_cancelled_it_keeps_what_was_found(setting):
    token, heard = CancelToken(), []

    def tell(progress):
        heard.append(progress)
        if progress.data["epsilon"] == "1/255":
            token.cancel()

    found = asked(setting, True, progress=tell, cancel=token)
    assert found.cancelled and not found.models["A"].complete
    assert [rung.words for rung in found.models["A"].rungs] == ["0.5/255"]  # no 8-bit picture changes there
    assert not found.models["A"].holds
    assert [p.done for p in heard] == sorted(p.done for p in heard) and heard[-1].data["image"].dtype == np.uint8


@pytest.mark.parametrize("options", [{"norm": "text", "recipe": "char"}, {"objective": "reject"}])
def test_there_is_none_for_words_and_detectors(setting, options):
    with pytest.raises(OptionError, match="smallest"):
        asked(setting, True, **{"objective": "consistency", **options})
