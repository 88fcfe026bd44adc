"""`cmai check`: what it prints and writes, and its exit status."""

import json
import sqlite3

import pytest

from cmai_core import cli
from cmai_core.data import load_dataset
from cmai_core.evaluation.checks.probing import probe_names
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.runner import run
from cmai_core.evaluation.runs.setting import Setting
from cmai_core.evaluation.store.store import DATABASE, Store

SMALL = ["--model", "tabletop", "--task", "zero-shot", "--samples", "2", "--quiet"]


def test_one_step_on_two_pairs(tmp_path, capsys):
    out = tmp_path / "checks.json"
    status = cli.main(
        ["check", *SMALL, "--epsilon", "32", "--attack", "pgd:steps=3", "--queries", "5", "--json", str(out)]
    )
    document = json.loads(out.read_text())
    assert document["format"] == "cmai-check/1" and document["setting"]["attack"] == "pgd:steps=3"
    assert {check["status"] for check in document["checks"]} <= {"pass", "warn", "fail", "skipped"}
    assert len(document["checks"]) == len(probe_names()) + 1  # that of gradients makes two
    assert all(check["evidence"] for check in document["checks"])
    printed = capsys.readouterr().out
    assert all(check["name"] in printed for check in document["checks"])
    assert status == int(document["status"] == "fail")


def test_a_finished_evaluation_is_checked_without_a_model(tmp_path, capsys):
    grid = Grid(models=["tabletop"], tasks=["zero-shot"], recipes=["fgsm"], epsilons=[8], limit=4, validation=0)
    with Store.write(tmp_path) as store:
        run(Setting(grid, dataset=load_dataset("tabletop", split="test", limit=4)), store)
    assert cli.main(["check", "--store", str(tmp_path), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "PASS     every model faced every attack" in printed and "PASS     every example lies within" in printed
    # A finding makes the exit status 1: now examples are recorded as if they had left their budget.
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute("UPDATE examples SET linf = 1.0")
    assert cli.main(["check", "--store", str(tmp_path), "--quiet"]) == 1
    assert "FAIL     every example lies within" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [["--epsilon", "0"], ["--epsilon", "300"], ["--samples", "0"], ["--attack", "hotflip"], ["--norm", "l7"]],
)
def test_what_is_not_accepted_is_said_in_two_lines(options, capsys):
    assert cli.main(["check", *SMALL, *options]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_a_store_that_is_not_there(tmp_path, capsys):
    assert cli.main(["check", "--store", str(tmp_path / "none"), "--quiet"]) == 2
    assert "none" in capsys.readouterr().err
