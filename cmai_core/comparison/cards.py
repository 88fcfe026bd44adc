"""Writes the comparison's figures into the cards of the bundled models: python -m cmai_core.comparison.cards"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmai_core.comparison.protocol import PROTOCOL, Protocol
from cmai_core.comparison.results import Result, read_results, stale
from cmai_core.comparison.run import results_dir
from cmai_core.comparison.verdicts import share
from cmai_core.errors import DataError
from cmai_core.terminal import exit_status

_KEPT = ("validation", "robust_image_to_text_r1")
"""What a card's results keep: what other commands have measured."""


def figures(result: Result, protocol: Protocol = PROTOCOL) -> dict[str, Any]:
    """A card's results: `test` (clean figures of every task), `robust` (by ε in 1/255: the worst case of the main
    part, with the clean share of the same scenes) and the protocol's hash."""
    robust = {}
    for epsilon in protocol.part("main").epsilons:
        verdict = result.verdict("main", epsilon)
        if verdict is not None:
            robust[f"{epsilon:g}"] = {**share(verdict.held), "clean": share(verdict.clean)["value"]}
    out: dict[str, Any] = {"protocol": result.protocol, "robust": robust}
    if "clean" in result.parts:
        out["test"] = {"scenes": protocol.clean, "captioned": protocol.written, "tasks": result.parts["clean"]}
    return out


def write_cards(results: Mapping[str, Result], folder: Path, protocol: Protocol = PROTOCOL) -> list[str]:
    """Puts them beside what the cards hold already; gives the names of the models that were written.

    Args:
        folder: of the bundled models.
    """
    import json

    from cmai_core.models.save import CARD_FILE, write_card

    for name, result in results.items():
        card = json.loads((folder / name / CARD_FILE).read_text(encoding="utf-8"))
        kept = {key: value for key, value in card.get("results", {}).items() if key in _KEPT}
        write_card(folder / name, card | {"results": kept | figures(result, protocol)})
    return list(results)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cmai_core.comparison.cards", description=__doc__.splitlines()[0])
    parser.parse_args(argv)
    return exit_status(_write)


def _write() -> None:
    from cmai_core.models.families.bundled import bundled_dir

    results = read_results(results_dir())
    if old := stale(results):
        raise DataError(f"The results of {', '.join(old)} are of other weights.", "Run the comparison again.")
    print(f"written: {', '.join(write_cards(results, bundled_dir()))}")


if __name__ == "__main__":
    sys.exit(main())
