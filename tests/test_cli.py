"""The command line as a person uses it: exit status, two-line errors, quick start, attack reports that replay."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from cmai_core import cli
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.attack_run import summarise
from cmai_core.evaluation.runs.experiment import AttackExperiment
from cmai_core.terminal import Table, deliver


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "cmai_core", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A bundled architecture with random weights, saved as a folder that open_clip reads."""
    from cmai_core.models import new_model, save_local_dir

    folder = tmp_path_factory.mktemp("model")
    save_local_dir(new_model("tabletop"), folder)
    return folder


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory):
    """Four pairs as a CSV, 128×128, from the renderer."""
    from cmai_core.data import load_dataset

    folder = tmp_path_factory.mktemp("pairs")
    dataset = load_dataset("tabletop", "test", limit=4)
    rows = ["image,caption"]
    for i in range(4):
        Image.fromarray(dataset[i].image).save(folder / f"{i}.png")
        rows.append(f'{i}.png,"{dataset[i].captions[0]}"')
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


# Starting, helping, failing


def test_help_is_quick_and_names_every_command():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = run("--help")
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0
    for command in (
        "app",
        "info",
        "models",
        "recipes",
        "attack",
        "evaluate",
        "evaluate-clean",
        "measure",
        "check",
        "report",
        "cmcv",
        "answering",
        "detector",
        "policies",
        "data",
        "train",
        "bundle",
        "compare",
        "reference",
        "trace",
        "placement",
        "masked-lm",
    ):
        assert command in result.stdout
    # What makes it slow is not the machine but an import: none of these may be loaded for the list of commands.
    code = "import sys, cmai_core.cli as c; c.main(['--help']); print(*[m for m in sys.modules if '.' not in m])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = printed.splitlines()[-1].split()
    heavy = {"torch", "numpy", "open_clip", "transformers", "streamlit", "PIL", "tqdm", "rich", "pydantic"}
    assert not heavy & set(loaded)
    assert min(seconds) < 1.0 or os.getloadavg()[0] > os.cpu_count()


def test_version_and_unknown_commands():
    assert run("--version").stdout.startswith("cmai ")
    for wrong in ((), ("conquer",), ("attack", "--epsilon", "much")):
        result = run(*wrong)
        assert result.returncode == 2 and "usage: cmai" in result.stderr and "Traceback" not in result.stderr


def test_a_usage_error_is_two_lines_and_status_two(capsys):
    for wrong in ((), ("conquer",), ("attack", "--epsilon", "much"), ("cmcv",), ("data", "sheet"), ("models", "extra")):
        assert cli.main(wrong) == 2, wrong
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 2 and err.splitlines()[1].startswith("usage: cmai"), (wrong, err)
    assert cli.main(["evaluate", "--models", "--tasks", "vqa"]) == 2 and "--models" in capsys.readouterr().err
    assert cli.main(["atack"]) == 2 and "'attack'" in capsys.readouterr().err


def test_an_option_takes_several_values_or_is_repeated():
    several = ["evaluate", "--models", "a", "b", "--recipes", "pgd", "--epsilons", "1", "-2", "--cascade"]
    repeated = ["evaluate", "--models=a", "--models", "b", "--recipes", "pgd", "--epsilons", "1", "--epsilons", "-2"]
    name, values = cli.parse(several)
    assert name == "cmai evaluate" and values["models"] == ["a", "b"] and values["epsilons"] == [1.0, -2.0]
    assert values["cascade"] and cli.parse([*repeated, "--cascade"])[1] == values
    assert cli.parse(["evaluate", "--eps", "3"])[1]["epsilons"] == [3.0]  # the beginning of one name only
    assert cli.parse(["cmcv", "m", "--fpr", "0.1", "0.2", "--splits"])[1]["splits"] == [""]  # none
    name, values = cli.parse(["data", "sheet", "--out", "a.png"])
    assert name == "cmai data sheet" and str(values["out"]) == "a.png" and values["count"] == 24
    with pytest.raises(OptionError):
        cli.parse(["evaluate", "--s", "3"])  # of several


