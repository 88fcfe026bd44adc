"""Reports: everything in one file, nothing fetched, strangers' words shown as words."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from cmai_core.cli import parse
from cmai_core.commands.evaluate import grid_of
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.lab.again import compare_with_file
from cmai_core.lab.benchmark.choices import command
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.experiment_file import read_experiment, write_experiment
from cmai_core.lab.result import Answer, Example, LabResult, PairPrediction
from cmai_core.reports.charts import Point, Series, line_chart, ticks
from cmai_core.reports.experiment import MOST, experiment_report, experiments_report
from cmai_core.reports.looks import ROLES

HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}{% raw %}", "'; --", "</style><b>",
    "javascript:alert(1)", "&lt;i&gt;", "http://example.org/a.png", "\u202ered\u202c", "]]><!--",
)  # fmt: skip


def made_up(caption: str, name: str = "m") -> LabResult:
    clean = np.random.default_rng(0).integers(30, 220, (16, 16, 3), dtype=np.uint8)
    experiment = Experiment(pair="tabletop/test/0", caption=caption, b="")
    example = Example("A", clean, clean + 1, (0.1, 0.9), (0.6, -0.2), -0.21, 2, success=True, note=name)
    answers = {"zero-shot": (Answer(name, True, 0.9), Answer(f"{name} after", False, 0.7))}
    prediction = PairPrediction("A", name, name, "h1", "tabletop", "A", 0.612, -0.204, -0.21, -0.1, answers)
    return LabResult(experiment, {"A": example}, {"A": prediction}, 0.7, "cpu", "2025-01-01", {"python": "3"})


class Page(HTMLParser):
    """What a page is made of: tags, and whatever an attribute could fetch or run."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"]
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.links.append(value)
            if name.startswith("on") or name == "style":
                self.handlers.append(f"{tag} {name}")

    def handle_data(self, data):
        self.text += data


def checked(text: str) -> Page:
    page = Page(text)
    assert page.tags.count("script") == 1 and page.tags.count("style") == 1 and not page.handlers
    assert page.links and all(link.startswith("data:") for link in page.links)
    assert not {"iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert page.policy.startswith("default-src 'none'") and "unsafe" not in page.policy
    return page


@pytest.mark.parametrize("words", HOSTILE)
def test_strangers_words_are_words(words):
    page = checked(experiment_report(made_up(f"a cube {words}", words or "m")))
    assert page.tags.count("img") == 3
    assert words.replace("\u202e", "").replace("\u202c", "") in page.text


def test_a_seeded_mutator_of_captions_makes_no_tag():
    rng = random.Random(2)
    usual = sorted(set(checked(experiments_report([made_up("a cube")])).tags))
    signs = [*HOSTILE, *"<>\"'&`={}%/\\\u2028\x00", "onload=", "data:text/html,", "a red cube "]
    results = [made_up("a " + "".join(rng.choices(signs, k=8))[:200]) for _ in range(MOST)]
    assert set(checked(experiments_report(results)).tags) <= {*usual, "ins", "del"}


def test_the_file_inside_brings_the_experiment_back():
    result = made_up("a red cube")
    (url,) = re.findall(r'href="(data:application/json;base64,[^"]+)"', experiment_report(result))
    import base64

    found = read_experiment(base64.b64decode(url.partition(",")[2]))
    assert found.experiment == result.experiment
    rows = compare_with_file(found, result)
    assert "＝ equal" in checked(experiment_report(result, compared=rows)).text


def test_a_report_holds_what_makes_it_again(capsys):
    result = made_up("a red cube")
    page = checked(experiment_report(result))
    for words in ("h1", "cmai report cmai-experiment.json --again", "0.612", "−0.204", "✗ m after", "python"):
        assert words in page.text
    assert parse(["report", "cmai-experiment.json", "--again", "--out", "report.html"])[0] == "cmai report"
    with pytest.raises(OptionError):
        experiments_report([])


def test_the_command_of_a_grid_is_that_grid():
    import shlex

    for values in (
        {}, {"models": ("a b", "c"), "recipes": ("pgd:steps=5", "fgsm"), "epsilons": (0.5, 2.0), "limit": None},
        {"recipes": (), "cascade": True, "transfer": False, "seeds": (1, 2), "captions": 2, "gallery": 300},
        {"models": ("a", "b"), "sources": ("b",), "validation": 0, "options": {"pgd": {"steps": 7}}},
    ):  # fmt: skip
        grid = Grid(**values)
        words = shlex.split(command(grid.to_dict()).replace("\\\n", " "))
        assert grid_of(parse(words[1:])[1]) == grid


def test_charts_have_their_values_and_round_ticks():
    line = Series("<b>", ROLES["A"], [Point(0, 0.5, "first", 0.4, 0.6), Point(1, float("nan"), "no"), Point(2, 1, "x")])
    drawn = line_chart([line, Series("empty", ROLES["B"], [])], title="<i>", x_label="ε")
    assert drawn.count('class="dot"') == 2 and "&lt;b&gt;: first" in drawn and "<i>" not in drawn
    assert line_chart([], title="", x_label="") == ""
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] and ticks(3, 3) == [3]


