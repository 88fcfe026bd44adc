"""The benchmark's logic without a page: what is offered, a sweep in turns, runs brought together, pairs, links."""

from __future__ import annotations

import importlib.util
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.errors import CmaiError, OptionError
from cmai_core.jobs import JobQueue, Owner
from cmai_core.lab.benchmark import runs as bench_runs
from cmai_core.lab.benchmark import sweep
from cmai_core.lab.benchmark.choices import EFFORTS, OFFERS, GridChoice, command, duration, presets
from cmai_core.lab.benchmark.link import experiment_of

DEFENDED = {"tabletop": False, "tabletop-cmai": True}
OTHERS = ("tabletop", "tabletop-cmai")


def _sweep_helpers():
    """The small models and coloured pairs of the evaluation's tests."""
    path = Path(__file__).resolve().parents[1] / "evaluation" / "sweep" / "conftest.py"
    spec = importlib.util.spec_from_file_location("sweep_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small():
    """(models by name, pairs)."""
    helpers = _sweep_helpers()
    return helpers.make_models(), helpers.Coloured()


@pytest.fixture
def settle(small):
    from cmai_core.evaluation.runs.setting import Setting

    return lambda grid, tell: Setting(grid, models=small[0], dataset=small[1])


def values(**changes):
    chosen = GridChoice(
        models=("small-0", "small-1"), tasks=("zero-shot",), recipes=("fgsm", "pgd"), epsilons=(4.0, 16.0), count=8
    )
    return chosen.checked().values() | {"batch_size": 4} | changes


@pytest.fixture
def queue():
    with JobQueue(max_per_owner=2) as made:
        yield made


# --- what is offered --------------------------------------------------------------------------------------------------


def test_every_recipe_offered_builds_at_every_effort():
    from cmai_core.attacks.recipes.registry import get_recipe
    from cmai_core.evaluation.runs.grid import Grid

    for effort in EFFORTS:
        entries = [offer.entry(effort, 0.1) for offer in OFFERS.values()]
        grid = Grid(recipes=entries, epsilons=(2.0, 4.0))  # builds each of them
        for offer, entry in zip(OFFERS.values(), grid.entries, strict=True):
            assert entry.slug == offer.slug and get_recipe(offer.slug).modality == offer.modality
            several = len(grid.epsilons_of(entry)) > 1 and not entry.minimum_norm
            assert several != offer.own_budget, offer.slug
    quick = OFFERS["square"].entry("quick")
    assert quick == "square:queries=200" and OFFERS["square"].entry("published") == "square"


def test_a_choice_counts_the_cells_that_are_planned(small):
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.plan import plan
    from cmai_core.evaluation.runs.setting import Setting

    chosen = GridChoice(
        models=("small-0", "small-1"), tasks=("zero-shot", "vqa"), epsilons=(2.0, 8.0), count=4,
        recipes=("fgsm", "deepfool", "char", "patch", "sep"),
    )  # fmt: skip
    planned = plan(Setting(Grid.from_dict(chosen.checked().values()), models=small[0], dataset=small[1]))
    assert chosen.cells == len(planned.cells) == 2 * (2 * (2 + 1 + 1 + 2) + 1)
    by_recipe = {cell.slug: cell.units for cell in planned.cells}
    assert all(OFFERS[slug].units("quick") > 0 for slug in by_recipe) and by_recipe["fgsm"] == OFFERS["fgsm"].units(
        "quick"
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"models": ()}, None), ({"recipes": ()}, None), ({"epsilons": (3.0,)}, "3.0"),
        ({"recipes": ("pgd", "nothing")}, "nothing"), ({"count": 5}, "5"), ({"seed": -1}, "seed"),
        ({"recipes": ("adaptive",)}, "τ"), ({"recipes": ("adaptive",), "tau": 3.0}, "τ"),
        ({"models": tuple("abcdefg")}, "6"),
        ({"models": tuple("abcdef"), "recipes": tuple(OFFERS), "tau": 0.1, "epsilons": (1.0, 2.0, 4.0)}, "400"),
    ],
)  # fmt: skip
def test_what_is_not_offered_is_refused(changes, named):
    chosen = {"models": ("tabletop",), "recipes": ("pgd",)} | changes
    with pytest.raises(OptionError, match=named):
        GridChoice(**chosen).checked()