def test_help_in_a_pipe_is_plain_text():
    for words in (["--help"], ["attack", "-h"], ["compare", "--help"], ["compare", "run", "--help"]):
        printed = run(*words).stdout
        assert printed.startswith("Usage: cmai") and not set("\x1b│╭") & set(printed)


def test_a_table_is_plain_text_in_a_pipe_and_drawn_on_a_terminal(monkeypatch, capsys):
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    table = Table([("name", "value"), ("a\x1b[31mb", "1"), ("[bold]", "22")])
    deliver(table)
    assert capsys.readouterr().out == "name        value\na\\x1b[31mb  1\n[bold]      22\n"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", Terminal())
    deliver(table)
    drawn = sys.stdout.getvalue()
    assert "[bold]" in drawn and "\\x1b[31m" in drawn and "\x1b[3" not in drawn and "─" in drawn


def test_a_mistake_is_two_lines_and_status_two(capsys, tmp_path):
    cases = {
        ("attack", "--epsilon", "300"): "Accepted: numbers from 0 to 255",
        ("attack", "--norm", "l7"): "Accepted: linf, l2",
        ("attack", "--limit", "0"): "Accepted: whole numbers from 1",
        ("attack", "--restarts", "2", "--no-random-start"): "Accepted: restarts=1",
        ("attack", "--objective", "both", "--alpha", "0", "--beta", "0"): "At least one part",
        ("attack", "--recipe", "magic"): "Accepted: pgd, mbat-pgd, fgsm",
        ("attack", "--recipe", "square", "--option", "speed=3"): "queries, share, rescale",
        ("attack", "--recipe", "square", "--steps", "3"): "queries, share, rescale",
        ("attack", "--recipe", "pgd", "--option", "epsilon=0.1"): "by the same name",
        ("attack", "--recipe", "pgd", "--option", "steps=3", "--steps", "3"): "Accepted: once",
        ("attack", "--recipe", "patch", "--epsilon", "3"): "Accepted: numbers from 0 to 1",
        ("attack", "--recipe", "eda", "--epsilon", "3"): "has no option 'epsilon'",
        ("attack", "--recipe", "eda", "--save-images", str(tmp_path / "png")): "--save-images",
        ("attack", "--spec", str(tmp_path / "none.json")): "Check the path.",
        ("attack", "--json", str(tmp_path / "no" / "out.json")): "existing folder",
        ("data", "sheet", "--split", "nowhere", "--out", str(tmp_path / "s.png")): "test, validation",
        ("data", "build", "--workers", "0"): "whole numbers from 1",
        ("app", "--port", "0"): "whole numbers from 1 to 65535",
    }
    for arguments, words in cases.items():
        assert cli.main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert out == "" and words in err and err.count("\n") == 2, (arguments, err)


def test_spec_files_are_checked(capsys, tmp_path):
    path = tmp_path / "spec.json"
    for text, words in (("{", "not JSON"), ("[1]", "no experiment"), ('{"epsilom": 4}', "epsilom")):
        path.write_text(text)
        assert cli.main(["attack", "--spec", str(path)]) == 2
        assert words in capsys.readouterr().err


# info, models, data


def test_info(capsys, private_cache):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert "torch " in out and "tabletop: test" in out and str(private_cache) in out and "device" in out
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {"versions", "device", "models", "datasets", "cache", "assets"}


def test_models_lists_what_is_bundled(capsys):
    from cmai_core.models import bundled_models

    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "local-dir:" in out and all(card.name in out for card in bundled_models())
    assert cli.main(["models", "--json"]) == 0
    assert [c["name"] for c in json.loads(capsys.readouterr().out)] == [c.name for c in bundled_models()]


def test_contact_sheet(tmp_path, capsys, pairs_folder):
    out = tmp_path / "sheet.png"
    arguments = ["data", "sheet", "--dataset", str(pairs_folder / "pairs.csv"), "--columns", "3", "--out", str(out)]
    assert cli.main(arguments) == 0
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (2 * 132 - 4, 3 * 132 - 4, 3)
    assert np.array_equal(sheet[:128, :128], np.asarray(Image.open(pairs_folder / "0.png")))
    assert (sheet[132:, 132:] == 255).all()
    assert list(tmp_path.iterdir()) == [out]