def test_roles_look_as_in_the_lab():
    from app.components.common.theme import ROLES as LAB

    for role, look in ROLES.items():
        assert (look.colour, look.mark) == (LAB[role].colour, LAB[role].mark)
        assert look.dash == LAB[role].dash


def test_files_become_a_report_on_the_command_line(tmp_path, capsys):
    from cmai_core import cli

    files = []
    for number in range(2):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_bytes(write_experiment(made_up(f"a cube {number}")))
    out = tmp_path / "out.html"
    assert cli.main(["report", str(files[0]), "--out", str(out)]) == 0
    checked(out.read_text("utf-8"))
    assert cli.main(["report", *map(str, files), "--out", str(out)]) == 0
    assert "2 experiments" in checked(out.read_text("utf-8")).text
    old = json.loads(files[0].read_bytes())
    del old["pictures"]
    files[0].write_text(json.dumps(old | {"format": "cmai-lab-result/1"}))
    for wrong in (
        [str(files[0])], [str(tmp_path / "none.json")], [str(files[1]), "--run", "x"], [str(tmp_path), str(files[1])],
        [str(tmp_path), "--again"], [str(tmp_path)],
    ):  # fmt: skip
        assert cli.main(["report", *wrong, "--out", str(out)]) == 2
    assert "Traceback" not in capsys.readouterr().err


# --- runs of a store --------------------------------------------------------------------------------------------------


def test_runs_and_slices_of_a_store(measured):
    from cmai_core.lab.benchmark.results import results
    from cmai_core.reports.evaluation import evaluation_report

    folder, run = measured
    page = checked(evaluation_report(folder, [run], seen=lambda spec, picture: picture))
    made = results(folder, [run])
    for model in made.models:
        assert model in page.text
    assert f"--run {run}" in page.text and "cmai evaluate" in page.text and page.tags.count("img") > 4
    item = made.frame["item"].iloc[0]
    part = checked(evaluation_report(folder, [run], items=[item], seen=lambda spec, picture: picture))
    assert "A slice: 1 of" in part.text and f"--pairs {item}" in part.text
    counted = results(folder, [run], [item]).figures
    assert pd.Series(counted.loc[counted["kind"] == "clean", "clean_total"]).eq(1).all()
    with pytest.raises(Exception, match="None of these pairs"):
        evaluation_report(folder, [run], items=["tabletop/test/999"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(folder, run) of a small store, measured on random models of a bundled architecture."""
    import torch

    from cmai_core.evaluation.runs.runner import run
    from cmai_core.evaluation.runs.setting import Setting
    from cmai_core.evaluation.store.store import Store
    from cmai_core.models import new_model

    models = {name: new_model("tabletop", torch.Generator().manual_seed(k)) for k, name in enumerate(("one", "two"))}
    for model in models.values():
        model.clip.eval()
    grid = Grid(
        models=tuple(models), tasks=("zero-shot",), recipes=("fgsm",), epsilons=(2.0, 8.0), limit=4, validation=0
    )
    folder = tmp_path_factory.mktemp("store")
    with Store.write(folder) as store:
        report = run(Setting(grid, models=models), store)
    return folder, report.run


def test_a_result_without_any_attack_has_a_report():
    result = made_up("a cube")
    example = dataclasses.replace(result.examples["A"], begun=False, score_trace=(), objective_trace=())
    prediction = dataclasses.replace(result.predictions["A"], adversarial=None, answers={})
    bare = dataclasses.replace(result, examples={"A": example}, predictions={"A": prediction})
    page = checked(experiment_report(bare))
    assert "not attacked" in page.text and "img" not in page.tags