def test_presets_are_grids_and_a_command_says_the_same():
    import dataclasses
    import shlex

    from cmai_core.cli import parse
    from cmai_core.commands.evaluate import grid_of
    from cmai_core.evaluation.runs.grid import Grid

    for preset in presets():
        chosen = dataclasses.replace(preset.choice, models=OTHERS[: preset.models], tau=0.2)
        grid = Grid.from_dict(chosen.checked().values())
        words = shlex.split(command(chosen.values()).replace("\\\n", " "))[1:]
        assert grid_of(parse(words)[1]).to_dict() == grid.to_dict()
        assert 0 < chosen.seconds() < 1800 and chosen.seconds(1.0) == pytest.approx(chosen.seconds(0.5) * 2)
    assert duration(None) == "" and duration(8) == "about 8 s" and duration(200) == "about 3 min"


# --- a sweep ----------------------------------------------------------------------------------------------------------


def test_a_sweep_in_turns_makes_way_and_measures_the_same(tmp_path, queue, settle, small, monkeypatch):
    from cmai_core.evaluation.runs import predictions
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.store.store import Store

    monkeypatch.setattr(sweep, "SHORT_TURN", 0.0)
    turns = []
    real = sweep.Sweep._one_turn
    monkeypatch.setattr(sweep.Sweep, "_one_turn", lambda self: turns.append(1) or real(self))
    jobs = []

    def settle_and_wait(grid, tell):
        """The first turn finds others waiting; the sweep itself may still be far from its end when they are served."""
        jobs.extend(queue.submit(lambda progress, cancel: made.state.over, owner=f"other-{k}") for k in range(4))
        return settle(grid, tell)

    made = sweep.Sweep(queue, tmp_path / "turns", values(), settle_and_wait).start()
    end = made.wait(120)
    assert end.state == "done" and end.fraction == 1.0 and not end.failed and end.attacked == 2 * 4 * 8
    assert len(turns) > 1 and [job.result() for job in jobs] == [False] * 4
    with Store.write(tmp_path / "once") as store:
        report = run(Grid.from_dict(values()), store, models=small[0], dataset=small[1])
        wanted = predictions.frame(store, report.plan)
    assert report.run == end.run
    with Store.read(tmp_path / "turns") as store:
        got = predictions.frame(store)
    same = ["cell", "target", "item", "correct_clean", "correct", "answer", "linf"]
    assert got[same].equals(wanted[same])


def test_a_sweep_stops_and_goes_on(tmp_path, queue, settle):
    long = values(recipes=["pgd:steps=120"], epsilons=[1.0], limit=16)
    made = sweep.Sweep(queue, tmp_path, long, settle).start()
    end = time.monotonic() + 60
    while not (made.state.cells and bench_runs.live_cells(tmp_path, made.state.run)[0].done):
        assert time.monotonic() < end and not made.state.over, made.state
        time.sleep(0.02)
    made.cancel()
    assert made.wait(30).state == "cancelled"
    [info] = bench_runs.known_runs(tmp_path)
    done = sum(cell.done for cell in bench_runs.live_cells(tmp_path, info.run))
    assert 0 < done < 32 and not info.complete and info.run == made.state.run
    again = sweep.Sweep(queue, tmp_path, info.grid, settle).start()
    assert again.wait(200).state == "done" and again.state.attacked == 32 - done
    [info] = bench_runs.known_runs(tmp_path)
    assert info.complete and "16 pairs" in info.title and "pgd" in info.title


def test_a_sweep_ends_when_its_visitor_has_left(tmp_path, settle):
    present = {"v"}
    with JobQueue(present=lambda owner: owner.visitor in present) as queue:
        long = values(recipes=["pgd:steps=120"], epsilons=[1.0], limit=16)
        made = sweep.Sweep(queue, tmp_path, long, settle, Owner("", "v", "a")).start()
        end = time.monotonic() + 60
        while not (made.state.cells and bench_runs.live_cells(tmp_path, made.state.run)[0].done):
            assert time.monotonic() < end and not made.state.over, made.state
            time.sleep(0.02)
        present.clear()
        assert made.wait(30).state == "cancelled" and not queue.pending
    [info] = bench_runs.known_runs(tmp_path)
    assert not info.complete  # and what was finished is kept: a run goes on from there