def test_data_builds_by_default(private_cache, capsys):
    assert cli.main(["data", "--scenes", "40", "--workers", "1"]) == 0
    assert "40 training scenes" in capsys.readouterr().out
    assert cli.main(["data", "build", "--scenes", "40"]) == 0
    assert any(private_cache.rglob("images.npy"))


def test_train_has_its_own_command_line():
    result = run("train", "--help")
    assert result.returncode == 0 and "--recipe" in result.stdout


# attack


def attack(tmp_path, model_folder, pairs_folder, *more, name="out.json"):
    out = tmp_path / name
    arguments = ["attack", "--model", f"local-dir:{model_folder}", "--dataset", str(pairs_folder / "pairs.csv")]
    arguments += ["--steps", "3", "--quiet", "--device", "cpu", "--json", str(out), *map(str, more)]
    return cli.main(arguments), out


def test_attack_writes_a_report_that_replays(tmp_path, capsys, model_folder, pairs_folder):
    status, out = attack(
        tmp_path, model_folder, pairs_folder,
        "--objective", "both", "--seed", 3, "--batch-size", 3, "--save-images", tmp_path / "png",
    )  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    data = json.loads(out.read_text())
    assert data["format"] == "cmai-attack/1" and data["experiment"]["seed"] == 3 and not data["cancelled"]
    ((spec, identity),) = data["models"].items()
    assert identity["spec"] == spec and len(identity["hash"]) == 64
    assert {"torch", "python", "cmai"} <= set(data["versions"])
    assert len(data["samples"]) == 4 and data["attack"]["epsilon"] == pytest.approx(4 / 255)
    totals = data["summary"][spec]
    assert totals == summarise(data["samples"], spec)
    assert totals["asr"]["total"] == totals["accuracy_clean"]["hits"]
    assert f"({totals['asr']['hits']}/{totals['asr']['total']})" in printed
    for sample in data["samples"]:
        assert sample["linf_8bit"] <= 4 / 255 + 1e-6 and len(sample["objective_trace"]) == 4
        assert sample["objective"] > sample["clean_objective"]
        prediction = sample["models"][spec]
        assert prediction["clean_consistency"] == pytest.approx(sample["clean_consistency"], abs=1e-5)
        assert prediction["consistency"] == pytest.approx(sample["consistency_8bit"], abs=1e-5)
        clean = np.asarray(Image.open(pairs_folder / f"{data['samples'].index(sample)}.png")).astype(int)
        saved = np.asarray(Image.open(tmp_path / "png" / sample["image"])).astype(int)
        assert 0 < np.abs(saved - clean).max() <= 4
    # The report is its own specification.
    again = tmp_path / "again.json"
    assert cli.main(["attack", "--spec", str(out), "--json", str(again), "--quiet", "--device", "cpu"]) == 0
    replay = json.loads(again.read_text())
    assert replay["experiment"] == data["experiment"]
    for first, second in zip(data["samples"], replay["samples"], strict=True):
        first.pop("image")
        assert first == second


