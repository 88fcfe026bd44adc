"""`cmai cmcv`: consistency verification calibrated on clean pairs, and what it flags of others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmai_core.commands.parameters import Dataset, Device, Json, Quiet
from cmai_core.data.pair import item_scene
from cmai_core.data.registry import DATASETS, DEFAULT_DATASET, kind_of
from cmai_core.errors import ModelError, OptionError
from cmai_core.files import write_json
from cmai_core.progress import Progress, ProgressCallback
from cmai_core.terminal import Table, check_outputs, deliver, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from cmai_core.data.pair import Pair, PairDataset, TwoImageStatement
    from cmai_core.defenses.calibration import Calibration
    from cmai_core.models.protocol import VisionLanguageModel

FORMAT = "cmai-cmcv/1"
FPRS = (0.01, 0.05)


def cmcv(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a bundled name or an open_clip specification")],
    fprs: Annotated[
        list[float] | None,
        typer.Option("--fpr", metavar="F...", help="share of clean pairs that may be flagged (default: 0.01 0.05)"),
    ] = None,
    limit: Annotated[int, typer.Option(help="pairs calibrated on, and at most reported on of each set")] = 1000,
    guarantee: Annotated[
        str,
        typer.Option(
            help="calibration: the rate holds on the pairs calibrated on; new: in expectation on further ones "
            "(conformal)"
        ),
    ] = "calibration",
    dataset: Dataset = DEFAULT_DATASET,
    split: Annotated[
        str | None,
        typer.Option(
            help="calibrated on its first pairs, its next are reported (default: the dataset's own, or validation)"
        ),
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(metavar="[SPLIT...]", help="reported besides (default: the dataset's held-out and shifted ones)"),
    ] = None,
    store: Annotated[bool, typer.Option("--store", help="write thresholds and rates into the model's card")] = False,
    device: Device = None,
    json_file: Json = None,
    quiet: Quiet = False,
) -> int:
    """Set consistency verification to false-positive rates, and say what it flags of other clean pairs."""
    rates = sorted(set(fprs or FPRS))
    info = DATASETS.get(dataset)
    split = split or (info and info.calibration) or "validation"
    others = other_splits(dataset) if splits is None else tuple(dict.fromkeys(filter(None, splits)))
    _check_options(rates, limit, guarantee, split, others)
    folder = model_folder(model) if store else None
    check_outputs({"--json": json_file})
    from cmai_core.data import load_dataset
    from cmai_core.defenses.calibration import store_calibration
    from cmai_core.models import load_model
    from cmai_core.models.truncation import warn_truncated

    pairs = load_dataset(dataset, split=split)
    more = [load_dataset(dataset, split=name, limit=limit) for name in others]
    loaded = load_model(model, device=device)
    warn_truncated(loaded, pairs, 2 * limit)
    with progress_bar(quiet, unit="pairs") as show:
        found = calibrated(loaded, pairs, more, rates, limit=limit, guarantee=guarantee, progress=show)
    setting = {"dataset": dataset, "split": split, "limit": limit, "guarantee": guarantee}
    setting |= {"splits": list(others), "fpr": rates}
    document = {"format": FORMAT, "model": model, "setting": setting, "calibration": found.to_dict()}
    stored = (folder, lambda path: store_calibration(found, path))
    deliver(
        ["\n".join(_lines(model, found)), Table(list(_rows(found)))],
        [stored, (json_file, lambda path: write_json(path, document))],
    )
    _say_notes(loaded, found, dataset, split, folder)
    return 0


def _check_options(rates: Sequence[float], limit: int, guarantee: str, split: str, others: Sequence[str]) -> None:
    from cmai_core.evaluation.figures.detection import GUARANTEES

    if not all(0 < fpr < 1 for fpr in rates):
        raise OptionError(f"--fpr is {' '.join(f'{f:g}' for f in rates)}.", "Accepted: numbers between 0 and 1.")
    if limit < 2:
        raise OptionError(f"--limit is {limit}.", "Accepted: whole numbers from 2.")
    if guarantee not in GUARANTEES:
        raise OptionError(f"--guarantee is {guarantee}.", f"Accepted: {', '.join(GUARANTEES)}.")
    if split in others:
        raise OptionError(f"--splits names {split}, which is calibrated on.", "Leave it out: its next pairs are.")


def _say_notes(model: VisionLanguageModel, found: Calibration, dataset: str, split: str, folder: Path | None) -> None:
    """Say on stderr which threshold is in use, what is missing and where it was stored."""
    from cmai_core.evaluation.verification.calibration import calibration_for

    basis = calibration_for(model, kind_of(dataset))
    if basis.stored and folder is None:
        for rate in basis.rates:
            print(f"In use: {basis.said(rate)}", file=sys.stderr)
    if split not in found.rates:
        print(f"{dataset}/{split} has no further pairs: take a smaller --limit.", file=sys.stderr)
    if folder is not None:
        print(f"Stored in the card of {folder}.", file=sys.stderr)


def other_splits(dataset: str) -> tuple[str, ...]:
    """Return the splits of a dataset that thresholds are tried on besides: held-out and shifted ones."""
    info = DATASETS.get(dataset)
    return () if info is None else (*info.held_out, *info.shifts)


class _Read:
    """A dataset whose pairs are read once, each telling when it is asked for."""

    def __init__(self, dataset: PairDataset, tell: Any):
        self.dataset, self._tell = dataset, tell
        self.name, self.split, self.classes = dataset.name, dataset.split, dataset.classes
        self._pairs: dict[int, Pair] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        self._tell()
        if index not in self._pairs:
            self._pairs[index] = self.dataset[index]
        return self._pairs[index]

    @property
    def statements(self) -> Sequence[TwoImageStatement]:
        """The dataset's two-image statements."""
        return self.dataset.statements

    def truth(self, captions: Sequence[str], indices: Sequence[int]) -> np.ndarray | None:
        """Ask the dataset."""
        return self.dataset.truth(captions, indices)


