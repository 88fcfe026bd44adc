"""`cmai detector`: CMCV as one detector, fitted on attacked validation pairs with some attack families left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.commands.cmcv import folder_of
from cmai_core.commands.parameters import Dataset, Device, Json, Quiet, Split
from cmai_core.data.registry import DEFAULT_DATASET
from cmai_core.files import write_json
from cmai_core.terminal import SHARE_AND_WORDS, Table, check_outputs, deliver, interruptible, progress_bar

if TYPE_CHECKING:
    from cmai_core.defenses.combined import Combination

FORMAT = "cmai-detector/1"


def detector(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a bundled name or an open_clip specification")],
    epsilon: Annotated[float, typer.Option(help="of the attacks, in units of 1/255 (linf)")] = 4.0,
    fprs: Annotated[
        list[float] | None,
        typer.Option("--fpr", metavar="F...", help="share of clean pairs that may be flagged (default: 0.01 0.05)"),
    ] = None,
    families: Annotated[
        list[str] | None, typer.Option(metavar="RECIPE...", help="attacks, as a grid writes them (default: six)")
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(metavar="RECIPE...", help="those that nothing is fitted on (default: two)")
    ] = None,
    scores: Annotated[
        str, typer.Option(help="answer: the text that the answer amounts to; given: the pair's caption")
    ] = "answer",
    task: Annotated[str, typer.Option(help="a task of options, whose likeliest ones are verified")] = "retrieval",
    limit: Annotated[int, typer.Option(help="pairs: half are fitted on, half reported on")] = 400,
    aware: Annotated[
        int, typer.Option(metavar="N", help="reported pairs attacked by one who knows the detector (0: none)")
    ] = 32,
    dataset: Dataset = DEFAULT_DATASET,
    split: Split = "validation",
    seed: Annotated[int, typer.Option(help="of all random numbers")] = 0,
    store: Annotated[bool, typer.Option("--store", help="write the detector into the model's card")] = False,
    device: Device = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> int:
    """Fit the combined detector, and report it family by family, with the robust accuracy at half of the ε."""
    folder = folder_of(model) if store else None
    check_outputs({"--json": json_file})
    from cmai_core.data import load_dataset
    from cmai_core.defenses.combined import COMBINED_KEY
    from cmai_core.evaluation.verification.combined import FAMILIES, HELD_OUT, fit_detector
    from cmai_core.models import load_model
    from cmai_core.models.save import add_to_card
    from cmai_core.models.truncation import warn_truncated
    from cmai_core.tasks import get_task

    attacks = tuple(families or FAMILIES)
    without = tuple(name for name in HELD_OUT if name in attacks) if held_out is None else tuple(filter(None, held_out))
    pairs = load_dataset(dataset, split=split, limit=limit)
    loaded = load_model(model, device=device)
    warn_truncated(loaded, pairs, limit)
    with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS) as show:
        found = fit_detector(
            loaded,
            pairs,
            get_task(task).for_items(len(pairs)),
            epsilon=epsilon,
            fprs=sorted(set(fprs or (0.01, 0.05))),
            families=attacks,
            held_out=without,
            scores=scores,
            aware=aware,
            seed=seed,
            progress=show,
            cancel=cancel,
        )
    document = {"format": FORMAT, "model": model, "detector": found.to_dict()}
    stored = (folder, lambda path: add_to_card(path, {COMBINED_KEY: found.to_dict()}))
    deliver(
        ["\n".join(_lines(model, found)), Table(list(_rows(found)))],
        [stored, (json_file, lambda path: write_json(path, document))],
    )
    return 0


def _lines(name: str, found: Combination) -> Iterator[str]:
    """Say what was fitted, how robust the model itself is, and what is left against an attacker who knows."""
    figures = found.figures
    counts = figures["fitted"]
    yield f"{name}: {len(found.names)} columns of {found.dataset}, text of the {found.scores}, L∞ {found.epsilon:g}/255"
    yield f"  fitted on {counts['clean']} clean pictures and " + ", ".join(
        f"{count} of {family}" for family, count in counts.items() if family != "clean"
    )
    yield "  thresholds: " + "; ".join(f"log odds < {tau:.3g} at {rate}" for rate, tau in found.thresholds.items())
    ceiling = share_text(figures["half"])
    yield f"  robust accuracy of the model itself at {found.epsilon / 2:g}/255, the ceiling: {ceiling}"
    yield f"  and at {found.epsilon:g}/255: {share_text(figures['full'])}"
    if "aware" in figures:
        known = figures["aware"]
        yield (
            f"  against an attacker who knows it (rate {known['rate']:g}): right or rejected "
            f"{share_text(known['right_or_rejected'])}; clean ones rejected {share_text(known['clean_rejected'])}; "
            f"RA(ε/2) of the same pairs {share_text(known['half'])}"
        )
        if known["right_or_rejected"]["share"] > known["half"]["high"]:
            yield "  That is above the ceiling: the attack on the detector is too weak to be believed."
    yield ""


def _rows(found: Combination) -> Iterator[tuple[str, ...]]:
    from cmai_core.evaluation.figures.export import figure_text

    half = share_text(found.figures["half"])
    yield "attack (unaware)", "held out", "AUROC", *(f"found at {rate}" for rate in found.thresholds), "of", "RA(ε/2)"
    for entry in found.figures["families"]:
        area: Mapping[str, Any] | None = entry["auroc"]
        said = "–" if area is None else figure_text(area["value"], area["low"], area["high"], False)
        tpr = (f"{100 * entry['tpr'][rate]:.0f} %" if entry["tpr"] else "–" for rate in found.thresholds)
        counts = f"{entry['successes']} against {entry['clean']} clean"
        yield entry["family"], "yes" if entry["held_out"] else "", said, *tpr, counts, half


def share_text(entry: Mapping[str, Any]) -> str:
    """Say a share in per cent with its interval and denominator."""
    if not entry["total"]:
        return "–"
    low, high = 100 * entry["low"], 100 * entry["high"]
    return f"{100 * entry['share']:.0f} [{low:.0f}, {high:.0f}] % of {entry['total']}"