def test_what_a_sweep_cannot_do_is_said(tmp_path, queue, settle):
    from cmai_core.evaluation.store.store import DATABASE, Store

    with Store.write(tmp_path):
        end = sweep.Sweep(queue, tmp_path, values(), settle).start().wait(60)
        assert end.state == "failed" and str(os.getpid()) in end.error.message
    end = sweep.Sweep(queue, tmp_path, values(recipes=["nothing"]), settle).start().wait(60)
    assert end.state == "failed" and "nothing" in end.error.message
    (tmp_path / DATABASE).write_bytes(b"broken")
    with pytest.raises(CmaiError, match=re.escape(str(tmp_path))):
        bench_runs.known_runs(tmp_path)
    assert bench_runs.known_runs(tmp_path / "nowhere") == [] and bench_runs.signature(tmp_path / "nowhere") == ()


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(small, tmp_path_factory):
    """A store with three runs: eight pairs, the first four of them with other recipes, and other options."""
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.store.store import Store

    folder = tmp_path_factory.mktemp("bench")
    quick = ["fgsm", "deepfool:steps=4", "char:candidates=5,rounds=1", "sep:steps=2"]
    grids = [
        values(recipes=quick), values(recipes=["pgd"], limit=4, options={"pgd": {"steps": 2}}),
        values(recipes=["pgd"], limit=4, options={"pgd": {"steps": 3}}),
    ]  # fmt: skip
    with Store.write(folder) as store:
        runs = [run(Grid.from_dict(g), store, models=small[0], dataset=small[1]).run for g in grids]
    return folder, runs


def test_every_figure_counts_the_pairs_behind_it(stored):
    from cmai_core.lab.benchmark.results import FOOLED, HELD, pairs_behind, results

    folder, runs = stored
    made = results(folder, runs[:1])
    kinds = set()
    for row in made.figures.to_dict("records"):
        pairs = pairs_behind(made.frame, row)
        assert len(pairs) == 8 and not pairs.duplicated(["item", "text_index"]).any()
        counts = pairs["verdict"].value_counts()
        kinds.add((row["kind"], row["modality"]))
        if row["kind"] == "clean":
            assert counts.get(HELD, 0) == row["clean_hits"]
        elif row["modality"] != "text":
            assert counts.get(FOOLED, 0) == row["asr_hits"] and counts.get(HELD, 0) == row["robust_hits"]
        assert row["kind"] == "clean" or np.isfinite(row["sc"])
    assert {("clean", "clean"), ("attack", "image"), ("attack", "text"), ("attack", "joint")} <= kinds
    assert {check.status for check in made.checks} <= {"pass", "warn", "fail", "skipped"} and made.note == ""


def test_a_row_of_every_table_is_found_among_the_figures(stored):
    """Numbers open the pairs behind them: transfer and exported tables write the same figure in their own ways."""
    from app.components.benchmark.modalities import _side_id
    from app.components.benchmark.words import figure_id
    from cmai_core.lab.benchmark.results import hardest, results

    folder, runs = stored
    for names in (runs[:1], runs):
        made = results(folder, names)
        known = [figure_id(row) for row in made.figures.to_dict("records")]
        assert len(set(known)) == len(known)
        transfer = made.transfer[(made.transfer["task"] != "") & made.transfer["total"].notna()]
        summary = made.summary[made.summary["metric"].isin(["acc_clean", "acc_robust", "asr"])]
        for table in (transfer, summary, hardest(made.figures)):
            assert len(table) and {figure_id(row) for row in table.to_dict("records")} <= set(known)
        sides = made.sides[(made.sides["source"] == made.sides["target"]) & made.sides["modality"].isin(["image"])]
        assert all(_side_id(made, row) in known for row in sides.to_dict("records"))


def test_the_smallest_epsilon_of_each_pair_agrees_with_the_figures(stored):
    from cmai_core.lab.benchmark.results import hardest, results
    from cmai_core.lab.benchmark.smallest import smallest_curve, smallest_epsilons

    folder, runs = stored
    made, checked = results(folder, runs[:1]), 0
    worst = hardest(made.figures)
    worst = worst[worst["modality"] == "image"]
    assert worst["norm"].nunique() == 2  # an attack at a fixed ε, and a search for the nearest picture
    for row in worst.to_dict("records"):
        needed = smallest_epsilons(made.frame, row["target"], row["task"], "image", row["norm"])
        curve = smallest_curve(needed, float(worst["epsilon"].max()))
        assert curve["value"].is_monotonic_decreasing and (curve["low"] <= curve["value"]).all()
        assert curve["hits"].iloc[0] == row["clean_hits"] and curve["total"].eq(8).all()
        assert curve.loc[curve["epsilon"] <= row["epsilon"], "hits"].iloc[-1] == row["robust_hits"]
        checked += 1
    assert checked


