"""A dataset, a task and a metric of another package, found by entry points alone: in commands and in the lab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DATA = '''
import numpy as np
from cmai_core.data.memory import InMemory
from cmai_core.data.registry import DatasetInfo
from cmai_core.tasks import TaskInfo
from cmai_core.tasks.metrics import Metric, bootstrap_interval

def swatches(split):
    rng = np.random.default_rng(len(split))
    pictures = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(6)]
    captions = [f"a plain picture number {k}" for k in range(6)]
    return InMemory(pictures, captions, labels=["red", "blue"] * 3, name="swatches", split=split)

def confidence(records):
    return bootstrap_interval([p.score for p in records.predictions], seed=records.seed), None

SWATCHES = DatasetInfo(
    name="swatches", title="Plain colours", description="Noise.", splits={"plain": "", "val": "validation"},
    open=swatches, calibration="val", sizes={"plain": 6},
)
BEST = TaskInfo(name="best-class", title="Best class", word="best class", make="their_task:BestClass")
CONFIDENCE = Metric("confidence", "mean confidence", confidence, tasks=("best-class",))
'''
TASK = '''
from cmai_core.tasks.zero_shot import ZeroShot

class BestClass(ZeroShot):
    name = "best-class"
'''
SCRIPT = '''
import json, sys
from pathlib import Path
from cmai_core.cli import main

out = Path(sys.argv[1])
common = ["--dataset", "swatches", "--split", "plain", "--limit", "4"]
codes = [
    main(["evaluate-clean", "--dataset", "swatches", "--split", "plain", "--task", "best-class",
          "--json", str(out / "clean.json")]),
    main(["attack", *common, "--task", "best-class", "--steps", "2", "--json", str(out / "attack.json")]),
    main(["evaluate", *common, "--tasks", "best-class", "--recipes", "fgsm", "--validation", "4", "--store",
          str(out / "store"), "--json", str(out / "table.json")]),
]

from app.components.common.survey import SETS
from app.components.common.words import TASK_WORDS
from app.services.datasets import search_captions
from cmai_core.lab.benchmark.choices import GridChoice
from cmai_core.lab.places import place_of, shown_places
from cmai_core.lab.experiment import Experiment

wanted = GridChoice(models=("tabletop",), tasks=("best-class",), recipes=("fgsm",), dataset="swatches/plain", count=4)
pair = Experiment(pair="swatches/plain/1", caption="a picture", task="best-class", recipe="fgsm", objective="task")
print(json.dumps({
    "codes": codes, "places": shown_places(), "word": TASK_WORDS["best-class"], "surveyed": SETS["swatches/plain"],
    "found": search_captions("swatches/plain", "number 3"), "place": place_of(pair.checked().pair),
    "grid": wanted.checked().values()["dataset"],
}))
'''


@pytest.fixture
def package(tmp_path):
    """A package as pip installs it."""
    (tmp_path / "their_data.py").write_text(DATA)
    (tmp_path / "their_task.py").write_text(TASK)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cmai.datasets]\nswatches = their_data:SWATCHES\n"
        "[cmai.tasks]\nbest-class = their_data:BEST\n"
        "[cmai.metrics]\nconfidence = their_data:CONFIDENCE\n"
    )
    return tmp_path


@pytest.mark.slow
def test_they_appear_in_commands_and_in_the_lab(package, tmp_path):
    paths = os.pathsep.join((str(package), str(ROOT)))
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths}, cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    assert not any(said["codes"])
    clean = json.loads((tmp_path / "clean.json").read_text())["tasks"]["best-class"]
    assert set(clean) == {"accuracy", "confidence"} and 0 < clean["confidence"]["value"] <= 1
    assert json.loads((tmp_path / "attack.json").read_text())["experiment"]["dataset"] == "swatches"
    table = (tmp_path / "table.json").read_text()
    assert "best-class" in table and "swatches" in table
    assert said["places"]["swatches/plain"] == said["surveyed"] == "Plain colours" and said["word"] == "best class"
    assert [index for index, _ in said["found"]] == [3]
    assert said["place"] == "swatches/plain" and said["grid"] == "swatches"
