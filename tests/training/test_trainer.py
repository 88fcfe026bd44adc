"""The trainer as a whole: resuming, logging, saving, learning; the inner maximiser; batches and averages."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cmai_core.data.tabletop.language import FAMILIES
from cmai_core.errors import Cancelled, CmaiError, OptionError
from cmai_core.models import load_model
from cmai_core.progress import CancelToken
from cmai_core.training.averaging import MovingAverage
from cmai_core.training.batches import Prefetcher, balanced_keys, draw, patch_targets, to_pixels
from cmai_core.training.checkpoint import CHECKPOINT, LOG, load_checkpoint, save_checkpoint
from cmai_core.training.recipes import RECIPES, get_recipe
from cmai_core.training.runs import start_model
from cmai_core.training.schedule import learning_rate
from cmai_core.training.settings import Inner
from cmai_core.training.trainer import RunOptions, Training, train

HELPERS = Path(__file__).with_name("helpers.py")
spec = importlib.util.spec_from_file_location("training_helpers", HELPERS)
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

SMALL = {"batch": 8, "precision": "fp32", "warmup_steps": 2, "vision_share": 0.0}


def small(name: str = "base", **changes):
    return get_recipe(name, **{**SMALL, **changes})


def run(folder, steps: int, recipe=None, cancel=None, **options):
    recipe = recipe or small()
    settings = RunOptions(pairs=steps * recipe.batch, validate_every=0, **options)
    return train(
        recipe, out_dir=folder, model=helpers.model(), arrays=helpers.arrays(), seed=3, options=settings, cancel=cancel
    )


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(Path(folder) / CHECKPOINT, weights_only=True)["module"]


def averages(folder) -> list[torch.Tensor]:
    return torch.load(Path(folder) / CHECKPOINT, weights_only=True)["average"]["average"]


def assert_same(first, second):
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    assert all(torch.equal(a, b) for a, b in zip(averages(first), averages(second), strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted training of six steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, 6)


KILLED = """
import importlib.util, os, signal, sys
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("training_helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
from cmai_core.training.recipes import get_recipe
from cmai_core.training.trainer import RunOptions, train

class Killer:
    calls = 0
    @property
    def cancelled(self):
        self.calls += 1
        if self.calls == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

recipe = get_recipe("base", batch=8, precision="fp32", warmup_steps=2, vision_share=0.0)
options = RunOptions(pairs=6 * recipe.batch, validate_every=0, checkpoint_steps=2)
data = {"model": helpers.model(), "arrays": helpers.arrays()}
train(recipe, out_dir=sys.argv[2], seed=3, options=options, cancel=Killer(), **data)
"""


def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(HELPERS), str(tmp_path)], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["step"] == 4  # killed in step 5, after the checkpoint of step 4
    run(tmp_path, 6)
    assert_same(whole[0], tmp_path)


def test_cancelled_and_resumed_equals_uninterrupted(whole, tmp_path):
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        run(tmp_path, 6, cancel=token)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 1
    run(tmp_path, 6)
    assert_same(whole[0], tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert steps == sorted(steps)


def test_another_seed_gives_other_weights(whole, tmp_path):
    recipe = small()
    train(
        recipe,
        out_dir=tmp_path,
        model=helpers.model(),
        arrays=helpers.arrays(),
        seed=4,
        options=RunOptions(pairs=6 * recipe.batch, validate_every=0),
    )
    one, two = weights(whole[0]), weights(tmp_path)
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_finished_training_is_not_repeated_and_a_foreign_folder_is_refused(whole, tmp_path):
    folder, result = whole
    before = torch.load(folder / CHECKPOINT, weights_only=True)
    again = run(folder, 6)
    assert again.pairs == result.pairs == 48
    assert again.seconds == result.seconds
    after = torch.load(folder / CHECKPOINT, weights_only=True)
    assert after["step"] == before["step"] == 6
    assert all(torch.equal(after["module"][name], tensor) for name, tensor in before["module"].items())
    with pytest.raises(CmaiError, match="recipe"):
        run(folder, 6, recipe=small(learning_rate=1e-4))
    with pytest.raises(CmaiError, match="pairs"):
        run(folder, 7)


def test_a_checkpoint_from_before_a_setting_was_there_goes_on(tmp_path):
    recipe = get_recipe("tecoa").to_dict()
    old = {k: v for k, v in recipe.items() if k != "alike"}
    old["weights"] = {k: v for k, v in recipe["weights"].items() if k != "place"}
    save_checkpoint(tmp_path, {"identity": json.dumps({"recipe": old, "seed": 0}), "step": 3})
    assert load_checkpoint(tmp_path, {"recipe": recipe, "seed": 0})["step"] == 3
    with pytest.raises(CmaiError, match="recipe differ"):
        load_checkpoint(tmp_path, {"recipe": {**recipe, "alike": 2}, "seed": 0})


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(CmaiError, match="cannot be read"):
        run(tmp_path, 1)
    assert run(tmp_path, 1, restart=True).pairs == 8


def test_the_saved_model_has_the_averaged_weights_and_a_card(whole):
    folder, result = whole
    model = load_model(f"local-dir:{result.model_dir}", "cpu")
    assert model.card["training"]["pairs"] == 48
    assert model.card["training"]["seed"] == 3
    assert model.card["defended"] is False
    names = [f"clip.{name}" for name, _ in model.clip.named_parameters()]
    stored = dict(zip(names, averages(folder)[: len(names)], strict=True))
    for name, parameter in model.clip.named_parameters():
        torch.testing.assert_close(parameter, stored[f"clip.{name}"].half().float(), rtol=0, atol=0)
    raw = weights(folder)
    assert any(not torch.equal(raw[name].half(), stored[name].half()) for name in names)


def test_a_small_set_is_learned(tmp_path):
    recipe = small(learning_rate=1e-3, warmup_steps=5, ema=0.5, brightness=0.0)
    model = helpers.model()
    training = Training(model, recipe, 0)
    training.total_steps = 40
    data = helpers.arrays(scenes=12)
    data.classes = np.arange(12)
    first = {k: float(v) for k, v in training.advance(draw(data, recipe, 0, 0)).items()}
    for step in range(1, 40):
        last = training.advance(draw(data, recipe, 0, step % 2))
    assert float(last["caption"]) < 0.7 * first["caption"]
    assert float(last["question"]) < 0.5 * first["question"]
    assert float(last["contrastive"]) < 0.8 * first["contrastive"]
    assert training.parts.logit_scale.exp() <= 100.0001


def test_the_temperature_is_clamped():
    training = Training(helpers.model(), small(), 0)
    training.total_steps = 10
    with torch.no_grad():
        training.parts.logit_scale.fill_(9.0)
    training.advance(draw(helpers.arrays(), small(), 0, 0))
    assert float(training.parts.logit_scale.detach().exp()) == pytest.approx(100)


def test_a_diverged_loss_stops_the_training(tmp_path):
    model = helpers.model()
    with torch.no_grad():
        model.clip.visual.proj.fill_(float("nan"))
    recipe = small()
    with pytest.raises(CmaiError, match="finite"):
        train(recipe, out_dir=tmp_path, model=model, arrays=helpers.arrays(), options=RunOptions(pairs=8))


def test_learning_rate_schedule():
    recipe = get_recipe("base", learning_rate=1.0, warmup_steps=10, final_share=0.1)
    assert learning_rate(recipe, 0, 100) == pytest.approx(0.1)
    assert learning_rate(recipe, 9, 100) == pytest.approx(1.0)
    assert learning_rate(recipe, 55, 100) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(recipe, 100, 100) == pytest.approx(0.1)
    assert learning_rate(recipe, 500, None) == 1.0
    assert learning_rate(recipe, 1, 10) == pytest.approx(1.0)  # a short training warms up for a fifth


def test_a_time_budget_becomes_pairs(tmp_path):
    recipe = small(batch=4, nlvr_share=0.0, questions=0)
    recipe = replace(recipe, weights=replace(recipe.weights, caption=0.0, nlvr=0.0, patch=0.0))
    options = RunOptions(minutes=0.01, validate_every=0)
    train(recipe, out_dir=tmp_path, model=helpers.model(), arrays=helpers.arrays(), options=options)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["total_steps"] == state["step"] >= 26


def test_validation_figures(tmp_path):
    recipe = small("tecoa")
    result = train(
        recipe,
        out_dir=tmp_path,
        model=helpers.model(),
        arrays=helpers.arrays(),
        validation=helpers.arrays(scenes=12, seed=9),
        options=RunOptions(pairs=8, validation_scenes=12),
    )
    expected = {"r1_image_to_text", "r1_text_to_image", "caption_loss", "vqa", "nlvr", "r1_clean_small", "r1_attacked"}
    expected |= {"s_c_clean", "s_c_attacked", *(f"vqa_{family}" for family in FAMILIES)}
    assert set(result.results) == expected
    shares = expected - {"caption_loss", "s_c_clean", "s_c_attacked"}
    assert all(0 <= result.results[name] <= 1 for name in shares)
    assert all(-1 <= result.results[name] <= 1 for name in ("s_c_clean", "s_c_attacked"))
    assert abs(result.results["caption_loss"] - math.log(1024)) < 2.5  # near a uniform guess of 1,024 tokens
    assert result.results["r1_attacked"] <= result.results["r1_clean_small"]


def test_the_share_of_perturbed_images_and_the_warm_up_of_epsilon():
    inner = Inner(epsilon=8 / 255, steps=1, step_size=8 / 255, start="clean", warmup=0.5)
    recipe = small("tecoa", adversarial_share=0.5, inner=inner, brightness=0.0)
    training = Training(helpers.model(), recipe, 0)
    training.total_steps = 100
    batch = draw(helpers.arrays(), recipe, 0, 0)
    pixels = to_pixels(batch.images)
    training.step = 99
    size = (training.perturbed(batch, pixels)[1] - pixels).abs().amax(dim=(1, 2, 3))
    assert (size > 0).tolist() == [False, True] * 4
    assert size.max() == pytest.approx(8 / 255, rel=1e-4)
    training.step = 24
    early = (training.perturbed(batch, pixels)[1] - pixels).abs().max()
    assert early == pytest.approx(4 / 255, rel=1e-4)


# Batches, averages, recipes


def test_batches_depend_on_seed_and_step_alone():
    data, recipe = helpers.arrays(), small()
    source = Prefetcher(data, recipe, 5, 2)
    try:
        found = [next(iter(source)) for _ in range(3)]
    finally:
        source.close()
    assert [step for step, _ in found] == [2, 3, 4]
    for step, batch in found:
        again = draw(data, recipe, 5, step)
        assert torch.equal(batch.rows, again.rows) and torch.equal(batch.question_ids, again.question_ids)
    assert not torch.equal(found[0][1].rows, found[1][1].rows)


def test_a_batch_holds_what_it_says():
    data, recipe = helpers.arrays(), small()
    batch = draw(data, recipe, 5, 2)
    rows = batch.rows.numpy()
    assert len(batch.nlvr_ids) == 2
    items = [k for k in range(len(data.nlvr_left)) if data.nlvr_left[k] == rows[0] and data.nlvr_right[k] == rows[2]]
    assert any((data.nlvr_ids[k][: batch.nlvr_ids.shape[1]] == batch.nlvr_ids[0].numpy()).all() for k in items)
    assert (data.images[rows] == batch.images.numpy()).all()
    assert batch.truth.diagonal().all()
    ids = batch.question_ids
    at = batch.answer_at
    answered = ids.gather(1, at[:, None] + 1)[:, 0][batch.has_question]
    assert (answered == helpers.EOS).all()  # the answer is the last token but one


def test_an_error_in_the_background_reaches_the_training():
    data = helpers.arrays()
    data.nlvr_left = data.nlvr_left + 1000
    with pytest.raises(IndexError):
        source = Prefetcher(data, small(), 0, 0)
        try:
            next(iter(source))
        finally:
            source.close()


def test_patch_targets():
    labels = np.array([[[255, 0], [2, 1]]], np.uint8)
    objects = np.array([[[3, 4, 1, 0], [0, 1, 0, 1], [5, 7, 1, 1], [-1, -1, -1, -1]]], np.int8)
    frame = np.array([[[0.2, 3.0], [-1.0, 1.0], [0.1, 2.0], [-9.0, -9.0]]], np.float32)  # the last is no object
    found = patch_targets(labels, objects, frame)[0].tolist()
    assert found == [[0, *[-100] * 5], [4, 4, 1, 0, 2, 2], [6, 7, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0]]


def test_every_family_of_questions_is_asked_as_often():
    families = np.tile(np.array([0] * 6 + [1] * 3 + [4] + [-1] * 2, np.int8), (6000, 1))
    keys = balanced_keys(families, np.random.default_rng(0))
    first = families[0][keys.argmin(axis=1)]
    shares = np.bincount(first, minlength=5)[[0, 1, 4]] / len(first)
    assert np.abs(shares - 1 / 3).max() < 0.03  # five standard errors
    assert np.isinf(keys[:, -2:]).all()


def test_augmentation_keeps_left_and_right_and_the_box():
    images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    images[:, 4:6, 2:4] = 255
    recipe = get_recipe("base", brightness=0.2, shift=2)
    found = to_pixels(images, recipe, 1, 1)
    assert found.min() >= 0 and found.max() <= 1
    assert torch.equal(found, to_pixels(images, recipe, 1, 1))
    column = (found.sum(dim=(1, 2)) > 0).float().argmax(dim=1)
    assert (column <= 4).all()  # still on the left
    assert torch.equal(to_pixels(images), images.permute(0, 3, 1, 2) / 255)


def test_moving_average():
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
    average = MovingAverage(layer, 0.5)
    own = layer.weight
    with torch.no_grad():
        layer.weight.fill_(1.0)
    average.update()  # decay min(0.5, 1/10)
    assert float(average.average[0]) == pytest.approx(0.9)
    with pytest.raises(RuntimeError), average.applied():
        assert float(layer.weight.detach()) == pytest.approx(0.9)
        raise RuntimeError
    assert layer.weight is own and float(layer.weight.detach()) == 1.0


def test_recipes_are_checked():
    assert {"base", "base-b", "tecoa", "fare", "mat", "cmcv", "mbat", "cmai"} <= set(RECIPES)
    with pytest.raises(OptionError, match="recipe"):
        get_recipe("nothing")
    with pytest.raises(OptionError, match="no setting"):
        get_recipe("base", learningrate=1)
    with pytest.raises(OptionError, match="adversarial_share"):
        get_recipe("base", adversarial_share=0.5)
    for recipe in RECIPES.values():
        json.dumps(recipe.to_dict())


def test_the_command_line_reports_mistakes_without_a_traceback(tmp_path, capsys):
    from cmai_core import cli

    options = ["--recipe", "base", "--out", str(tmp_path), "--base", "tabletop", "--device", "cpu"]
    assert cli.main(["train", *options]) == 2
    assert "starts from nothing" in capsys.readouterr().err


def test_a_model_of_another_vocabulary_or_size_is_refused():
    recipe = get_recipe("tecoa")
    assert start_model(recipe, base="tabletop-cmai", device="cpu").name == "tabletop-cmai"
    with pytest.raises(OptionError, match="other tokens, or pictures of 224 pixels"):
        start_model(recipe, base="ViT-B-32/random", device="cpu")