def test_runs_are_compared_on_the_pairs_they_share(stored):
    from cmai_core.lab.benchmark.results import results

    folder, runs = stored
    made = results(folder, runs)
    assert "4 pairs" in made.note and made.frame["item"].nunique() == 4
    own = made.figures[made.figures["own"] & (made.figures["kind"] != "clean")]
    assert {"pgd", "pgd (2)", "worst case"} <= set(own["recipe"])  # two runs mean different things by "pgd"
    assert (own.loc[own["kind"] == "worst", "recipes"].str.count(",") == 2).any()
    assert not made.frame.duplicated(["cell", "source", "target", "task", "recipe", "item", "text_index"]).any()


def test_a_pair_behind_a_figure_is_shown(stored, small):
    from cmai_core.evaluation.store.store import Store
    from cmai_core.lab.benchmark.results import open_pair, pairs_behind, results

    folder, runs = stored
    made = results(folder, runs[:1])
    with Store.read(folder) as store:
        for modality, changed in (("image", (True, False)), ("text", (False, True)), ("joint", (True, True))):
            wanted = made.figures[(made.figures["modality"] == modality) & (made.figures["kind"] == "attack")]
            rows = pairs_behind(made.frame, wanted.iloc[0]).to_dict("records")
            pair = small[1][int(rows[0]["item"].rsplit("/", 1)[1])]
            shown = open_pair(store, rows[0], pair.image, pair.captions)
            assert shown.before == pair.captions[0] and (shown.after is not None) == changed[1]
            size = np.abs(shown.adversarial.astype(int) - shown.clean).max()
            assert (size > 0) == changed[0] and size / 255 == pytest.approx(rows[0]["linf"] if changed[0] else 0)


def test_files_hold_the_table(stored):
    import io
    import json

    import pandas as pd

    from cmai_core.lab.benchmark.export import as_bytes
    from cmai_core.lab.benchmark.results import results

    made = results(stored[0], stored[1][:1])
    again = pd.read_csv(io.BytesIO(as_bytes(made.summary, "csv")))
    assert np.allclose(again["value"], made.summary["value"].astype(float), equal_nan=True)
    assert len(json.loads(as_bytes(made.summary, "json"))["rows"]) == len(made.summary)
    assert as_bytes(made.summary, "tex").decode().startswith(r"\begin{tabular}")
    with pytest.raises(OptionError):
        as_bytes(made.summary, "pdf")


# --- into the attack lab ----------------------------------------------------------------------------------------------


def row(**changes):
    first = {
        "item": "tabletop/test/3", "source": "tabletop", "target": "tabletop", "task": "zero-shot", "seed": 7,
        "recipe": "pgd:steps=10",
    }  # fmt: skip
    return first | changes


def test_a_pair_becomes_the_same_attack_in_the_lab():
    from cmai_core.lab.experiment import Experiment

    made, note = experiment_of(row(), 8.0, "a red cube", DEFENDED, OTHERS)
    assert (made.pair, made.recipe, made.steps, made.epsilon, made.seed) == ("tabletop/test/3", "pgd", 10, 8.0, 7)
    assert (made.a, made.b, made.craft_on, note) == (*OTHERS, "A", "")
    assert Experiment.from_query(made.to_query()) == made
    made, _ = experiment_of(row(source="tabletop-cmai", target="tabletop-cmai"), 2.0, "x", DEFENDED, OTHERS)
    assert (made.a, made.b, made.craft_on) == (*OTHERS, "B")
    made, _ = experiment_of(row(target="tabletop-cmai"), 2.0, "x", DEFENDED, OTHERS)
    assert (made.a, made.b, made.craft_on) == (*OTHERS, "A")
    made, _ = experiment_of(row(source="ViT-B-32/random", target="tabletop"), 2.0, "x", DEFENDED, OTHERS)
    assert (made.a, made.b, made.craft_on) == ("ViT-B-32/random", "tabletop", "A")


@pytest.mark.parametrize("slug", OFFERS)
def test_every_recipe_opens_in_the_lab(slug):
    entry = OFFERS[slug].entry("quick", 0.1)
    made, note = experiment_of(row(recipe=entry, task=""), float("nan"), "a red cube", DEFENDED, OTHERS)
    assert made.checked() and bool(note) == bool(RECIPES.find(slug).absent)


def test_what_the_lab_does_not_have_is_said():
    with pytest.raises(OptionError):
        experiment_of(row(item="tabletop/holdout/3"), 2.0, "x", DEFENDED, OTHERS)
    _, note = experiment_of(row(recipe="mine@module:function"), 2.0, "x", DEFENDED, OTHERS)
    assert "does not run mine" in note
