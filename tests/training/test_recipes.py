"""Every recipe trains: what should learn does, what should stay stays, and a killed run ends where another would."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmai_core.defenses import shifted
from cmai_core.errors import OptionError
from cmai_core.models import load_model
from cmai_core.training import adapters
from cmai_core.training.batches import draw, to_pixels
from cmai_core.training.recipes import PAIRS, RECIPES, get_recipe
from cmai_core.training.steering import reference_scores
from cmai_core.training.trainer import RunOptions, Training, train

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

SMALL = {"batch": 8, "precision": "fp32", "warmup_steps": 1, "vision_share": 0.0, "projector_share": 0.0, "ema": 0.0}
TRAINABLE = [name for name, r in RECIPES.items() if not r.replay]  # those need the model whose schedule they follow


def training_of(name: str, **changes) -> Training:
    recipe = get_recipe(name, **{**SMALL, **changes})
    training = Training(helpers.model(recipe.architecture), recipe, 0, helpers.arrays(seed=5), arrays=helpers.arrays())
    training.total_steps = 10
    return training


def snapshot(training: Training) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in training.module.named_parameters()}


@pytest.mark.parametrize("name", TRAINABLE)
def test_two_steps_change_what_should_learn_and_nothing_else(name):
    training = training_of(name)
    before = snapshot(training)
    for step in range(2):
        seen = training.advance(draw(helpers.arrays(), training.recipe, 0, step, training.edits))
        assert all(bool(torch.isfinite(value).all()) for value in seen.values()), seen
    changed = {n for n, p in training.module.named_parameters() if not torch.equal(p, before[n])}
    towers = {"visual": "clip.visual.", "text": "clip.text.", "decoder": "clip.text_decoder."}
    for part, prefix in towers.items():
        moved = {n for n in changed if n.startswith(prefix)}
        assert bool(moved) == (part in training.recipe.trained), (part, sorted(moved)[:3])
    assert any(n.startswith("heads.") for n in changed) == (training.recipe.weights.verify > 0)
    assert (training.model.heads is not None) == (training.recipe.weights.verify > 0)


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_step_in_half_precision(name):
    training = training_of(name, precision="bf16")
    seen = training.advance(draw(helpers.arrays(), training.recipe, 0, 0, training.edits))
    assert all(bool(torch.isfinite(value).all()) for value in seen.values()), seen


@pytest.mark.parametrize("name", ["consistency", "cmcv", "mat"])
def test_the_figures_at_the_end_can_be_had(name):
    figures = training_of(name).validate(helpers.arrays(seed=5), 8)
    assert {"r1_image_to_text", "r1_attacked", "s_c_attacked"} <= figures.keys()


def test_low_rank_updates_alone_learn_and_are_merged_at_the_end():
    training = training_of("cmai-lora", **{"weights.verify": 0.5})
    before = snapshot(training)
    for step in range(2):
        training.advance(draw(helpers.arrays(), training.recipe, 0, step, training.edits))
    after = dict(training.module.named_parameters())
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    matrices = {n for n in changed if n.startswith("clip.") and before[n].ndim >= 2}
    assert matrices and all(n.endswith((".a", ".b")) for n in matrices)
    state = adapters.merged(training.model.clip)
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    plain = helpers.model().clip
    assert state.keys() == plain.state_dict().keys()
    merged = helpers.model().clip
    merged.load_state_dict(state)
    with torch.no_grad():
        one, two, base = (m.eval().visual(pixels)[0] for m in (training.model.clip, merged, plain))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(two, base, atol=1e-5)


def test_a_robust_regime_of_any_model_made_of_adapters(tmp_path):
    """FARE through low-rank updates keeps the text side, so weights can shift by any share of them."""
    model, recipe = load_model("tabletop-cmai", "cpu"), get_recipe("fare", **SMALL, adapters=2, learning_rate=0.02)
    data = {"arrays": helpers.arrays(), "validation": helpers.arrays(seed=5)}
    result = train(
        recipe,
        out_dir=tmp_path,
        model=load_model("tabletop-cmai", "cpu"),
        options=RunOptions(pairs=3 * recipe.batch, validate_every=0),
        **data,
    )
    robust = load_model(f"local-dir:{result.model_dir}", "cpu")
    name = next(n for n in model.clip.state_dict() if n.startswith("visual.") and n.endswith("in_proj_weight"))
    own, half, full = (m.clip.state_dict()[name] for m in (model, shifted(model, robust, 0.5), robust))
    energy = torch.linalg.svdvals(full - own).square()
    assert float(energy[:2].sum() / energy.sum()) > 0.9  # the rest is the file's half precision
    torch.testing.assert_close(half - own, 0.5 * (full - own))


def test_the_saved_model_has_its_heads_and_its_schedule(tmp_path):
    recipe = get_recipe(
        "cmai",
        **SMALL,
        **{"controller.after": 0, "controller.every": 1, "controller.pairs": 4, "controller.patience": 1},
    )
    options = RunOptions(pairs=5 * recipe.batch, validate_every=0)
    data = {"model": helpers.model(), "arrays": helpers.arrays(), "validation": helpers.arrays(seed=5)}
    result = train(recipe, out_dir=tmp_path, options=options, **data)
    model = load_model(f"local-dir:{result.model_dir}", "cpu")
    assert model.heads is not None and model.defended
    history = model.card["training"]["steering"]
    assert [entry["step"] for entry in history] == [0, 1, 2, 3, 4]
    assert all(recipe.controller.beta.low <= entry["beta"] <= recipe.controller.beta.high for entry in history)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"beta", "epsilon", "share", "reference_s_c"} <= logged[0].keys()


def test_the_reference_attack_lowers_s_c_and_does_not_depend_on_the_level_in_force():
    training = training_of("cmai", **{"controller.pairs": 6, "controller.patience": 1, "controller.after": 0})
    steering = training.steering
    settings = steering.controller.settings
    found = reference_scores(training.parts, training.heads, steering.batch, settings)
    weak = replace(settings, reference_epsilon=0.0)
    assert float(found.mean()) < float(reference_scores(training.parts, training.heads, steering.batch, weak).mean())
    for _ in range(3):  # untrained heads are inconsistent: the level goes up
        steering.measure(0)
    assert steering.level.beta > settings.start.beta and steering.level.epsilon == settings.epsilon.high
    assert [entry["measured"] for entry in steering.history] == [round(float(found.mean()), 5)] * 3


class Stop:
    def __init__(self, after: int):
        self.left = after

    @property
    def cancelled(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def check(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["cmai", "ssl-adversarial", "mbat", "leaf", "proeat", "cmai-2"])
def test_a_stopped_training_ends_where_an_undisturbed_one_does(tmp_path, name):
    changes = {"inner.start": "previous"} if name == "mbat" else {}
    if name == "proeat":
        changes = {"projector_share": 0.4}
    if name.startswith("cmai"):
        changes = {"controller.after": 0, "controller.every": 2, "controller.pairs": 4}
    recipe = get_recipe(name, **{**SMALL, **changes})
    options = RunOptions(pairs=5 * recipe.batch, validate_every=0)

    def run(folder, cancel=None):
        data = {
            "model": helpers.model(recipe.architecture),
            "arrays": helpers.arrays(),
            "validation": helpers.arrays(seed=5),
        }
        return train(recipe, out_dir=folder, options=options, cancel=cancel, **data)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Stop(3))
    parts = run(tmp_path / "parts")
    one, two = (load_model(f"local-dir:{r.model_dir}", "cpu") for r in (whole, parts))
    for mine, other in ((one.clip, two.clip), (one.heads, two.heads)):
        if mine is not None:
            pairs = zip(mine.named_parameters(), other.parameters(), strict=True)
            assert [name for (name, p), q in pairs if not torch.equal(p, q)] == []


def test_arm_under_constraints_is_recorded_and_replayed(tmp_path):
    """The schedule in the card is enough to take the same training again without looking."""
    often = {"controller.after": 1, "controller.every": 1, "controller.pairs": 4, "controller.rate": 0.3}
    recipe = get_recipe("cmai-2", **SMALL, **often)
    options = RunOptions(pairs=5 * recipe.batch, validate_every=0)

    def run(recipe, folder):
        data = {"model": helpers.model(recipe.architecture), "arrays": helpers.arrays()}
        return train(recipe, out_dir=folder, options=options, validation=helpers.arrays(seed=5), **data)

    looked = load_model(f"local-dir:{run(recipe, tmp_path / 'looked').model_dir}", "cpu")
    history = looked.card["training"]["steering"]
    assert [entry["step"] for entry in history] == [0, 1, 2, 3, 4]
    assert {"measured", "measured_clean", "price", "need", "start", "clean"} <= history[0].keys()
    assert len({(entry["beta"], entry["epsilon"], entry["share"]) for entry in history}) > 1
    logged = [json.loads(line) for line in (tmp_path / "looked" / "log.jsonl").read_text().splitlines()]
    assert {"beta", "epsilon", "share", "price", "clean_start", "clean", "reference_s_c"} <= logged[0].keys()
    again = get_recipe("cmai-2-replay", **SMALL, replay=f"local-dir:{tmp_path / 'looked' / 'model'}")
    blind = load_model(f"local-dir:{run(again, tmp_path / 'blind').model_dir}", "cpu")
    pairs = zip(looked.clip.named_parameters(), blind.clip.parameters(), strict=True)
    assert [name for (name, p), q in pairs if not torch.equal(p, q)] == []


def test_arm_measures_the_starting_model_on_validation_pairs():
    training = training_of("cmai-2", **{"controller.after": 0, "controller.pairs": 4})
    steering, data = training.steering, helpers.arrays(seed=5)
    steering.measure(0)
    with torch.no_grad():
        pixels = to_pixels(torch.from_numpy(data.images))
        texts = training.model.encode_text(torch.from_numpy(data.caption_ids[:, 0].astype("int64")))
        best = (training.model.encode_image(pixels) @ texts.T).argmax(dim=1).numpy()
    right = float((data.classes == data.classes[best]).mean())
    assert steering.controller.start == steering.history[0]["measured_clean"] == pytest.approx(right)
    assert training.recipe.validation_pairs == 1000 and get_recipe("cmai").validation_pairs == 0


def test_settings_within_settings_are_reached_by_a_dot():
    assert get_recipe("cmai-2", **{"inner.answering.gamma": 0.5}).inner.answering.gamma == 0.5
    recipe = get_recipe("mbat", **{"inner.beta": 0.25, "weights.hard": 0.5})
    assert recipe.inner.beta == 0.25 and recipe.weights.hard == 0.5
    assert recipe.inner.losses == RECIPES["mbat"].inner.losses
    for wrong, named in (
        ("inner.betta", r"inner\.betta"),
        ("nothing.beta", "nothing"),
        ("controller.tau", "controller"),
    ):
        with pytest.raises(OptionError, match=named):
            get_recipe("mbat", **{wrong: 1.0})
    for name, value in (("inner.beta", "much"), ("inner.text_losses", "caption"), ("batch", "big"), ("weights", 1.0)):
        with pytest.raises(OptionError, match=name):
            get_recipe("mbat", **{name: value})


def test_a_step_that_was_cut_off_is_not_taken_twice(tmp_path, monkeypatch):
    changes = {"controller.after": 0, "controller.every": 1, "controller.pairs": 4, "controller.patience": 1}
    recipe = get_recipe("cmai", **SMALL, **changes)
    options = RunOptions(pairs=5 * recipe.batch, validate_every=0, checkpoint_steps=1)

    def run(folder):
        data = {"model": helpers.model(), "arrays": helpers.arrays(), "validation": helpers.arrays(seed=5)}
        return train(recipe, out_dir=folder, options=options, **data)

    def histories(*results):
        return [load_model(f"local-dir:{r.model_dir}", "cpu").card["training"]["steering"] for r in results]

    whole = run(tmp_path / "whole")

    def cut(self, batch):
        self.steering.measure(self.step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        real = Training.advance
        patch.setattr(Training, "advance", lambda self, batch: (cut if self.step == 3 else real)(self, batch))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts")
    one, two = histories(whole, run(tmp_path / "parts"))
    assert one == two and [entry["step"] for entry in one] == [0, 1, 2, 3, 4]


def test_two_views_leave_no_room_for_many_pairs_of_images():
    with pytest.raises(OptionError, match="nlvr_share"):
        get_recipe("consistency", nlvr_share=0.5)


def test_a_replay_without_a_recorded_schedule_is_refused(tmp_path):
    recipe = get_recipe("cmai-replay", **SMALL, replay="tabletop")
    with pytest.raises(OptionError, match="tabletop"):
        train(recipe, out_dir=tmp_path, model=helpers.model(), arrays=helpers.arrays(), options=RunOptions(pairs=8))


def test_defences_of_the_comparison_have_equal_terms():
    """Same start, length, ε and share of perturbed images, but where the recipe's idea is exactly that."""
    compared = [r for r in RECIPES.values() if r.start == "tabletop" and r.inner is not None]
    assert len(compared) >= 14
    for recipe in compared:
        assert recipe.pairs == PAIRS and recipe.batch == 128 and recipe.inner.epsilon == pytest.approx(2 / 255)
        assert recipe.inner.steps == 2
        assert recipe.adversarial_share == (1.0 if recipe.balance else 0.5)  # with a balance, each is clean beside it
        if recipe.controller is not None:
            assert recipe.controller.epsilon.high <= recipe.inner.epsilon


def test_without_perturbed_pictures_a_defence_trains_as_on_clean_ones():
    """λ = 0: the outer loss is that of the clean pictures alone."""
    seen = {}
    for name in ("continued", "pgd-at"):
        training = training_of(name)
        if training.recipe.inner is not None:
            level = training.steering.level
            training.steering.schedule = ((0, replace(level, share=0.0)),)
        losses = training.advance(draw(helpers.arrays(), training.recipe, 0, 0, training.edits))
        seen[name] = (losses["loss"], snapshot(training))
    (clean, plain), (defended, others) = seen.values()
    assert torch.equal(clean, defended)
    assert all(torch.equal(plain[name], others[name]) for name in plain)
