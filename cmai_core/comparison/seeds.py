"""Further seeds of the best defences, whose models are not shipped: how much of a difference is luck?

    cmai compare seeds tabletop-tecoa@1=local-dir:runs/tecoa-1/model tabletop-tecoa@2=…

measures the part "main" of each and keeps it in `assets/results/seeds`; the report has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cmai_core.comparison.protocol import PROTOCOL, Protocol
from cmai_core.comparison.results import Result, read_results
from cmai_core.comparison.run import Comparison
from cmai_core.comparison.tables import label, markdown, percent
from cmai_core.comparison.verdicts import share
from cmai_core.files import write_json
from cmai_core.terminal import SHARE_AND_WORDS, interruptible, progress_bar

FOLDER = "seeds"
_PART = "main"


def read_seeds(folder: Path, protocol: Protocol = PROTOCOL) -> dict[str, Result]:
    """Read what is kept, by MODEL@SEED; {} where nothing is.

    Args:
        folder: of the published results.

    Raises:
        DataError: a file that cannot be read, or one made under another protocol.
    """
    names = sorted(path.stem for path in (folder / FOLDER).glob("*@*.json"))
    return read_results(folder / FOLDER, names, protocol) if names else {}


def seeds_table(shipped: Mapping[str, Result], seeds: Mapping[str, Result], protocol: Protocol = PROTOCOL) -> str:
    """Write a table of each seed's clean and worst case, the shipped model's first, and how far apart they lie."""
    epsilons = protocol.part(_PART).epsilons
    rows = []
    for name in dict.fromkeys(one.partition("@")[0] for one in seeds):
        family = {name: shipped[name]} if name in shipped else {}
        family |= {one: result for one, result in seeds.items() if one.partition("@")[0] == name}
        values: list[list[float]] = []
        for one, result in family.items():
            found = [verdict for e in epsilons if (verdict := result.verdict(_PART, e)) is not None]
            cells = [share(found[0].clean), *(share(verdict.held) for verdict in found)]
            values.append([cell["value"] for cell in cells])
            rows.append([label(one), *map(percent, cells)])
        apart = [100 * (max(column) - min(column)) for column in zip(*values, strict=True)]
        rows.append([f"{name}: apart, in points", *(f"{value:.1f}" for value in apart)])
    return markdown(["model", "clean", *(f"robust {e:g}/255" for e in epsilons)], rows)


def measure_seeds(comparison: Comparison, specs: Mapping[str, str], target: Path, quiet: bool = False) -> None:
    """Measure the part of each model and keep it.

    Args:
        specs: MODEL@SEED → how to load it. target: folder of the published results.
    """
    (target / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, spec in specs.items():
        with interruptible() as cancel, progress_bar(quiet, form=SHARE_AND_WORDS) as show:
            found = comparison.measure(name, spec, [_PART], progress=show, cancel=cancel)
        write_json(target / FOLDER / f"{name}.json", found)


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["compare", "seeds", *sys.argv[1:]]))
