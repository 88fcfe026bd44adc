"""`cmai check`: self-checks of one attack on one model, or of a finished evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.budget import Budget
from cmai_core.commands.parameters import Dataset, Device, Json, Quiet, Split
from cmai_core.data.registry import DEFAULT_DATASET
from cmai_core.errors import OptionError
from cmai_core.files import write_json
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.tasks import DEFAULT_TASK, TASKS
from cmai_core.terminal import check_outputs, deliver, interruptible, progress_bar

if TYPE_CHECKING:
    from cmai_core.evaluation.checks import Check

FORMAT = "cmai-check/1"


def check(
    model: Annotated[str, typer.Option(help="a bundled name or an open_clip specification")] = "tabletop",
    task: Annotated[str, typer.Option(help=", ".join(TASKS))] = DEFAULT_TASK,
    epsilon: Annotated[float, typer.Option(help="budget in units of 1/255 (l2: root mean square)")] = 4.0,
    norm: Annotated[str, typer.Option(help="linf or l2")] = "linf",
    attack: Annotated[
        str, typer.Option(metavar="RECIPE", help="what is checked, such as pgd or apgd:steps=50")
    ] = "pgd",
    dataset: Dataset = DEFAULT_DATASET,
    split: Split = "test",
    samples: Annotated[int, typer.Option(help="pairs used; more of them decide more")] = 32,
    surrogates: Annotated[
        list[str] | None,
        typer.Option("--surrogate", help="another model to make pictures on; may be repeated"),
    ] = None,
    queries: Annotated[int, typer.Option(help="budget of the black-box search for each pair")] = 500,
    seed: Annotated[int, typer.Option(help="of all random numbers")] = 0,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="check the last run of cmai evaluate there instead; loads no model"),
    ] = None,
    device: Device = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> int:
    """Self-checks: does an attack, or a finished evaluation, measure the model or its own weakness?

    The exit status is 1 where a check fails.
    """
    setting = {
        "model": model, "task": task, "dataset": dataset, "split": split, "attack": attack, "norm": norm,
        "epsilon": epsilon, "samples": samples, "queries": queries, "seed": seed, "surrogates": surrogates or [],
    }  # fmt: skip
    check_outputs({"--json": json_file})
    from cmai_core.evaluation.checks import report

    with interruptible() as cancel, progress_bar(quiet, unit="check") as show:
        checks = _of_store(store) if store is not None else _probed(setting, device, show, cancel)
    shown = setting if store is None else {"store": str(store)}
    deliver(report(checks), [(json_file, lambda path: write_json(path, document(shown, checks)))])
    if cancel.cancelled:
        return 130
    return int(any(check.status == "fail" for check in checks))


def _probed(
    setting: Mapping[str, Any], device: str | None, progress: ProgressCallback, cancel: CancelToken
) -> list[Check]:
    """Load what the options name, and check it.

    Args:
        setting: option → value, as `check` takes them.

    Raises:
        CmaiError: a model, dataset, task or option that cannot be used.
    """
    budget = Budget(setting["norm"], setting["epsilon"])
    if not budget.amount:
        raise OptionError("--epsilon is 0.", "Accepted: above 0, to 255 (units of 1/255).")
    from cmai_core.data import load_dataset
    from cmai_core.evaluation.checks import probe
    from cmai_core.models import load_model
    from cmai_core.models.truncation import warn_truncated

    dataset = load_dataset(setting["dataset"], split=setting["split"])
    model = load_model(setting["model"], device=device)
    warn_truncated(model, dataset, setting["samples"])
    return probe(
        model,
        setting["task"],
        dataset,
        epsilon=budget.pixels(3 * model.image_size**2),
        attack=setting["attack"],
        samples=setting["samples"],
        seed=setting["seed"],
        norm=setting["norm"],
        surrogates={name: load_model(name, device=device) for name in setting["surrogates"]},
        queries=setting["queries"],
        progress=progress,
        cancel=cancel,
    )


def _of_store(folder: Path) -> list[Check]:
    from cmai_core.evaluation.checks import check_predictions
    from cmai_core.evaluation.runs import predictions
    from cmai_core.evaluation.store.store import Store

    store = Store.read(folder)
    try:
        plan = predictions.plan_of(store)
        frame = predictions.frame(store, plan)
    finally:
        store.close()
    return check_predictions(frame, [(cell.source, cell.task, cell.recipe) for cell in plan.cells if cell.skipped])


def document(setting: Mapping[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks with what they were made of, as JSON values."""
    from cmai_core.evaluation.checks import worst

    status = worst([check.status for check in checks])
    return {
        "format": FORMAT,
        "setting": dict(setting),
        "status": status,
        "checks": [check.to_dict() for check in checks],
    }
