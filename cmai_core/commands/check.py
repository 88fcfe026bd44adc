"""`cmai check`: its options, and what they run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.budget import Budget
from cmai_core.errors import OptionError
from cmai_core.progress import CancelToken, ProgressCallback

if TYPE_CHECKING:
    from cmai_core.evaluation.checks import Check

FORMAT = "cmai-check/1"


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from cmai_core.data.registry import DEFAULT_DATASET, dataset_words
    from cmai_core.tasks import DEFAULT_TASK, TASKS

    add = command.add_argument
    add("--model", default="tabletop", help="a bundled name or an open_clip specification (default: tabletop)")
    add("--task", default=DEFAULT_TASK, help=f"{', '.join(TASKS)} (default: {DEFAULT_TASK})")
    add("--epsilon", type=float, default=4.0, help="budget in units of 1/255 (l2: root mean square; default: 4)")
    add("--norm", default="linf", help="linf or l2 (default: linf)")
    add(
        "--attack", default="pgd", metavar="RECIPE", help="what is checked, such as pgd or apgd:steps=50 (default: pgd)"
    )
    add("--dataset", default=DEFAULT_DATASET, help=dataset_words())
    add("--split", default="test", help="default: test")
    add("--samples", type=int, default=32, help="pairs used; more of them decide more (default: 32)")
    add("--surrogate", dest="surrogates", action="append", help="another model to make pictures on; may be repeated")
    add("--queries", type=int, default=500, help="budget of the black-box search for each pair (default: 500)")
    add("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    add(
        "--store", type=Path, metavar="FOLDER", help="check the last run of cmai evaluate there instead; loads no model"
    )
    add("--device", help="cpu or cuda (default: cuda if there is one)")
    add("--json", type=Path, metavar="FILE", help="write the checks here (-: to stdout)")
    add("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace, progress: ProgressCallback, cancel: CancelToken) -> list[Check]:
    """Load what the options name, and check it.

    Raises:
        CmaiError: a model, dataset, task, store or option that cannot be used.
    """
    if args.store is not None:
        return _of_store(args.store)
    budget = Budget(args.norm, args.epsilon)
    if not budget.amount:
        raise OptionError("--epsilon is 0.", "Accepted: above 0, to 255 (units of 1/255).")
    from cmai_core.data import load_dataset
    from cmai_core.evaluation.checks import probe
    from cmai_core.models import load_model
    from cmai_core.models.truncation import warn_truncated

    dataset = load_dataset(args.dataset, split=args.split)
    model = load_model(args.model, device=args.device)
    warn_truncated(model, dataset, args.samples)
    return probe(
        model,
        args.task,
        dataset,
        epsilon=budget.pixels(3 * model.image_size**2),
        attack=args.attack,
        samples=args.samples,
        seed=args.seed,
        norm=args.norm,
        surrogates={name: load_model(name, device=args.device) for name in args.surrogates or ()},
        queries=args.queries,
        progress=progress,
        cancel=cancel,
    )


def _of_store(folder: Path) -> list[Check]:
    from cmai_core.evaluation.checks import check_predictions
    from cmai_core.evaluation.runs import predictions as readings
    from cmai_core.evaluation.store.store import Store

    store = Store.read(folder)
    try:
        plan = readings.plan_of(store)
        frame = readings.frame(store, plan)
    finally:
        store.close()
    return check_predictions(frame, [(cell.source, cell.task, cell.recipe) for cell in plan.cells if cell.skipped])


def document(args: argparse.Namespace, checks: Sequence[Check]) -> dict[str, Any]:
    """The checks with what they were made of, as JSON values."""
    from cmai_core.evaluation.checks import worst

    names = ("model", "task", "dataset", "split", "attack", "norm", "epsilon", "samples", "queries", "seed")
    setting = {name: getattr(args, name) for name in names} | {"surrogates": list(args.surrogates or ())}
    setting = setting if args.store is None else {"store": str(args.store)}
    status = worst([check.status for check in checks])
    return {"format": FORMAT, "setting": setting, "status": status, "checks": [check.to_dict() for check in checks]}
