"""The comparison's figures in the cards of the bundled models (`cmai compare cards`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmai_core.comparison.protocol import PROTOCOL, Protocol
from cmai_core.comparison.results import Result
from cmai_core.comparison.verdicts import share

_KEPT = ("validation", "robust_image_to_text_r1")
"""What a card's results keep: what other commands have measured."""


def figures(result: Result, protocol: Protocol = PROTOCOL) -> dict[str, Any]:
    """Return a card's results.

    `test` (clean figures of every task), `robust` (by ε in 1/255: the worst case of the main part, with the clean share
    of the same scenes) and the protocol's hash.
    """
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
    """Put the figures beside what the cards hold already; return the names of the models that were written.

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


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["compare", "cards", *sys.argv[1:]]))
