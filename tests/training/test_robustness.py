"""Training does what it is for: seconds of it on a few dozen scenes make these scenes harder to attack."""

from __future__ import annotations

from cmai_core.data.tabletop.arrays import training_arrays
from cmai_core.models import load_model
from cmai_core.models.tokenizer import bundled_tokenizer_dir
from cmai_core.training.recipes import get_recipe
from cmai_core.training.trainer import RunOptions, take_apart, train
from cmai_core.training.validation import robust_validation

SCENES, STEPS, EPSILON = 48, 8, 4 / 255
QUICK = {
    "batch": 24,
    "precision": "fp32",
    "warmup_steps": 2,
    "ema": 0.0,
    "learning_rate": 1e-3,
    "adversarial_share": 1.0,
    "nlvr_share": 0.0,
    "questions": 0,
    "weights.nlvr": 0.0,
    "weights.question": 0.0,
    "weights.patch": 0.0,
    "weights.caption": 0.0,
    "inner.losses": {"contrastive": 1.0},
    "inner.epsilon": EPSILON,
    "inner.step_size": EPSILON,
    "inner.warmup": 0.0,
    "inner.words": 0,
}


def test_seconds_of_training_improve_robustness_on_a_tiny_set(tmp_path):
    arrays = training_arrays(
        bundled_tokenizer_dir() / "tokenizer.json", "train", SCENES, workers=1, folder=tmp_path / "arrays"
    )
    model, recipe = load_model("tabletop", "cpu"), get_recipe("mbat", **QUICK)
    attack = {"scenes": SCENES, "epsilon": EPSILON, "steps": 4}
    before = robust_validation(take_apart(model), arrays, recipe, **attack)
    options = RunOptions(pairs=STEPS * recipe.batch, validate_every=0)
    train(recipe, out_dir=tmp_path / "run", model=model, arrays=arrays, options=options)
    after = robust_validation(take_apart(model), arrays, recipe, **attack)
    assert before["r1_attacked"] < 0.5 < before["r1_clean_small"]
    assert after["r1_attacked"] > before["r1_attacked"] + 0.15, (before, after)
    assert after["s_c_clean"] - after["s_c_attacked"] < before["s_c_clean"] - before["s_c_attacked"]
