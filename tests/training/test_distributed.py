"""Two processes at one training, started by torchrun on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cmai_core.errors import OptionError
from cmai_core.training.batches import draw, to_pixels
from cmai_core.training.distributed import ALONE, Processes, processes
from cmai_core.training.recipes import get_recipe
from cmai_core.training.trainer import Training

HELPERS = Path(__file__).with_name("helpers.py")
spec = importlib.util.spec_from_file_location("training_helpers", HELPERS)
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

SMALL = {"batch": 8, "precision": "fp32", "warmup_steps": 1, "ema": 0.0, "clip_norm": 1e9}
SCRIPT = """
import importlib.util, sys
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("training_helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
from pathlib import Path
from cmai_core.training.distributed import processes
from cmai_core.training.recipes import get_recipe
from cmai_core.training.trainer import RunOptions, train

shared = processes("cpu")
recipe = get_recipe(sys.argv[3], batch=8, precision="fp32", warmup_steps=1, ema=0.0, clip_norm=1e9)
options = RunOptions(pairs=int(sys.argv[4]) * recipe.batch, validate_every=0)
model = helpers.model()
train(recipe, out_dir=sys.argv[2], model=model, arrays=helpers.arrays(), validation=helpers.arrays(seed=5),
      options=options, processes=shared)
torch.save(model.clip.state_dict(), Path(sys.argv[2]) / f"rank{shared.rank}.pt")
"""


def launch(folder: Path, recipe: str, steps: int) -> None:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(HELPERS), str(folder / "run"), recipe, str(steps)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def two_shares_by_hand(name: str, steps: int) -> dict[str, torch.Tensor]:
    """What two processes should come to: gradients of two shares of each batch, averaged."""
    recipe = get_recipe(name, **SMALL)
    pair = [Training(helpers.model(), recipe, 0, helpers.arrays(seed=5), Processes(rank, 2)) for rank in (0, 1)]
    own = replace(recipe, batch=4)
    for _ in range(steps):
        for training in pair:
            training.total_steps = steps
            batch = draw(helpers.arrays(), own, 0, training.number, training.edits)
            clean = to_pixels(batch.images, recipe, 0, training.number)
            training.steering.measure(training.step)
            batch, pixels = training.perturbed(batch, clean)
            training.optimizer.zero_grad()
            training.loss(batch, pixels, clean, training._generator("/hidden"))[0].backward()
        for one, two in zip(*(t.module.parameters() for t in pair), strict=True):
            if one.grad is not None:
                one.grad = two.grad = (one.grad + two.grad) / 2
        for training in pair:
            for group in training.optimizer.param_groups:
                group["lr"] = recipe.learning_rate * group["scale"]
            training.optimizer.step()
            training.step += 1
    return pair[0].model.clip.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mbat"])
def test_two_processes_average_their_gradients(tmp_path, name):
    pytest.importorskip("accelerate")
    launch(tmp_path, name, 1)
    one, two = (torch.load(tmp_path / "run" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    expected = two_shares_by_hand(name, 1)
    start = helpers.model().clip.state_dict()
    moved = [key for key in one if not torch.equal(one[key], start[key])]
    assert len(moved) > 50
    for key in moved:
        # Adam's first step is the learning rate times the gradient's sign: only what is zero to rounding may differ.
        assert ((one[key] - expected[key]).abs() > 1e-5).float().mean() < 0.02, key
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry.get("final", False) for entry in logged] == [False, True]  # one process wrote, not both
    card = json.loads((tmp_path / "run" / "model" / "card.json").read_text())
    assert card["training"]["processes"] == 2


@pytest.mark.slow
def test_every_process_has_the_captions_of_all_in_its_queue(tmp_path):
    pytest.importorskip("accelerate")
    launch(tmp_path, "mbat-2", 2)
    one, two = (torch.load(tmp_path / "run" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    queue = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["queue"]
    own = replace(get_recipe("mbat-2"), batch=4)
    drawn = [draw(helpers.arrays(), own, 0, number) for number in range(4)]
    assert queue["captions"].tolist() == [
        [int(x) for b in drawn for x in getattr(b, name)] for name in ("rows", "columns")
    ]
    assert len(queue["texts"]) == 16


def test_shares_of_a_batch():
    assert Processes(1, 4).share(128) == 32
    for count, batch in ((3, 128), (64, 128)):
        with pytest.raises(OptionError, match=rf"\b{batch}\b.*\b{count}\b"):
            Processes(0, count).share(batch)


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes() is ALONE and ALONE.wrap(module := nn.Linear(1, 1)) is module
