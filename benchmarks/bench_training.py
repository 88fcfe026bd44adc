"""What a training step of each recipe costs: python benchmarks/bench_training.py [--recipes tecoa cmai] [--rounds 3]

The recipes take turns, so that whatever else the machine does falls on all of them. Counted is processor time of one
thread per image-caption pair, batches and inner problem included; ratios are to `continued`, which trains on clean
pictures only, with the spread over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from cmai_core.data.tabletop.arrays import training_arrays
from cmai_core.models import load_model
from cmai_core.models.tokenizer import bundled_tokenizer_dir
from cmai_core.training.batches import draw
from cmai_core.training.recipes import PAIRS, RECIPES, get_recipe
from cmai_core.training.trainer import Training

REFERENCE = "continued"
SCENES = 2048


class Timed:
    """One recipe's training, stepped from outside."""

    def __init__(self, name: str, arrays: object, validation: object, start: str | None):
        recipe = get_recipe(name)
        recipe = replace(recipe, inner=recipe.inner and replace(recipe.inner, warmup=0.0))
        self.training = Training(load_model(start or recipe.start), recipe, 0, validation, arrays=arrays)
        self.training.total_steps = PAIRS // recipe.batch
        self.arrays, self.step = arrays, 0

    def run(self, steps: int) -> float:
        """Processor seconds a pair over some steps."""
        recipe = self.training.recipe
        start = time.process_time()
        for _ in range(steps):
            self.training.advance(draw(self.arrays, recipe, 0, self.step, self.training.edits))
            self.step += 1
        return (time.process_time() - start) / (steps * recipe.batch)


def main() -> None:
    known = [name for name, recipe in RECIPES.items() if recipe.start and not recipe.replay]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--recipes", nargs="+", choices=known, default=[n for n in known if RECIPES[n].start == "tabletop"]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of each recipe in a round")
    parser.add_argument("--start", help="model that all of them train from, instead of their own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    vocabulary = bundled_tokenizer_dir() / "tokenizer.json"
    arrays, validation = (
        training_arrays(vocabulary, split, scenes, false_captions=True, things=True)
        for split, scenes in (("train", SCENES), ("validation", 500))
    )
    names = list(dict.fromkeys([REFERENCE, *options.recipes]))
    timed = {name: Timed(name, arrays, validation, options.start) for name in names}
    for one in timed.values():  # the first step allocates
        one.run(1)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, one in timed.items():
            found[name].append(one.run(options.steps))
    print("| recipe | processor ms a pair | to `continued` | over rounds |\n|---|---|---|---|")
    for name, seconds in found.items():
        ratios = [own / base for own, base in zip(seconds, found[REFERENCE], strict=True)]
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        print(f"| `{name}` | {1000 * statistics.median(seconds):.1f} | {statistics.median(ratios):.2f} | {spread} |")


if __name__ == "__main__":
    main()
