"""How the cure works: the live inner loop is training's, answering is the system's, and logs are read as written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from cmai_core.errors import Cancelled, DataError, OptionError
from cmai_core.lab.immunize import answering, comparison, inner_loop
from cmai_core.lab.immunize.arm import arm_log, models_with_log
from cmai_core.lab.immunize.bundle import bundled
from cmai_core.lab.published import published
from cmai_core.progress import CancelToken

_spec = importlib.util.spec_from_file_location(
    "training_helpers", Path(__file__).resolve().parents[1] / "training" / "helpers.py"
)
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)


@pytest.fixture(scope="module")
def trained():
    """A small random model with heads, and a batch of it."""
    import torch

    from cmai_core.models.heads import ConsistencyHeads, HeadSizes
    from cmai_core.training.batches import draw
    from cmai_core.training.recipes import get_recipe

    model = helpers.model()
    sizes = HeadSizes(
        model.embed_dim,
        model.clip.visual.transformer.width,
        model.trainable().text.token_embedding.embedding_dim,
    )
    torch.manual_seed(0)
    heads = ConsistencyHeads(sizes)
    return model, heads, draw(helpers.arrays(), get_recipe("mbat", batch=8, nlvr_share=0.0), 0, 0)


@pytest.mark.parametrize("with_heads", [False, True])
def test_the_live_terms_are_those_of_training_on_the_same_batch(trained, monkeypatch, with_heads):
    import torch

    from cmai_core.training.batches import to_pixels
    from cmai_core.training.inner import InnerProblem, perturb
    from cmai_core.training.trainer import take_apart

    model, heads, batch = trained
    monkeypatch.setattr(type(model), "heads", heads if with_heads else None, raising=False)
    asked = inner_loop.Asked(alpha=0.5, beta=2.0, epsilon=4.0, steps=3)
    told = []
    loop = inner_loop.run_inner_loop(model, asked, batch, progress=told.append)
    inner, pixels = asked.inner(), to_pixels(batch.images)
    problem = InnerProblem(inner, take_apart(model), batch, torch.arange(8), heads if with_heads else None)
    found = perturb(pixels, problem.objective, inner)
    with torch.no_grad():
        first, last = problem.objective(pixels).mean(), problem.objective(found).mean()
    assert loop.value[0] == pytest.approx(float(first), rel=1e-4, abs=1e-5)
    assert loop.value[-1] == pytest.approx(float(last), rel=1e-4, abs=1e-5) and loop.value[-1] > loop.value[0]
    assert loop.heads is with_heads
    # Each term is what training computes with the other switched off.
    from dataclasses import replace

    alone = {}
    for name, changed in (("task", {"beta": 0.0}), ("consistency", {"alpha": 0.0})):
        part = InnerProblem(replace(inner, **changed), problem.parts, batch, problem.rows, problem.heads)
        with torch.no_grad():
            alone[name] = float(part.objective(found).mean())
    assert loop.task[-1] == pytest.approx(alone["task"], rel=1e-4, abs=1e-5)
    assert loop.consistency[-1] == pytest.approx(-alone["consistency"], rel=1e-4, abs=1e-5)
    assert loop.s_c[-1] == pytest.approx(loop.consistency[-1] / 2.0, rel=1e-5, abs=1e-7)
    assert len(loop.pictures) == 4 and loop.size[0] == 0 < loop.size[-1] <= 4.0 + 1e-4
    assert told[-1].done == 3 and len(told[-1].data["score"]) == 4
    for series in (loop.task, loop.consistency, loop.value):
        assert len(series) == 4
    np.testing.assert_allclose(np.subtract(loop.task, loop.consistency), loop.value, atol=1e-6)


def test_a_loop_is_cancelled_within_a_step_and_refuses_what_is_out_of_range(trained):
    model, _, batch = trained
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        inner_loop.run_inner_loop(model, inner_loop.Asked(), batch, progress=lambda p: cancel.cancel(), cancel=cancel)
    for values in ({"alpha": -1}, {"beta": float("nan")}, {"epsilon": 64}, {"steps": 0}, {"alpha": 0.0, "beta": 0.0}):
        with pytest.raises(OptionError):
            inner_loop.Asked(**values)


def test_the_model_is_left_as_it_was(trained):
    model, _, batch = trained
    before = {name: value.clone() for name, value in model.clip.state_dict().items()}
    grads = [p.requires_grad for p in model.clip.parameters()]
    inner_loop.run_inner_loop(model, inner_loop.Asked(steps=1), batch)
    assert all((value == before[name]).all() for name, value in model.clip.state_dict().items())
    assert [p.requires_grad for p in model.clip.parameters()] == grads
    assert all(p.grad is None for p in model.clip.parameters())


def test_the_bundled_loop_and_pair_are_of_the_bundled_models():
    from cmai_core.models.core import hash_of_files
    from cmai_core.models.families.bundled import bundled_dir
    from cmai_core.models.save import WEIGHTS_FILE
    from cmai_core.models.weights import HEADS_FILE

    loop, answered = bundled()
    for made in (loop, answered):
        files = [bundled_dir() / made.name / file for file in (WEIGHTS_FILE, HEADS_FILE)]
        assert hash_of_files([file for file in files if file.is_file()]) == made.hash, "make the examples again"
    assert len(loop.pictures) == loop.asked.steps + 1 == len(loop.value)
    change = np.abs(loop.pictures[-1].astype(int) - loop.pictures[0]).max()
    assert change <= loop.asked.epsilon
    for side in answered.sides:
        change = np.abs(side.picture.astype(int) - answered.sides[0].picture).max()
        assert change <= answered.asked.epsilon + 0.5
        fused = [option.fused for option in side.shortlist]
        assert side.verified == int(np.argmax(fused)) and side.plain == 0


@pytest.mark.slow
def test_the_shortlist_is_answered_as_the_system_answers():
    import torch

    from cmai_core.data import load_dataset
    from cmai_core.defenses.system import System
    from cmai_core.models import load_model
    from cmai_core.tasks import get_task

    model, data = load_model("tabletop-cmai"), load_dataset("tabletop", split="test", limit=24)
    asked = answering.Asked(epsilon=4.0, steps=2, shortlist=4, gamma=2.0)
    made = answering.answer_step_by_step(model, data[5], data, asked)
    rule, calibrated = answering.rule_for(model, asked)
    assert (rule.shortlist, rule.gamma, calibrated, made.rule) == (4, 2.0, False, rule.describe())
    task, system = get_task("retrieval"), System(model, answering=rule)
    among = answering.PairAmong(data[5], data)
    for side in made.sides:
        with torch.no_grad():
            pixels = model.preprocess([side.picture])
            for asked_of, answer in zip((model, system), side.answers, strict=True):
                prepared = task.prepare(asked_of, [data[5]], among)
                (said,) = task.predict(asked_of, asked_of.image_features(pixels), prepared)
                assert (said.answer, bool(said.correct)) == (answer.text, answer.true)
        assert len(side.shortlist) == 4 and np.abs(side.picture.astype(int) - made.sides[0].picture).max() <= 4


def test_answering_refuses_a_model_without_heads_and_values_out_of_range(trained):
    model, _, _ = trained
    with pytest.raises(OptionError, match="no consistency heads"):
        answering.answer_step_by_step(model, None, None, answering.Asked())
    for values in ({"shortlist": 1}, {"gamma": float("nan")}, {"epsilon": 0.0}, {"steps": 1000}):
        with pytest.raises(OptionError):
            answering.Asked(**values)


def test_arm_s_log_is_what_its_controller_does():
    from cmai_core.defenses.controller import Controller, ControllerSettings, Level, Range
    from cmai_core.models import bundled_models

    assert "tabletop-cmai" in models_with_log()
    log = arm_log("tabletop-cmai")
    card = next(card for card in bundled_models() if card.name == log.name)
    values = dict(card.training["recipe"]["controller"])
    parts = {name: Range(**values.pop(name)) for name in ("beta", "epsilon", "share")}
    settings = ControllerSettings(**parts, start=Level(**values.pop("start")), **values)
    controller = Controller.start(settings)
    for place, step in enumerate(log.steps):
        # The log has the variance's average; the measurement that gives it is solved for.
        before, m = controller.variance, settings.momentum
        variance = step.variance if before is None else (step.variance - m * before) / (1 - m)
        controller = controller.updated(step.measured, variance)
        assert controller.level.beta == pytest.approx(step.beta)
        assert 255 * controller.level.epsilon == pytest.approx(step.epsilon, abs=1e-3)
        assert controller.asked == step.asked and controller.mean == pytest.approx(step.mean, abs=1e-4)
        said = log.reason(place)
        assert ("More" in said, "Less" in said) == (step.asked > 0, step.asked < 0)
        assert ("They move" in log.effect(place)) is step.moved
    with pytest.raises(DataError, match="not trained with ARM"):
        arm_log("tabletop")


def test_published_exhibits_say_what_the_results_say():
    from cmai_core.comparison.verdicts import difference, share

    for which in ("ablation", "comparison"):
        bars = comparison.robust_bars(which, 2.0).bars
        assert [bar.value for bar in bars] == sorted((bar.value for bar in bars), reverse=True)
        best = next(name for name in published() if name in (f"tabletop-{bars[0].label}", bars[0].label))
        assert bars[0].value == share(published()[best].verdict("main", 2.0).held)["value"]
        assert all(bar.low <= bar.value <= bar.high for bar in bars)
    gap = difference(*(published()[f"tabletop-{n}"].verdict("main", 2.0).held for n in ("cmai", "cmcv-mbat")))
    (row,) = [r for r in comparison.steps_table().rows if r["compared"] == "cmai − cmcv-mbat"]
    assert f"{100 * gap['value']:+.1f}" in row["2/255, points"]
    safe, clean, times = comparison.policy_exhibits("tabletop-cmai")
    assert len(safe.bars) == len(clean.bars) == len(times.rows) == len(published()["tabletop-cmai"].parts["policies"])
