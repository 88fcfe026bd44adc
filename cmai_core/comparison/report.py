"""The report of the published results (`cmai compare report [--write]`).

With `--write` it writes docs/results.md and its figures. Results of other weights than the shipped ones are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cmai_core.comparison import tables
from cmai_core.comparison.correction import correction_table, correction_words, with_corrections
from cmai_core.comparison.goals import NOT_COMPARED, aims, compared
from cmai_core.comparison.protocol import PROTOCOL, Protocol
from cmai_core.comparison.results import Result, read_results, stale
from cmai_core.comparison.run import results_dir
from cmai_core.comparison.said import filled
from cmai_core.comparison.seeds import read_seeds, seeds_table
from cmai_core.errors import DataError
from cmai_core.files import write_text
from cmai_core.templates import render_markdown
from cmai_core.training.recipes import RECIPES

COMPARED = (
    *("CMCV, given", "CMCV, retrieved", "cosine, given", "cosine, retrieved"),
    *("energy", "Mahalanobis", "nearest neighbours", "feature squeezing"),
)
NOTES = "notes.md"
"""Beside the results: what people make of them."""


def report(
    results: Mapping[str, Result],
    protocol: Protocol = PROTOCOL,
    figures: str = "",
    notes: str = "",
    seeds: Mapping[str, Result] | None = None,
) -> str:
    """Write the page, as Markdown.

    Args:
        figures: folder of the figures as the page links to it; "": no figures. notes: what people make of the figures
            (`said.filled`).
        seeds: further seeds of some models, by MODEL@SEED.
    """
    missing = [name for name in protocol.models if name not in results]
    return render_markdown(
        "cmai_core.comparison",
        "results.md.j2",
        results=results,
        protocol=protocol,
        base=protocol.base,
        best=results.get(tables.BEST),
        epsilons=protocol.part("main").epsilons,
        compared=COMPARED,
        tables=tables,
        correction_words=correction_words(results, protocol),
        correction=correction_table(results, protocol),
        missing=", ".join(f"`{name}`" for name in missing),
        aims=_aims_table(results, protocol, bool(missing)),
        ranked=_ranked(results),
        notes=filled(notes, results, protocol).strip(),
        seeds=seeds_table(results, seeds, protocol) if seeds else "",
        picture=partial(_picture, figures),
    )


def _aims_table(results: Mapping[str, Result], protocol: Protocol, missing: bool) -> str:
    rows = [(aim, said, _met(aim, met, missing)) for aim, said, met in aims(results, protocol)]
    return tables.markdown(["aim for full CMAI", "measured", "met"], rows) if rows else ""


def _ranked(results: Mapping[str, Result]) -> str:
    """Say among whom first places are."""
    left = [f"`{name}`" for name in NOT_COMPARED if name in results]
    but = f" ({' and '.join(left)}: measured, but not to win against)" if left else ""
    return f"“Highest”, “lowest” and “best other” are among the {len(compared(results))} models compared{but}."


def _met(aim: str, met: bool, missing: bool) -> str:
    """Say whether an aim is met; a first place among some of the models is one so far."""
    first = any(word in aim for word in ("highest", "lowest", "of all models"))
    return "**no**" if not met else "so far" if missing and first else "yes"


def _picture(folder: str, name: str, words: str) -> str:
    return f"![{words}]({folder}/{name})" if folder else ""


def draw(results: Mapping[str, Result], folder: Path, protocol: Protocol = PROTOCOL) -> list[Path]:
    """Draw the page's figures."""
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