def calibrated(
    model: VisionLanguageModel,
    dataset: PairDataset,
    others: Sequence[PairDataset],
    fprs: Sequence[float] = FPRS,
    *,
    limit: int = 1000,
    guarantee: str = "calibration",
    progress: ProgressCallback | None = None,
) -> Calibration:
    """Set thresholds on the first pairs of a dataset, with the rates that they realise on fresh pairs.

    Args:
        dataset: consistent pairs: the first `limit` are calibrated on, the next `limit` reported on under the dataset's
            split; with ground truth these also in two halves, "vague" and "specific" (`cmcv.by_vagueness`).
        others: further sets, whose first `limit` pairs are reported on under their split.
        fprs, guarantee: as for `calibrate_cmcv`.
        progress: told of pairs read.

    Raises:
        DataError: too few pairs.
    """
    from cmai_core.data.subset import Subset, first
    from cmai_core.evaluation.verification.cmcv import by_vagueness, calibrate_cmcv, pair_scores, shares

    known = first(dataset, limit)
    fresh = Subset(dataset, range(len(known), min(2 * len(known), len(dataset))))
    halved = len(fresh) > 1 and item_scene(fresh, 0) is not None
    sets = [*([fresh] if len(fresh) else []), *(first(other, limit) for other in others)]
    # Calibration reads every pair for its own caption, for a false one, and to find that.
    total = 3 * len(known) + sum(map(len, sets)) + halved * len(fresh)
    done = 0

    def reading(part: PairDataset, words: str) -> _Read:
        def tell() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(Progress(done, total, words))

        return _Read(part, tell)

    found = calibrate_cmcv(model, reading(known, "calibrating"), fprs, guarantee=guarantee)
    for part in sets:
        pairs = reading(part, part.split)
        s_c, log_v = pair_scores(model, pairs)
        found = found.with_rates({part.split: shares(found, s_c, log_v)})
        if part is fresh and halved:
            for name, half in by_vagueness(pairs).items():
                rows = list(half.indices)
                if rows:
                    found = found.with_rates({name: shares(found, s_c[rows], None if log_v is None else log_v[rows])})
    return found


def model_folder(spec: str) -> Path:
    """Where a model's card lies.

    Raises:
        OptionError: it lies in no folder of this machine. ModelError: it may not be written.
    """
    from cmai_core.models import bundled_models

    folder = next((card.path for card in bundled_models() if card.name == spec), None)
    if spec.startswith("local-dir:"):
        folder = Path(spec.removeprefix("local-dir:"))
    if folder is None:
        raise OptionError(f"{spec} has no card to --store in.", "Name a bundled model, or local-dir:FOLDER.")
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise ModelError(f"{folder} cannot be written.", "Copy the model to a folder you may write to.")
    return folder


def _lines(name: str, found: Calibration) -> Iterator[str]:
    """Say the thresholds and the fit."""
    yield f"{name}: thresholds from {found.count} clean pairs of {found.dataset}, guarantee: {found.guarantee}"
    for known in found.thresholds:
        words = [f"S_c < {known.tau:.4g}"]
        if known.log_tau_v is not None:
            words.append(f"V < {known.tau_v:.4g}")
            words.append(f"either: S_c < {known.both_tau:.4g} or log V < {known.both_log_tau_v:.4g}")
        yield f"  at {100 * known.fpr:g} %: " + "; ".join(words)
    fit = found.scaling
    yield (
        f"  probability from {fit.score}: slope {fit.slope:.4g}, offset {fit.offset:.4g}, "
        f"calibration error {100 * fit.ece_plain:.1f} → {100 * fit.ece:.1f} %"
    )
    yield ""


def _rows(found: Calibration) -> Iterator[tuple[str, ...]]:
    from cmai_core.evaluation.figures.export import figure_text

    yield "pairs", "flagged where", "stated %", "realised % [95 %]", "of"
    for known in found.thresholds:
        for rule, rate in known.realised.items():
            hits = f"{round(rate * found.count)}/{found.count}"
            yield "calibrated on", rule, f"{100 * known.fpr:g}", f"{100 * rate:.1f}", hits
    for name, rules in found.rates.items():
        for rule, at in rules.items():
            for stated, share in at.items():
                text = figure_text(share["rate"], share["low"], share["high"], True)
                yield name, rule, f"{100 * float(stated):g}", text, f"{share['flagged']}/{share['count']}"
