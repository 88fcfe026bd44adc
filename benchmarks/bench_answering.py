"""What verified answering costs, by part: python benchmarks/bench_answering.py [--model tabletop-cmai] [--rounds 5]

Parts of one answer about a batch of pictures: the embedding (the image tower's pass), the shortlist (the model's own
scores of every option, and the k best), the verification (V_verify reads these; its texts are encoded already, as in a
system that has answered before), and the same the first time, when they are encoded too. `ratio`: the whole answer of
the system over that of the bare model, timed in turn, with the least and the largest of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from workload import paired

from cmai_core.data import load_dataset
from cmai_core.defenses.system import System
from cmai_core.defenses.verified import VerifiedAnswers
from cmai_core.evaluation.verification.answering import verifiable_tasks
from cmai_core.models import load_model
from cmai_core.tasks.stages import known_rule


def milliseconds(work: Callable[[], Any], rounds: int) -> float:
    """The median of some calls, after one that is not counted."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


@torch.no_grad()
def measure(model: Any, task: Any, dataset: Any, size: int, rule: VerifiedAnswers, rounds: int) -> str:
    """Time one task about the first pairs of a dataset at once; milliseconds a picture."""
    pairs = [dataset[k] for k in range(size)]
    system = System(model, answering=rule)
    pixels = model.preprocess([pair.image for pair in pairs])
    prepared = task.prepare(system, pairs, dataset)
    features = model.image_features(pixels)
    shortlist = rule.chosen(task.scores(model, features, prepared))
    parts = {
        "embedding": lambda: model.image_features(pixels),
        "shortlist": lambda: rule.chosen(task.scores(model, features, prepared)),
        "verification": lambda: task.verification(system, features, prepared, shortlist),
        "first time": lambda: task.verification(model, features, prepared, shortlist),
    }
    times = {name: milliseconds(work, rounds) / len(pairs) for name, work in parts.items()}

    def answer(who: Any) -> Callable[[], Any]:
        return lambda: task.predict(who, who.image_features(pixels), prepared)

    whole = paired(answer(model), answer(system), rounds)
    cells = [f"{value:14.3f}" for value in times.values()]
    return f"{task.name:14}{len(pairs):6}{rule.shortlist or 'all':>5}" + "".join(
        [
            *cells,
            f"{1000 * whole.theirs / len(pairs):14.3f}",
            f"  {whole.ratio:.2f} ({whole.low:.2f} to {whole.high:.2f})",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tabletop-cmai", help="with consistency heads")
    parser.add_argument("--task", action="append", help="may be repeated (default: all that are verified)")
    parser.add_argument("--batch", type=int, action="append", help="pictures; may be repeated (default: 1 and 32)")
    parser.add_argument("--shortlist", type=int, help="k (default: of the model's card, or 10)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = load_model(args.model)
    whole = load_dataset("tabletop", limit=200)
    tasks = verifiable_tasks(model, whole)
    print(f"{args.model} on {model.device}, {torch.get_num_threads()} threads; milliseconds a picture\n")
    heads = ("embedding", "shortlist", "verification", "first time", "answer")
    print(f"{'task':14}{'batch':>6}{'k':>5}" + "".join(f"{head:>14}" for head in heads) + "  ratio to the bare model")
    for name in args.task or tasks:
        rule = known_rule(model, name)
        if args.shortlist:
            rule = VerifiedAnswers(shortlist=args.shortlist)
        for size in args.batch or (1, 32):
            print(measure(model, tasks[name], whole, size, rule, args.rounds))


if __name__ == "__main__":
    main()