def test_recipes_are_listed(capsys):
    from cmai_core.attacks.recipes.registry import RECIPES

    assert cli.main(["recipes"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "threat", "knowledge", "modality", "paper"]
    assert [line.split()[0] for line in lines] == list(RECIPES)
    starts = [head.index(word) for word in ("threat", "knowledge", "modality", "paper")]
    for line, recipe in zip(lines, RECIPES.values(), strict=True):
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        assert cells[1:] == [recipe.knowledge, recipe.modality, recipe.citation] and recipe.threat in cells[0]
    assert cli.main(["recipes", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert [card["slug"] for card in cards] == list(RECIPES)
    assert all(card["constants"] and card["compare"] and card["options"] for card in cards)


def run_recipe(tmp_path, model_folder, pairs_folder, recipe, *more, replay=False):
    """Runs a recipe, and its report again; the report."""
    out, again = tmp_path / f"{recipe}.json", tmp_path / "again.json"
    arguments = ["attack", "--model", f"local-dir:{model_folder}", "--dataset", str(pairs_folder / "pairs.csv")]
    arguments += ["--limit", "2", "--quiet", "--device", "cpu", "--recipe", recipe, *map(str, more)]
    assert cli.main([*arguments, "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert data["attack"]["name"] == recipe == data["recipe"]["slug"] == data["experiment"]["recipe"]
    if replay:
        assert cli.main(["attack", "--spec", str(out), "--quiet", "--device", "cpu", "--json", str(again)]) == 0
        second = json.loads(again.read_text())
        for key in ("experiment", "attack", "recipe", "rates", "summary", "samples"):
            assert data[key] == second[key], key
    return data


def test_attack_by_a_recipe(tmp_path, capsys, model_folder, pairs_folder):
    data = run_recipe(
        tmp_path, model_folder, pairs_folder, "mi-fgsm", "--steps", 2, "--epsilon", 2, "--option", "step-scale=3/4",
        replay=True,
    )  # fmt: skip
    assert data["attack"]["steps"] == 2 and data["attack"]["step_scale"] == 0.75 and data["attack"]["momentum"] == 1.0
    assert data["experiment"]["options"] == {"step_scale": 0.75} and data["experiment"]["restarts"] is None
    assert max(sample["linf_8bit"] for sample in data["samples"]) <= 2 / 255 + 1e-6
    assert data["recipe"]["year"] == 2018
    assert "mi-fgsm, linf 2/255, 2 steps" in capsys.readouterr().out
    # l0 counts pixels; an L2 budget is per pixel value, whatever the recipe.
    data = run_recipe(tmp_path, model_folder, pairs_folder, "pgd", "--norm", "l0", "--epsilon", 5, "--steps", 1)
    assert data["attack"]["epsilon"] == 5 and max(sample["l0"] for sample in data["samples"]) <= 5
    data = run_recipe(tmp_path, model_folder, pairs_folder, "deepfool", "--option", "steps=1")
    assert data["attack"]["epsilon"] == pytest.approx(4 / 255 * (3 * 128 * 128) ** 0.5)


def test_attack_with_a_surrogate(tmp_path, model_folder, pairs_folder):
    import torch

    from cmai_core.models import new_model, save_local_dir

    other = tmp_path / "other"
    save_local_dir(new_model("tabletop-b", torch.Generator().manual_seed(5)), other)
    surrogate = ("--option", f"surrogate=local-dir:{other}")
    data = run_recipe(tmp_path, model_folder, pairs_folder, "transfer", "--steps", 1, *surrogate)
    assert data["attack"]["surrogate"]["hash"] == data["models"][f"local-dir:{other}"]["hash"]
    assert list(data["summary"]) == [data["experiment"]["model"]]


def test_attack_on_texts_and_on_both(tmp_path, capsys, model_folder, pairs_folder):
    data = run_recipe(tmp_path, model_folder, pairs_folder, "synonym", "--option", "words=1", replay=True)
    assert data["experiment"]["epsilon"] is None and data["attack"]["text_threat"]["words"] == 1
    (totals,) = data["summary"].values()
    assert totals["asr"]["total"] == 0 and totals["samples"] == 2
    edited = [sample for sample in data["samples"] if sample["text"] != sample["clean_text"]]
    assert edited and all(sample["words_changed"] == 1 for sample in edited)
    for sample in data["samples"]:
        (prediction,) = sample["models"].values()
        assert prediction["consistency"] == pytest.approx(sample["consistency"], abs=1e-5)
    assert "text became false" in capsys.readouterr().out
    data = run_recipe(
        tmp_path, model_folder, pairs_folder, "sga", "--steps", 1, "--option", "proposer=synonyms", "--epsilon", 2,
        "--save-images", tmp_path / "png",
    )  # fmt: skip
    assert len(list((tmp_path / "png").iterdir())) == 2 and data["rates"]["success"]["total"] == 2
    for sample in data["samples"]:
        (prediction,) = sample["models"].values()
        assert sample["linf_8bit"] <= 2 / 255 + 1e-6 and prediction["clean_correct"] is not None
        assert prediction["consistency"] == pytest.approx(sample["consistency_8bit"], abs=1e-5)


def test_attack_shows_its_pictures_to_other_models(tmp_path, capsys, model_folder, pairs_folder):
    import torch

    from cmai_core.models import new_model, save_local_dir

    other = tmp_path / "other"
    save_local_dir(new_model("tabletop-b", torch.Generator().manual_seed(5)), other)
    status, out = attack(
        tmp_path, model_folder, pairs_folder, "--target-model", f"local-dir:{other}", "--limit", 2, "--norm", "l2"
    )
    assert status == 0
    data = json.loads(out.read_text())
    source, target = data["experiment"]["model"], f"local-dir:{other}"
    assert list(data["summary"]) == [source, target] and len(data["samples"]) == 2
    assert data["models"][source]["hash"] != data["models"][target]["hash"]
    root_mean_square = [s["l2"] / (3 * 128 * 128) ** 0.5 for s in data["samples"]]
    assert max(root_mean_square) <= 4 / 255 + 1e-6
    assert "transferred to" in capsys.readouterr().out
    assert all(set(s["models"]) == {source, target} for s in data["samples"])


def test_json_to_stdout_is_only_json(capsys, model_folder, pairs_folder):
    arguments = ["attack", "--model", f"local-dir:{model_folder}", "--dataset", str(pairs_folder / "pairs.csv")]
    assert cli.main([*arguments, "--steps", "1", "--limit", "2", "--json", "-", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["experiment"]["steps"] == 1 and "robust" in captured.err


def test_a_broken_run_leaves_the_old_report(tmp_path, capsys, model_folder, pairs_folder):
    out = tmp_path / "out.json"
    out.write_text("old")
    status, _ = attack(tmp_path, model_folder, pairs_folder, "--task", "levitation")
    assert status == 2 and "levitation" in capsys.readouterr().err
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_interrupt_reports_what_was_found(tmp_path, model_folder, pairs_folder):
    out = tmp_path / "out.json"
    arguments = ["attack", "--model", f"local-dir:{model_folder}", "--dataset", pairs_folder / "pairs.csv"]
    arguments += ["--steps", 100_000, "--limit", 2, "--json", out, "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cmai_core", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # The bar appears once the attack is under way.
    seen = b""
    while b"batch 1 of 1" not in seen and process.poll() is None:
        seen += process.stderr.read1(200)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and b"what was found until then" in rest, seen + rest
    data = json.loads(out.read_text())
    assert data["cancelled"] and len(data["samples"]) == 2 and data["samples"][0]["forwards"] < 100_000


# The specification


def test_experiments_round_trip_and_refuse_what_they_do_not_know():
    experiment = AttackExperiment(targets=("a", "b"), epsilon=8.0, limit=None)
    assert AttackExperiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment
    wrongs = ({"epsilom": 1}, {"steps": 0}, {"objective": "all"}, {"seed": -1}, {"epsilon": float("nan")})
    for wrong in (*wrongs, {"beta": 10**400}, {"options": {"steps": 2}}):  # options of no recipe would do nothing
        with pytest.raises(OptionError):
            AttackExperiment.from_dict(wrong)
    named = AttackExperiment(recipe="autoattack", options={"targets": 3}, steps=5, norm="l2")
    assert AttackExperiment.from_dict(json.loads(json.dumps(named.to_dict()))) == named
    assert named.epsilon == 4.0 and named.momentum is None
    assert AttackExperiment(recipe="universal").epsilon == pytest.approx(10) and experiment.momentum == 0.0
    assert AttackExperiment(recipe="patch").epsilon == 0.05 and AttackExperiment(recipe="jsma").norm == "l0"


def test_summary_counts_only_what_was_right_when_clean():
    def sample(clean, attacked):
        prediction = {"clean_correct": clean, "correct": attacked, "clean_consistency": 0.5, "consistency": 0.1}
        return {"models": {"m": prediction}}

    samples = [sample(True, False), sample(True, True), sample(False, False), sample(False, True), sample(None, None)]
    totals = summarise(samples, "m")
    assert totals["accuracy_clean"] == {"hits": 2, "total": 4, "share": 0.5}
    assert totals["accuracy_robust"] == {"hits": 1, "total": 4, "share": 0.25}
    assert totals["asr"] == {"hits": 1, "total": 2, "share": 0.5}
    assert totals["samples"] == 5 and totals["consistency_attacked"] == pytest.approx(0.1)
    assert summarise([sample(None, None)], "m")["asr"] == {"hits": 0, "total": 0, "share": None}
