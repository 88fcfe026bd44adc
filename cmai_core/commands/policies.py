"""`cmai policies`: what each policy at inference costs and keeps, and the best for a latency budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.commands.detector import share_text
from cmai_core.commands.parameters import Dataset, Device, Json, Quiet, Split
from cmai_core.data.registry import DEFAULT_DATASET
from cmai_core.files import write_json
from cmai_core.terminal import SHARE_AND_WORDS, Table, check_outputs, deliver, interruptible, progress_bar

if TYPE_CHECKING:
    from cmai_core.data.pair import PairDataset
    from cmai_core.evaluation.verification.policies import PolicyFigures
    from cmai_core.models.protocol import VisionLanguageModel
    from cmai_core.tasks.base import Task

FORMAT = "cmai-policies/1"
_CALIBRATED = 1000
_GALLERY = 200


def policies(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a bundled name or an open_clip specification")],
    budget: Annotated[float, typer.Option(help="latency on clean pictures, in times of the bare model's")] = 3.0,
    loss: Annotated[
        float, typer.Option("--clean-loss", help="share of clean pictures that may be lost besides the bare model's")
    ] = 0.05,
    epsilon: Annotated[float, typer.Option(help="of the attacks, in units of 1/255 (linf)")] = 2.0,
    steps: Annotated[int, typer.Option(help="gradients of each attack")] = 20,
    limit: Annotated[int, typer.Option(help="pairs measured and attacked")] = 48,
    fpr: Annotated[float, typer.Option(help="share of clean pairs that a detector may flag")] = 0.05,
    radius: Annotated[float, typer.Option(help="of the search that must keep the answer, in units of 1/255")] = 0.5,
    search_steps: Annotated[int, typer.Option(help="gradients of that search")] = 10,
    tower: Annotated[
        str | None, typer.Option(metavar="MODEL", help="a robust model whose image tower weights are shifted to")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what that was trained from, where MODEL has another text side")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--policy", metavar="NAME...", help="only these (default: all)")
    ] = None,
    task: Annotated[str, typer.Option(help="a task of options")] = "retrieval",
    dataset: Dataset = DEFAULT_DATASET,
    split: Split = "validation",
    seed: Annotated[int, typer.Option(help="of all random numbers")] = 0,
    device: Device = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> int:
    """Measure every policy at inference under attacks that know it, and choose the best for a latency budget."""
    check_outputs({"--json": json_file})
    from cmai_core.data import load_dataset
    from cmai_core.data.subset import Subset
    from cmai_core.evaluation.verification.policies import NONE, candidates, choose, measure_policies
    from cmai_core.models import load_model
    from cmai_core.options import one_of
    from cmai_core.tasks import get_task

    whole = load_dataset(dataset, split=split)
    # Behind the pairs that thresholds in the card were set on, as far as there are others.
    start = min(_CALIBRATED, max(0, len(whole) - max(limit, _GALLERY)))
    pairs = Subset(whole, range(start, min(len(whole), start + max(limit, _GALLERY))))
    loaded = load_model(model, device=device)
    asked = get_task(task).for_items(limit)
    robust, before = (None if spec is None else load_model(spec, device=device) for spec in (tower, base))
    systems = candidates(
        loaded,
        asked,
        pairs,
        _detectors(loaded, asked, pairs, Subset(whole, range(min(_CALIBRATED, start or len(whole)))), fpr),
        radius=radius / 255,
        steps=search_steps,
        tower=robust,
        base=before,
    )
    for name in names or ():
        one_of("--policy", name, tuple(systems))
    systems = {name: one for name, one in systems.items() if not names or name in (NONE, *names)}
    with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS) as show:
        options: dict[str, Any] = {"epsilon": epsilon, "steps": steps, "seed": seed, "cancel": cancel}
        found = measure_policies(systems, asked, pairs, count=limit, progress=show, **options)
        bare = {NONE: systems[NONE]}
        half = measure_policies(bare, asked, pairs, count=limit, **{**options, "epsilon": epsilon / 2})[0].held
    best = choose(found, budget, loss)
    document = {"format": FORMAT, "model": model, "epsilon": epsilon, "budget": budget, "best": best.name}
    document |= {"half": dict(half), "policies": [asdict(one) | {"expected": one.expected} for one in found]}
    lines = [f"{model}: {limit} pairs of {pairs.name}/{pairs.split}, L∞ {epsilon:g}/255, attackers who know the system"]
    lines += [f"  robust accuracy of the bare model at {epsilon / 2:g}/255: {share_text(half)}"]
    lines += ["  *: right or rejected above that: attack it harder before believing it", ""]
    said = f"Best within {budget:g} times the bare model's time, losing at most {100 * loss:g} % clean: {best.name}"
    table = Table(list(_rows(found, half)))
    deliver(["\n".join(lines), table, said], [(json_file, lambda path: write_json(path, document))])
    return 0


def _detectors(
    model: VisionLanguageModel, task: Task, pairs: PairDataset, clean: PairDataset, fpr: float
) -> dict[str, Any]:
    """Return CMCV of the given pair at its threshold, and the combined detector where the card has one that fits."""
    from cmai_core.data.subset import first
    from cmai_core.defenses.calibration import calibration_of
    from cmai_core.defenses.combined import CombinedDetector, combination_of
    from cmai_core.errors import OptionError
    from cmai_core.evaluation.verification.cmcv import calibrate_cmcv

    known = calibration_of(model)
    if known is None or fpr not in {one.fpr for one in known.thresholds}:
        known = calibrate_cmcv(model, first(clean, 200), (fpr,))
    out: dict[str, Any] = {"CMCV": known.at(fpr).detector()}
    combination = combination_of(model)
    if combination is not None:
        with suppress(OptionError):  # of another task or rate
            out["combined"] = CombinedDetector(combination, task, pairs, fpr)
    return out


def _rows(found: Sequence[PolicyFigures], half: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield (
        *("policy", "× time", "× flagged", "× expected", "clean right and answered", "clean flagged"),
        *("held under attack", "flagged under attack"),
    )
    for one in found:
        mark = " *" if one.rejects and one.held["share"] > half["high"] else ""
        yield (
            *(one.name, f"{one.cost:.2f}", f"{one.flagged_cost:.2f}", f"{one.expected:.2f}"),
            *(share_text(one.clean), share_text(one.clean_flagged), share_text(one.held) + mark),
            share_text(one.attacked_flagged),
        )
