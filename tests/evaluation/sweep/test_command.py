"""`cmai evaluate` as a person uses it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from cmai_core import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fresh):
    """A small model as a folder that open_clip reads."""
    import torch

    from cmai_core.models import save_local_dir

    path = tmp_path_factory.mktemp("model") / "small"
    save_local_dir(fresh(1)["small-0"], path, dtype=torch.float32)
    return f"local-dir:{path}"


@pytest.fixture
def command(folder, tmp_path):
    plain = ["evaluate", "--models", folder, "--tasks", "zero-shot", "--limit", "6", "--validation", "0", "--quiet"]
    return [*plain, "--store", str(tmp_path / "store")]


def test_run_again_and_export(command, capsys, tmp_path):
    files = {name: tmp_path / f"table.{name}" for name in ("json", "csv", "tex")}
    options = ["--recipes", "fgsm", "pgd", "--epsilons", "2", "8", "--option", "pgd:steps=2"]
    options += ["--json", str(files["json"]), "--csv", str(files["csv"]), "--latex", str(files["tex"])]
    assert cli.main([*command, *options, "--plan"]) == 0
    out = capsys.readouterr().out
    assert "0 of 6 stored" in out and "4 cells, about" in out and json.loads(files["json"].read_text())["clean"] == 6
    assert not (tmp_path / "store").exists()
    assert cli.main([*command, *options]) == 0
    out, err = capsys.readouterr()
    assert "acc_clean" in out and "pgd" in out and "linf 8" in out and "24 examples made" in err
    assert re.search(r"self-checks: \d+ of \d+ pass", err)
    assert json.loads(files["json"].read_text())["rows"] and files["csv"].stat().st_size and files["tex"].stat().st_size
    assert cli.main([*command, *options]) == 0
    again, err = capsys.readouterr()
    assert again == out and "0 examples made, 0 predictions made" in err
    assert cli.main([*command, *options, "--plan"]) == 0
    assert "6 of 6 stored" in capsys.readouterr().out
    figures = ["--figures", "picture-sizes", "queries", "--json", "-"]
    assert cli.main([*command, *options[:-6], *figures]) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)["rows"]
    assert {row["figure"] for row in rows} == {"picture-sizes", "queries"} and "0 examples made" in err
    assert {row["metric"] for row in rows} >= {"linf", "ssim", "queries"}


def test_a_grid_from_a_file(command, capsys, tmp_path):
    spec = tmp_path / "grid.json"
    spec.write_text(json.dumps({"recipes": ["fgsm", "cw"], "epsilons": [3], "captions": 2}))
    assert cli.main([*command, "--spec", str(spec), "--recipes", "fgsm", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["recipe"] for row in rows} == {"clean", "fgsm"} and 3 in {row["epsilon"] for row in rows}


def test_mistakes_are_two_lines_and_status_two(command, capsys, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "evaluation.sqlite").write_text("something else")
    (tmp_path / "bad.json").write_text("[1]")
    cases = {
        ("--recipes", "magic"): "fgsm, r-fgsm",
        ("--figures", "magic"): "picture-sizes",
        ("--limit", "none"): "whole numbers from 1, or all",
        ("--option", "pgd=3"): "pgd:steps=50",
        ("--option", "pgd:steps=x"): "whole numbers",
        ("--spec", str(tmp_path / "bad.json")): '"recipes"',
        ("--json", str(tmp_path / "no" / "file")): "existing folder",
        (): "--store",
    }
    for arguments, words in cases.items():
        assert cli.main([*command, *arguments]) == 2, arguments
        out, err = capsys.readouterr()
        assert out == "" and words in err and err.count("\n") == 2, (arguments, err)
    assert (tmp_path / "store" / "evaluation.sqlite").read_text() == "something else"


def test_interrupted(command, tmp_path):
    """Ctrl+C: status 130, the table of what is there, and the store goes on."""
    options = ["--recipes", "fgsm", "pgd:steps=100000", "--epsilons", "2"]
    arguments = [sys.executable, "-m", "cmai_core", *command, *options]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    from cmai_core.evaluation.store.store import Store

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if (tmp_path / "store" / "examples").is_dir() and any((tmp_path / "store" / "examples").rglob("*.parquet")):
            break
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "fgsm" in out and "pgd:steps" not in out and "Interrupted: the table has" in err and "Traceback" not in err
    with Store.read(tmp_path / "store") as store:
        assert store.query("SELECT count(*) FROM examples") == [(6,)]
