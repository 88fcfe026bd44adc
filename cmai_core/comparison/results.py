"""The published results, read back and held to the shipped models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmai_core.comparison.protocol import PROTOCOL, Protocol
from cmai_core.comparison.verdicts import Verdict
from cmai_core.errors import DataError


@dataclass(frozen=True)
class Result:
    """Everything that is known of one model.

    Attributes:
        name, hash: of the model. protocol: hash of what was asked. parts: as `run` writes them.
    """

    name: str
    hash: str
    protocol: str
    parts: Mapping[str, Any]

    def verdicts(self, part: str) -> list[Verdict]:
        """Return verdicts of a part of the protocol that is a grid."""
        return [Verdict(**values) for values in self.parts.get(part, ())]

    def verdict(self, part: str, epsilon: float, task: str = "retrieval", source: str = "") -> Verdict | None:
        """Return one of them, or None where it was not measured."""
        for found in self.verdicts(part):
            if (found.task, found.epsilon, found.source) == (task, epsilon, source):
                return found
        return None


def read_results(folder: Path, names: Sequence[str] | None = None, protocol: Protocol = PROTOCOL) -> dict[str, Result]:
    """Return results by model, in the protocol's order.

    Args:
        folder: with one JSON file a model. names: None: the protocol's models that are there.

    Raises:
        DataError: no results, a file that cannot be read, or one made under another protocol.
    """
    wanted = list(protocol.models if names is None else names)
    found = {}
    for name in wanted:
        path = Path(folder) / f"{name}.json"
        if not path.is_file():
            continue
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            result = Result(values["model"], values["hash"], values["protocol"], values["parts"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} holds no results: {error}.", "Run the comparison again.") from error
        if result.protocol != protocol.hash:
            raise DataError(
                f"{path} was made under the protocol {result.protocol}, not {protocol.hash}.",
                "Run the comparison again; results under one protocol are made once.",
            )
        found[name] = result
    if not found:
        raise DataError(f"There are no results in {folder}.", "python -m cmai_core.comparison.run makes them.")
    return found


def stale(results: Mapping[str, Result]) -> list[str]:
    """Return models whose results are of other weights than the shipped ones, or that are not shipped."""
    from cmai_core.models.core import hash_of_files
    from cmai_core.models.families.bundled import bundled_dir
    from cmai_core.models.save import WEIGHTS_FILE
    from cmai_core.models.weights import HEADS_FILE

    out = []
    for name, result in results.items():
        files = [bundled_dir() / name / file for file in (WEIGHTS_FILE, HEADS_FILE)]
        files = [file for file in files if file.is_file()]
        if not files or hash_of_files(files) != result.hash:
            out.append(name)
    return out
