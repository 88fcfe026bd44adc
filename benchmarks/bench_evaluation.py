"""What the evaluation saves: python benchmarks/bench_evaluation.py [--limit 32]

The same cells twice in one run. A plain loop does for each (source, target, task, recipe, ε) what a script would do:
read the clean predictions, craft, read the predictions again. The evaluation crafts once for all targets and
reads clean predictions once; where only the worst case over recipes is asked for, it runs them as a cascade. Both store
nothing beforehand and use the same attacks, seeds and batches; the evaluation also writes its store, and its time
includes reading it back. Printed: processor seconds, their ratio, and how many verdicts differ (must be 0 but for
matrix products of different shape, which round differently).
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch

from cmai_core.data import load_dataset
from cmai_core.evaluation.runs.grid import Grid
from cmai_core.evaluation.runs.predictions import frame
from cmai_core.evaluation.runs.predictor import make_batch, predict_images
from cmai_core.evaluation.runs.runner import run
from cmai_core.evaluation.store.store import Store
from cmai_core.models import load_model
from cmai_core.tasks import get_task
from cmai_core.tasks.retrieval import Retrieval

Verdicts = dict[tuple, bool]


def loop(grid: Grid, models: dict[str, Any], targets: bool) -> Verdicts:
    """The plain loop: (source, target, task, recipe, ε, item) → right when clean and when attacked."""
    dataset = load_dataset(grid.dataset, split=grid.split)
    found: Verdicts = {}
    for source, task_name, entry, epsilon in itertools.product(models, grid.tasks, grid.entries, grid.epsilons):
        for target in models if targets else (source,):
            task = Retrieval() if task_name == "retrieval" else get_task(task_name)
            experiment = grid.experiment(entry, epsilon, model=source, task=task_name)
            attack = experiment.build(task, dataset, 3 * models[source].image_size ** 2, None)
            for start in range(0, grid.limit, grid.batch_size):
                pairs = [dataset[k] for k in range(start, min(start + grid.batch_size, grid.limit))]
                batch = make_batch(models[source], pairs, 1)
                clean = [pair.image for pair in pairs]
                result = attack(models[source], batch, seed=0)
                before, after = predict_images(models[target], task, dataset, batch, (clean, result.images()))
                for pair, b, a in zip(pairs, before, after, strict=True):
                    key = (source, target, task_name, entry.label, epsilon, pair.id)
                    found[key] = bool(b.correct and a.correct)
    return found


def evaluated(grid: Grid, models: dict[str, Any]) -> tuple[Verdicts, Any]:
    """The evaluation's verdicts on what it faced, and its report."""
    with tempfile.TemporaryDirectory() as folder, Store.write(folder) as store:
        report = run(grid, store, models=models)
        rows = frame(store)
    rows = rows[rows["recipe"] != "clean"]
    keys = rows[["source", "target", "task", "recipe", "epsilon", "item"]].itertuples(index=False, name=None)
    right = (rows["correct_clean"] & rows["correct"]).fillna(False).astype(bool)
    clean = {(r.target, r.task, r.item): bool(r.correct_clean) for r in rows.itertuples()}
    return dict(zip(keys, right.tolist(), strict=True)), (report, clean)


def worst(verdicts: Verdicts) -> dict[tuple, bool]:
    """(model, task, ε, item) → still right under every recipe that was run on it."""
    out: dict[tuple, bool] = {}
    for (source, target, task, _, epsilon, item), right in verdicts.items():
        if source == target:
            key = (target, task, epsilon, item)
            out[key] = out.get(key, True) and right
    return out


def timed(call: Any) -> tuple[Any, float]:
    """What a call gives, and the processor time it took (of all threads): other load on the machine does not count."""
    start = time.process_time()
    return call(), time.process_time() - start


def warm_up(grid: Grid, models: dict[str, Any]) -> None:
    """What only the first of the two would pay: compiled code, the bank of reference captions, the first pass."""
    dataset = load_dataset(grid.dataset, split=grid.split)
    for task_name, model in itertools.product(grid.tasks, models.values()):
        task = get_task(task_name)
        batch = make_batch(model, [dataset[0]], 1)
        task.predict(model, model.image_features(batch.pixels), task.prepare(model, list(batch.pairs), dataset))


def rows(grid: Grid, models: dict[str, Any]) -> Iterator[str]:
    cells = len(grid.tasks) * len(grid.entries) * len(grid.epsilons) * len(models)
    plain, slow = timed(lambda: loop(grid, models, targets=True))
    (found, (report, _)), fast = timed(lambda: evaluated(grid, models))
    differ = sum(plain[key] != found[key] for key in plain)
    shown = f"{cells} cells, {len(models)} targets each"
    yield _row("every cell, every target", shown, slow, fast, f"{differ} of {len(plain)}")
    cascade = Grid.from_dict(grid.to_dict() | {"cascade": True, "transfer": False})
    plain, slow = timed(lambda: loop(grid, models, targets=False))
    (found, (report, _)), fast = timed(lambda: evaluated(cascade, models))
    full, few = worst(plain), worst(found)
    # What the cascade left out was lost before: wrong when clean, or fooled by a cheaper recipe.
    differ = sum(right != few.get(key, False) for key, right in full.items())
    shown = f"{cells} cells, {report.attacked} of {len(plain)} attacks run"
    yield _row("worst case over recipes", shown, slow, fast, f"{differ} of {len(full)}")
    for (name, task, epsilon), group in itertools.groupby(sorted(full), key=lambda key: key[:3]):
        items = list(group)
        yield (
            f"{name}, {task}, {epsilon:g}/255: worst case {sum(full[k] for k in items)} of {len(items)} by the loop, "
            f"{sum(few.get(k, False) for k in items)} by the cascade"
        )


def _row(what: str, size: str, slow: float, fast: float, differ: str) -> str:
    return f"| {what} | {size} | {slow:.0f} | {fast:.0f} | {slow / fast:.2f} | {differ} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tabletop", "tabletop-b", "tabletop-tecoa"])
    parser.add_argument("--tasks", nargs="+", default=["retrieval", "vqa"])
    parser.add_argument("--recipes", nargs="+", default=["fgsm", "pgd", "apgd", "apgd-dlr", "mi-fgsm"])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[2.0, 4.0])
    parser.add_argument("--limit", type=int, default=32)
    args = parser.parse_args()
    grid = Grid(
        models=args.models,
        tasks=args.tasks,
        recipes=args.recipes,
        epsilons=args.epsilons,
        limit=args.limit,
        options={name: {"steps": 20} for name in args.recipes if name.startswith("apgd")},
        validation=0,
    )
    models = {name: load_model(name) for name in args.models}
    warm_up(grid, models)
    print(f"{args.limit} pairs, {', '.join(args.recipes)}, {torch.get_num_threads()} threads\n")
    print("| what | size | loop, s | evaluation, s | loop / evaluation | verdicts that differ |")
    print("|---|---|---|---|---|---|")
    for row in rows(grid, models):
        print(row, flush=True)


if __name__ == "__main__":
    main()
