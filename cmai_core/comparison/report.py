"""Prints the comparison from the published results: cmai compare report [--write]

With `--write` it writes docs/results.md and its figures. Results of other weights than the shipped ones are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmai_core.comparison import tables
from cmai_core.comparison.correction import correction_table, correction_words, with_corrections
from cmai_core.comparison.goals import NO_RIVALS, aims, rivals
from cmai_core.comparison.protocol import PROTOCOL, Protocol
from cmai_core.comparison.results import Result, read_results, stale
from cmai_core.comparison.run import results_dir
from cmai_core.comparison.said import filled
from cmai_core.comparison.seeds import read_seeds, seeds_table
from cmai_core.errors import DataError
from cmai_core.files import write_text
from cmai_core.training.recipes import RECIPES

COMPARED = (
    *("CMCV, given", "CMCV, retrieved", "cosine, given", "cosine, retrieved"),
    *("energy", "Mahalanobis", "nearest neighbours", "feature squeezing"),
)
NOTES = "notes.md"
"""Beside the results: what people make of them."""
_TASKS = (("zero-shot", "Zero-shot classification"), ("vqa", "Questions"), ("nlvr", "Statements about two images"))


def report(
    results: Mapping[str, Result],
    protocol: Protocol = PROTOCOL,
    figures: str = "",
    notes: str = "",
    seeds: Mapping[str, Result] | None = None,
) -> str:
    """The page, as Markdown.

    Args:
        figures: folder of the figures as the page links to it; "": no figures. notes: what people make of the figures
            (`said.filled`).
        seeds: further seeds of some models, by MODEL@SEED.
    """
    main = protocol.part("main").epsilons
    out = [
        "# Results",
        f"Protocol `{protocol.hash}` ([protocol.md](protocol.md)): what was asked of every model. Shares are in"
        " per cent with 95 % intervals; differences are paired over scenes. `python -m cmai_core.comparison.report"
        " --write` writes this page from `assets/results`; `python -m cmai_core.comparison.run` makes those anew, the"
        " adversarial examples included, and `--models tabletop-cmai --parts main` only the main table's row of one.",
    ]
    out += [correction_words(results, protocol)]
    missing = [name for name in protocol.models if name not in results]
    if missing:
        out.append(f"**Not measured:** {', '.join(f'`{name}`' for name in missing)}.")
    found = aims(results, protocol)
    if found:
        rows = [(aim, said, _met(aim, met, bool(missing))) for aim, said, met in found]
        out += ["## What was aimed at", tables.markdown(["aim for full CMAI", "measured", "met"], rows)]
        out += [_ranked(results)]
    out += ["## What to make of it", filled(notes, results, protocol).strip()] if notes else []
    out += ["## Clean", tables.clean_table(results, protocol.base), "Differences to the base in brackets, in points."]
    out += ["## L∞, worst case over every loss"]
    out += ["Retrieval faces every loss of the protocol; a model's own adaptive attacks are not among them but below."]
    out += [_picture(figures, "trade-off.svg", "clean against robust accuracy")]
    out.append(tables.robust_table(results, "main", "retrieval", main, protocol.base))
    if targeted := correction_table(results, protocol):
        out += ["### With attacks towards the strongest false captions", targeted]
        out += [
            "Attacked were the scenes that stand in the table above. `python -m cmai_core.comparison.correction MODEL`"
            " measures one more model."
        ]
    out += [
        "The other tasks are attacked through cross entropy and margin, captions through cross entropy and embedding."
    ]
    for task, title in _TASKS:
        out += [f"### {title}", tables.robust_table(results, "tasks", task, main, protocol.base)]
    out += ["### Captions", "A caption is right when it is true of the scene."]
    out.append(tables.robust_table(results, "captions", "captioning", main, protocol.base))
    out += ["“ASR less”: by how many points the attack success rate is below that of the base."]
    out += ["## L2", tables.robust_table(results, "l2", "retrieval", protocol.part("l2").epsilons, protocol.base)]
    out += ["ε is the root mean square over pixel values."]
    out += ["## Picture and one word", tables.joint_table(results)]
    out += ["## Targeted", tables.targeted_table(results, protocol.base)]
    out += [
        "## Do the figures survive?",
        "More steps, restarts and a black box, untargeted, on the scenes that still stood:",
    ]
    out += [tables.stronger_table(results, protocol), "PGD of torchattacks and Foolbox, run from outside:"]
    out += [tables.outside_table(results), "ε → large:"]
    out += [tables.robust_table(results, "large", "retrieval", protocol.part("large").epsilons)]
    out += ["## Transfer", tables.transfer_table(results, protocol)]
    out += [
        "Success rates over the scenes that all models of a column get right; models that get less than half as many"
        " right as the median would leave too few and are left out."
    ]
    out += ["## True and false captions", tables.alignment_table(results, protocol)]
    rate = protocol.rates[-1]
    if rates := tables.rates_table(results, rate):
        out += [f"### Clean pairs flagged, in per cent, at a stated {100 * rate:g} %", rates]
        out += [
            "They are set on validation pairs; “validation” are others, “vague” and “specific” the halves of these."
        ]
    out += [
        "## Finding successful attacks",
        "The attacker does not look at any detector; one of the six attacks lowers S_c, as MBAT does. The pictures are"
        " those of every attack that turned the answer;"
        " intervals count them as independent though a scene may be among them several times, so they are too narrow.",
    ]
    out += [_picture(figures, "detection.svg", "AUROC by model and detector")]
    out += [f"### At {epsilon:g}/255\n\n{tables.detection_table(results, epsilon, COMPARED)}" for epsilon in main]
    if tables.BEST in results and results[tables.BEST].parts.get("detection"):
        out += [f"### Attack by attack on `{tables.BEST}`, {main[0]:g}/255"]
        out += [tables.families_table(results[tables.BEST], main[0])]
    out += ["## The attacker who knows", tables.aware_table(results)]
    out += ["## ARM's policies", tables.policy_table(results)]
    out += [
        "Times are of one question about one picture, flagged or not. “Right, given or not” counts right answers that a"
        " policy withholds too. Not measured here: weights shifted by adapters."
    ]
    out += [_picture(figures, "arm.svg", "β, ε and λ over the training, and S_c under the reference attack")]
    some = tables.ablation(results, protocol.base)
    out += ["## Ablation", tables.robust_table(some, "main", "retrieval", main, protocol.base)]
    if steps := tables.steps_table(results, "main", "retrieval", main):
        out += [
            "What each step changes. Intervals are over scenes; a model is one training, and seeds differ too (below):"
        ]
        out += [steps]
    if seeds:
        out += [
            "## Other seeds",
            "These models are not shipped; the first of each defence is. Each is made by `cmai train"
            " --recipe tecoa --seed 1 --out runs/tecoa-1` and measured by `python -m cmai_core.comparison.seeds"
            " tabletop-tecoa@1=local-dir:runs/tecoa-1/model`.",
        ]
        out += [seeds_table(results, seeds, protocol)]
    out += ["## On validation, at the end of each training", tables.validation_table(protocol.models)]
    out += ["## What the trainings took", tables.training_table(results)]
    out += [
        "Timed as they were made, some beside other work. Cost per pair, side by side: `python"
        " benchmarks/bench_training.py` ([defenses.md](defenses.md#what-it-costs))."
    ]
    return "\n\n".join(part for part in out if part) + "\n"


def _ranked(results: Mapping[str, Result]) -> str:
    """Among whom first places are."""
    left = [f"`{name}`" for name in NO_RIVALS if name in results]
    but = f" ({' and '.join(left)}: measured, but not to win against)" if left else ""
    return f"“Highest”, “lowest” and “best other” are among the {len(rivals(results))} models compared{but}."


def _met(aim: str, met: bool, missing: bool) -> str:
    """A first place among some of the models is one so far."""
    first = any(word in aim for word in ("highest", "lowest", "of all models"))
    return "**no**" if not met else "so far" if missing and first else "yes"


def _picture(folder: str, name: str, words: str) -> str:
    return f"![{words}]({folder}/{name})" if folder else ""


def draw(results: Mapping[str, Result], folder: Path, protocol: Protocol = PROTOCOL) -> list[Path]:
    """The page's figures."""
    from cmai_core.comparison import figures
    from cmai_core.models import bundled_models

    folder.mkdir(parents=True, exist_ok=True)
    epsilons = protocol.part("main").epsilons
    made = [
        figures.trade_off(results, epsilons, folder / "trade-off.svg"),
        figures.detection_areas(results, epsilons[0], COMPARED, folder / "detection.svg"),
    ]
    cards = {card.name: card.training for card in bundled_models()}
    history = cards.get(tables.BEST, {}).get("steering")
    if history:
        arm = RECIPES["cmai"].controller
        made.append(figures.schedule(history, arm.tau, arm.hysteresis, folder / "arm.svg"))
    return made


def published_report(folder: Path | None = None, figures: str = "") -> str:
    """Write the report of the results in a folder as Markdown.

    Args:
        folder: None: the published results, which must be of the shipped weights.
        figures: folder of the figures, as the page links to it.

    Raises:
        DataError: results that cannot be read, or are of other weights.
    """
    results, folder = _results(folder)
    notes = (folder / NOTES).read_text(encoding="utf-8") if (folder / NOTES).is_file() else ""
    return report(results, figures=figures, notes=notes, seeds=read_seeds(folder))


def write_report(page: Path, folder: Path | None = None) -> None:
    """Write the report to a page, and its figures beside it.

    Raises:
        DataError: as for `published_report`, or nothing can be written there.
    """
    write_text(page, published_report(folder, figures=page.stem))
    draw(_results(folder)[0], page.with_suffix(""))


def _results(folder: Path | None) -> tuple[dict[str, Result], Path]:
    found = folder or results_dir()
    results = with_corrections(read_results(found), found)
    if folder is None and (old := stale(results)):
        raise DataError(f"The results of {', '.join(old)} are of other weights.", "Run the comparison again.")
    return results, found


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["compare", "report", *sys.argv[1:]]))
