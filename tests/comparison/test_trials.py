"""Validation trials: the same number for every recipe, gone on with, and never a look at test scenes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cmai_core import cli
from cmai_core.comparison.second import PAIRS, TRIALS, chosen_epsilons, second_recipe, train_second
from cmai_core.comparison.trials import RULE, Terms, chosen, run_trials, summary, table
from cmai_core.errors import CmaiError, DataError, OptionError
from cmai_core.training.recipes import RECIPES, get_recipe

SMALL = {"pairs": 10, "epsilons": (2.0, 6.0), "scenes": 8, "training_scenes": 8}


def test_trials_are_trained_measured_kept_and_not_made_twice(tmp_path, private_cache, monkeypatch):
    from cmai_core.data.tabletop import arrays

    opened, real = [], arrays.training_arrays

    def recorded(vocabulary, split="train", *rest, **options):
        opened.append(split)
        return real(vocabulary, split, *rest, **options)

    monkeypatch.setattr(arrays, "training_arrays", recorded)
    monkeypatch.setitem(RECIPES._parts, "fare", replace(RECIPES["fare"], batch=8))
    out = run_trials(["fare"], tmp_path, Terms(**SMALL), device="cpu")
    assert set(opened) == {"train", "validation"}
    assert json.loads((tmp_path / TRIALS).read_text()) == out and out["rule"] == RULE
    trials = out["recipes"]["fare"]["trials"]
    assert list(trials) == ["2", "6"] and all(len(figures["worst"]) == 2 for figures in trials.values())
    assert out["recipes"]["fare"]["chosen"] in (2.0, 6.0) and "`fare`" in table(out)
    trained = [json.loads((tmp_path / f"fare-{e}" / "trial.json").read_text())["identity"] for e in ("2", "6")]
    assert [one["recipe"]["inner"]["epsilon"] for one in trained] == [2 / 255, 6 / 255]
    assert all(one["pairs"] == 8 for one in trained)  # one step at least

    opened.clear()
    assert run_trials(["fare"], tmp_path, Terms(**SMALL), device="cpu") == out
    assert opened == []  # nothing was trained or measured again
    with pytest.raises(DataError, match="seed"):
        run_trials(["fare"], tmp_path, Terms(**SMALL, seed=1), device="cpu")


def figures(clean, *worst):
    return {"scenes": 300, "clean": clean, "worst": list(worst), "attacks": []}


def test_the_rule_takes_the_highest_mean_and_of_equals_the_smallest():
    assert chosen({6.0: figures(0.9, 0.5, 0.4), 2.0: figures(0.7, 0.6, 0.2)}) == 6.0
    assert chosen({6.0: figures(0.9, 0.5, 0.25), 3.0: figures(0.1, 0.25, 0.5), 4.0: figures(0.9, 0.5, 0.0)}) == 3.0
    out = summary({"mat": {2.0: figures(0.7, 0.6, 0.2), 3.0: figures(0.7, 0.6, 0.3)}}, Terms(epsilons=(2.0, 3.0)))
    assert "| `mat` | **3** | 70.0 | 60.0 | 30.0 |" in table(out) and "| `mat` | 2 |" in table(out)


def test_all_recipes_have_the_terms_of_the_second_comparison():
    for name in ("tecoa", "hard-negative-mat", "leaf", "mbat-2", "cmai-2"):
        recipe = second_recipe(name, 4.5)
        assert (recipe.start, recipe.architecture, recipe.pairs) == ("tabletop-2", "tabletop-2", PAIRS)
        inner = recipe.inner
        assert inner.epsilon == inner.step_size == 4.5 / 255 and (inner.steps, inner.start) == (1, "noise")
        assert recipe.weights.prompts == (0.5 if recipe.weights.contrastive else 0.0)
        assert inner.losses == get_recipe(name).inner.losses  # what is the recipe's own stays
    steered = second_recipe("cmai", 4.0).controller
    assert steered.epsilon.high == steered.start.epsilon == 4 / 255
    assert second_recipe("continued", None).inner is None
    for name, epsilon in (("continued", 3.0), ("tecoa", None), ("base", 3.0)):
        with pytest.raises(OptionError):
            second_recipe(name, epsilon)


def test_the_schedule_is_trained_with_the_chosen_radius(tmp_path, monkeypatch):
    from cmai_core.training import runs

    (tmp_path / TRIALS).write_text(json.dumps(summary({"mat": {3.0: figures(0.7, 0.6, 0.3)}}, Terms(epsilons=(3.0,)))))
    assert chosen_epsilons(tmp_path) == {"mat": 3.0}
    asked = []

    def run(recipe, **options):
        asked.append((recipe, options))
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run", run)
    with pytest.raises(KeyboardInterrupt):
        train_second(["mat"], tmp_path / "out", {"mat": 3.0}, seed=1)
    recipe, options = asked[0]
    assert recipe == second_recipe("mat", 3.0) and options["out_dir"] == tmp_path / "out" / "mat-1"
    assert options["seed"] == 1 and options["options"].pairs == PAIRS
    with pytest.raises(DataError):
        chosen_epsilons(tmp_path / "none")


@pytest.mark.parametrize("names", [["base"], ["continued"], ["tecoa", "tecoa"], [], ["no such"]])
def test_what_has_no_radius_to_try_is_refused(names, tmp_path):
    with pytest.raises(CmaiError):
        run_trials(names, tmp_path / "none", Terms(**SMALL))
    assert not (tmp_path / "none").exists()


def test_mistakes_on_the_command_line_are_said(tmp_path, capsys):
    with pytest.raises(OptionError):
        Terms(epsilons=(2.0, 2.0))
    assert cli.main(["compare", "trials", "continued", "--folder", str(tmp_path), "--quiet"]) == 2
    assert "no ε to try" in capsys.readouterr().err
