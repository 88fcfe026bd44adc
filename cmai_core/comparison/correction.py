"""What the published figures miss: a targeted attack on the scenes that they count as standing.

    cmai compare correction tabletop-fare tabletop-cmai          # goes on where it was stopped
    cmai compare correction tabletop-tecoa --epsilons 4

The published worst cases are over untargeted attacks. An attacker who tries one false caption after another (`TARGETED`
of the protocol) takes some of what is left. Measuring everything anew would take days; here only the scenes that still
stand are attacked, and what comes of it is kept beside the published results, in `assets/results/correction`. The
report has the table, and says whose figures have no correction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmai_core.comparison.protocol import PROTOCOL, TARGETED, Protocol
from cmai_core.comparison.results import Result, read_results
from cmai_core.comparison.tables import BEST, label, markdown, percent, points
from cmai_core.comparison.verdicts import RIGHT, UNASKED, WRONG, Verdict, difference, rights, share
from cmai_core.errors import CmaiError, DataError, OptionError
from cmai_core.files import write_json
from cmai_core.progress import CancelToken, Progress, ProgressCallback
from cmai_core.terminal import SHARE_AND_WORDS, interruptible, progress_bar
from cmai_core.versions import library_versions

FOLDER = PART = "correction"
_MAIN, _TASK = "main", "retrieval"
_SIZE = 32


def with_corrections(results: Mapping[str, Result], folder: Path, protocol: Protocol = PROTOCOL) -> dict[str, Result]:
    """Return the results, with a part more where a correction is kept: `result.verdict("correction", epsilon)`.

    Its `clean` is what stood as published; its `held`, what stands after the targeted attack too.

    Args:
        folder: of the published results.

    Raises:
        DataError: a file that cannot be read, was made under another protocol, of other weights, or on other scenes
            than those that stand.
    """
    names = [name for name in results if (folder / FOLDER / f"{name}.json").is_file()]
    kept = read_results(folder / FOLDER, names, protocol) if names else {}
    out = dict(results)
    for name, correction in kept.items():
        result = results[name]
        verdicts = correction.verdicts(_MAIN)
        same = [(p := result.verdict(_MAIN, v.epsilon)) is not None and p.held == v.clean for v in verdicts]
        if correction.hash != result.hash or not all(same):
            raise DataError(
                f"The correction of {name} is not of its published results.",
                f"Measure it again: python -m cmai_core.comparison.correction {name}",
            )
        out[name] = replace(result, parts={**result.parts, PART: correction.parts[_MAIN]})
    return out


def correction_table(results: Mapping[str, Result], protocol: Protocol = PROTOCOL) -> str:
    """Tabulate the published worst case, the scenes the targeted attack takes of those that stood, and what is left."""
    epsilons = protocol.part(_MAIN).epsilons
    head = ["model"]
    for epsilon in epsilons:
        at = f"{epsilon:g}/255"
        head += [f"published, {at}", f"taken, of those that stood, {at}", f"left, {at}", f"`{BEST}` − this, {at}"]
    rows = []
    for name, result in results.items():
        if PART not in result.parts:
            continue
        row = [label(name)]
        for epsilon in epsilons:
            published, found = result.verdict(_MAIN, epsilon), result.verdict(PART, epsilon)
            row.append("–" if published is None else percent(share(published.held)))
            if found is None:
                row += ["–"] * 3
                continue
            best = results[BEST].verdict(PART, epsilon) if BEST in results and name != BEST else None
            gap = "–" if best is None else points(difference(best.held, found.held))
            row += ["{} of {}".format(*taken(found)), percent(share(found.held)), gap]
        rows.append(row)
    return markdown(head, rows) if rows else ""


def taken(correction: Verdict) -> tuple[int, int]:
    """Return how many scenes the targeted attack takes, and of how many that stood."""
    stood = rights(correction.clean)
    return int((stood & ~rights(correction.held)).sum()), int(stood.sum())


def correction_words(results: Mapping[str, Result], protocol: Protocol = PROTOCOL) -> str:
    """Say in a sentence how many points the published figures are too high, as far as is known."""
    said = []
    for epsilon in protocol.part(_MAIN).epsilons:
        found = [v for result in results.values() if (v := result.verdict(PART, epsilon)) is not None]
        if found:
            gaps = [100 * (share(v.clean)["value"] - share(v.held)["value"]) for v in found]
            span = f"{min(gaps):.1f}" if len(gaps) == 1 else f"{min(gaps):.1f} to {max(gaps):.1f}"
            said.append(f"{span} points at {epsilon:g}/255 ({len(found)} of {len(results)} models measured)")
    least = "**The robust figures of this page are upper bounds.** Their worst cases lack attacks towards each of the"
    if not said:
        return f"{least} strongest false options, and none has been run on what they leave."
    return (
        f"{least} strongest false options. Such an attack (`{TARGETED}`: nine captions each, single precision), run on"
        f" the scenes that are counted as standing in retrieval, takes {' and '.join(said)}. Of the models and figures"
        " that it was not run on, the other tasks and norms among them, it is only known that it can take and not give."
        " Aims, differences and tables are of the published figures unless they say otherwise."
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
    """Run the targeted attack on the scenes of the main part that stand at one ε.

    Args:
        result: published. epsilon: in units of 1/255.

    Returns:
        `clean`: standing as published; `held`: standing after it. Scenes that had no standing are "0" in both.

    Raises:
        OptionError: nothing was published at this ε. Cancelled.
    """
    from cmai_core.evaluation.runs.grid import Grid
    from cmai_core.evaluation.runs.predictor import make_batch
    from cmai_core.tasks.retrieval import Retrieval

    published = result.verdict(_MAIN, epsilon)
    if published is None:
        known = ", ".join(f"{v.epsilon:g}" for v in result.verdicts(_MAIN))
        raise OptionError(f"{result.name} was not attacked at {epsilon:g}/255.", f"Accepted: {known}.")
    standing = [k for k, mark in enumerate(published.held) if mark == RIGHT]
    task = Retrieval(max(protocol.gallery, protocol.part(_MAIN).limit))
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
    """Measure what is not there yet of some models and keep it, ε by ε.

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
            known = {"model": name, "hash": model.hash, "protocol": protocol.hash, "parts": {_MAIN: []}}
        for epsilon in epsilons or sorted(protocol.part(_MAIN).epsilons, reverse=True):
            if any(entry["epsilon"] == epsilon for entry in known["parts"][_MAIN]):
                continue
            dataset = load_dataset("tabletop", split=protocol.split) if dataset is None else dataset
            words = lambda update, name=name: f"{name}, {update.stage}"  # noqa: E731
            with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS, words=words) as show:
                verdict = measure(result, model, dataset, epsilon, protocol, progress=show, cancel=cancel)
            known["parts"][_MAIN].append(verdict.to_dict())
            known["versions"] = library_versions()
            write_json(path, known)


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["compare", "correction", *sys.argv[1:]]))
