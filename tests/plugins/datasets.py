"""A dataset of another package: six pictures of noise, with classes, and a split to set thresholds on."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cmai_core.data.memory import InMemory
from cmai_core.data.registry import DatasetInfo


def swatches(split: str) -> InMemory:
    """Make the pictures of a split."""
    rng = np.random.default_rng(len(split))
    pictures = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(6)]
    captions = [f"a plain picture number {k}" for k in range(6)]
    return InMemory(pictures, captions, labels=["red", "blue"] * 3, name="swatches", split=split)


SWATCHES = DatasetInfo(
    name="swatches",
    title="Plain colours",
    description="Noise.",
    splits={"plain": "", "val": "validation"},
    open=swatches,
    calibration="val",
    sizes={"plain": 6},
)


def use() -> object:
    """Evaluate and attack on it from the command line, and find it in the lab."""
    from cmai_core.cli import main

    common = ["--dataset", "swatches", "--split", "plain", "--limit", "4"]
    with TemporaryDirectory() as folder:
        out = Path(folder)
        report = ["--json", str(out / "attack.json")]
        codes = [main(["attack", *common, "--task", "zero-shot", "--steps", "2", "--quiet", *report])]
        grid = ["--tasks", "zero-shot", "--recipes", "fgsm", "--validation", "4", "--store", str(out / "store")]
        codes.append(main(["evaluate", *common, *grid, "--quiet", "--json", str(out / "table.json")]))
        attacked = json.loads((out / "attack.json").read_text())["experiment"]["dataset"]
        measured = "swatches" in (out / "table.json").read_text()
    return codes == [0, 0] and attacked == "swatches" and measured and _shown_in_the_lab()


def _shown_in_the_lab() -> bool:
    from app.components.explore.form import SETS
    from app.services.datasets import search_captions
    from cmai_core.lab.benchmark.choices import GridChoice
    from cmai_core.lab.experiment import Experiment
    from cmai_core.lab.places import place_of, shown_places

    wanted = GridChoice(models=("tabletop",), recipes=("fgsm",), dataset="swatches/plain", count=4).checked()
    pair = Experiment(pair="swatches/plain/1", caption="a picture").checked().pair
    return (
        shown_places()["swatches/plain"] == SETS["swatches/plain"] == "Plain colours"
        and [index for index, _ in search_captions("swatches/plain", "number 3")] == [3]
        and place_of(pair) == "swatches/plain"
        and wanted.values()["dataset"] == "swatches"
    )
