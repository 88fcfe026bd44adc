"""What the published figures miss: a targeted attack on the scenes that they count as standing.

    python -m cmai_core.comparison.correction tabletop-fare tabletop-cmai          # goes on where it was stopped
    python -m cmai_core.comparison.correction tabletop-tecoa --epsilons 4

The published worst cases are over untargeted attacks. An attacker who tries one false caption after another (`TARGETED`
of the protocol) takes some of what is left. Measuring everything anew would take days; here only the scenes that still
stand are attacked, and what comes of it is kept beside the published results, in `assets/results/correction`. The
report has the table, and says whose figures have no correction.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmai_core.comparison.protocol import PROTOCOL, TARGETED, Protocol
from cmai_core.comparison.results import Result, read_results
from cmai_core.comparison.run import results_dir
from cmai_core.comparison.tables import label, markdown, percent
from cmai_core.comparison.verdicts import RIGHT, UNASKED, WRONG, Verdict, rights, share
from cmai_core.errors import CmaiError, DataError, OptionError
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.terminal import SHARE_AND_WORDS, exit_status, interruptible, progress_bar, write_json
from cmai_core.versions import library_versions

FOLDER = "correction"
_PART, _TASK = "main", "retrieval"
_SIZE = 32


def read_corrections(folder: Path, protocol: Protocol = PROTOCOL) -> dict[str, Result]:
    """What is kept, by model, in the protocol's order; {} where nothing is.

    Args:
        folder: of the published results.

    Raises:
        DataError: a file that cannot be read, or one made under another protocol.
    """
    names = [name for name in protocol.models if (folder / FOLDER / f"{name}.json").is_file()]
    return read_results(folder / FOLDER, names, protocol) if names else {}


def corrected(result: Result, correction: Result | None, epsilon: float) -> Verdict | None:
    """The published verdict with what the targeted attack takes besides; None where that was not measured.

    Raises:
        DataError: the correction is of other weights, or was made on other scenes than those that stand.
    """
    published = result.verdict(_PART, epsilon)
    found = None if correction is None else correction.verdict(_PART, epsilon)
    if published is None or found is None:
        return None
    if correction is not None and (correction.hash != result.hash or found.clean != published.held):
        raise DataError(
            f"The correction of {result.name} at {epsilon:g}/255 is not of its published results.",
            f"Measure it again: python -m cmai_core.comparison.correction {result.name}",
        )
    return Verdict(_TASK, found.norm, epsilon, published.clean, found.held, recipes=found.recipes)


def correction_table(
    results: Mapping[str, Result], corrections: Mapping[str, Result], protocol: Protocol = PROTOCOL
) -> str:
    """Published worst case, scenes the targeted attack takes of those that stood, and what is left; "" for nothing."""
    epsilons = protocol.part(_PART).epsilons
    head = ["model"]
    for epsilon in epsilons:
        at = f"{epsilon:g}/255"
        head += [f"published, {at}", f"taken, of those that stood, {at}", f"left, {at}"]
    rows = []
    for name, result in results.items():
        found = [corrected(result, corrections.get(name), epsilon) for epsilon in epsilons]
        if not any(found):
            continue
        row = [label(name)]
        for epsilon, verdict in zip(epsilons, found, strict=True):
            published = result.verdict(_PART, epsilon)
            row.append("–" if published is None else percent(share(published.held)))
            if verdict is None or published is None:
                row += ["–", "–"]
                continue
            stood = rights(published.held)
            row.append(f"{int((stood & ~rights(verdict.held)).sum())} of {int(stood.sum())}")
            row.append(percent(share(verdict.held)))
        rows.append(row)
    return markdown(head, rows) if rows else ""


def correction_words(
    results: Mapping[str, Result], corrections: Mapping[str, Result], protocol: Protocol = PROTOCOL
) -> str:
    """What the table says in a sentence: how many points the published figures are too high, as far as is known."""
    said = []
    for epsilon in protocol.part(_PART).epsilons:
        gaps = []
        for name, result in results.items():
            verdict = corrected(result, corrections.get(name), epsilon)
            if verdict is not None:
                published = result.verdict(_PART, epsilon)
                gaps.append(100 * (share(published.held)["value"] - share(verdict.held)["value"]))
        if gaps:
            span = f"{min(gaps):.1f}" if len(gaps) == 1 else f"{min(gaps):.1f} to {max(gaps):.1f}"
            said.append(f"{span} points at {epsilon:g}/255 ({len(gaps)} of {len(results)} models measured)")
    if not said:
        return (
            "**The figures below are upper bounds**: no targeted attack is among those of the worst cases, and none has"
            " been run on what they leave."
        )
    return (
        "**The robust figures of this page are upper bounds.** Their worst cases lack attacks towards each of the"
        f" strongest false captions. Such an attack (`{TARGETED}`: nine captions each, single precision), run on the"
        f" scenes that are counted as standing in retrieval, takes {' and '.join(said)}. Where the table has no figure,"
        " and in the other tasks and norms, what it would take is not known, only that it would add nothing. Aims,"
        " differences and detection below are of the published figures."
    )


def measure(
    result: Result,
    model: Any,
    dataset: Any,
    epsilon: float,
    protocol: Protocol = PROTOCOL,
    *,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Verdict:
    """The targeted attack on the scenes of the main part that stand at one ε.

    Args:
        result: published. epsilon: in units of 1/255.

    Returns:
        `clean`: standing as published; `held`: standing after it. Scenes that had no standing are "0" in both.

    Raises:
        OptionError: nothing was published at this ε. Cancelled.
    """
    from cmai_core.attacks.reading import make_batch
    from cmai_core.evaluation.grid import Grid
    from cmai_core.tasks.retrieval import Retrieval

    published = result.verdict(_PART, epsilon)
    if published is None:
        known = ", ".join(f"{v.epsilon:g}" for v in result.verdicts(_PART))
        raise OptionError(f"{result.name} was not attacked at {epsilon:g}/255.", f"Accepted: {known}.")
    standing = [k for k, mark in enumerate(published.held) if mark == RIGHT]
    task = Retrieval(max(protocol.gallery, protocol.part(_PART).limit))
    grid = Grid(models=[result.name], recipes=[TARGETED], epsilons=[epsilon])
    values = 3 * model.image_size**2
    attack = grid.experiment(grid.entries[0], epsilon, task=_TASK).build(task, dataset, values)
    taken: set[int] = set()
    for start in range(0, len(standing), _SIZE):
        rows = standing[start : start + _SIZE]
        if progress is not None:
            words = f"{epsilon:g}/255: {len(taken)} taken of {start}"
            progress(Progress(start, len(standing), words))
        found = attack(model, make_batch(model, [dataset[k] for k in rows], 1), seed=protocol.seed, cancel=cancel)
        if cancel is not None:
            cancel.check()
        taken |= {row for row, lost in zip(rows, found.success_8bit.tolist(), strict=True) if lost}
    asked = set(standing)
    marks = "".join(UNASKED if k not in asked else WRONG if k in taken else RIGHT for k in range(len(published.held)))
    held = "".join(WRONG if k in taken else mark for k, mark in enumerate(published.held))
    return Verdict(_TASK, published.norm, epsilon, published.held, held, recipes={TARGETED: marks})


def correct(
    folder: Path,
    names: Sequence[str],
    epsilons: Sequence[float] | None = None,
    protocol: Protocol = PROTOCOL,
    *,
    specs: Mapping[str, str] | None = None,
    dataset: Any = None,
    quiet: bool = True,
) -> None:
    """Measures what is not there yet of some models and keeps it, ε by ε.

    Args:
        folder: of the published results. specs: how to load a model that is not bundled. dataset: the split, loaded.

    Raises:
        CmaiError: a model that is not the one whose results are published. Cancelled: what is finished is kept.
    """
    from cmai_core.data import load_dataset
    from cmai_core.models import load_model

    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for name in names:
        (result,) = read_results(folder, [name], protocol).values()
        model = load_model((specs or {}).get(name, name))
        if model.hash != result.hash:
            raise CmaiError(f"The published results of {name} are of other weights.", "Run the comparison again.")
        path = folder / FOLDER / f"{name}.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if known.get("hash") != model.hash or known.get("protocol") != protocol.hash:
            known = {"model": name, "hash": model.hash, "protocol": protocol.hash, "parts": {_PART: []}}
        for epsilon in epsilons or sorted(protocol.part(_PART).epsilons, reverse=True):
            if any(entry["epsilon"] == epsilon for entry in known["parts"][_PART]):
                continue
            dataset = load_dataset("tabletop", split=protocol.split) if dataset is None else dataset
            words = lambda update, name=name: f"{name}, {update.stage}"  # noqa: E731
            with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS, words=words) as show:
                verdict = measure(result, model, dataset, epsilon, protocol, progress=show, cancel=cancel)
            known["parts"][_PART].append(verdict.to_dict())
            known["versions"] = library_versions()
            write_json(path, known)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cmai_core.comparison.correction", description=__doc__.splitlines()[0]
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="names of models with published results")
    parser.add_argument("--epsilons", nargs="+", type=float, metavar="E", help="in units of 1/255 (default: all)")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)

    def command() -> None:
        if args.threads:
            import torch

            torch.set_num_threads(args.threads)
        correct(results_dir(), args.models, args.epsilons, quiet=args.quiet)

    return exit_status(command, "Interrupted; the same command goes on from here.")


if __name__ == "__main__":
    sys.exit(main())
