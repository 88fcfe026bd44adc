"""Tables as the bytes of a file, for a download."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cmai_core.errors import OptionError
from cmai_core.evaluation.figures import export

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("csv", "json", "tex")


def as_bytes(table: pd.DataFrame, kind: str) -> bytes:
    """Return a table as `evaluation.export` writes it.

    Raises:
        OptionError: another kind of file.
    """
    if kind not in KINDS:
        raise OptionError(f"There is no export as {kind!r}.", f"Accepted: {', '.join(KINDS)}.")
    with tempfile.TemporaryDirectory(prefix="cmai-export-") as folder:
        path = Path(folder) / f"table.{kind}"
        if kind == "csv":
            export.to_csv(table, path)
        elif kind == "json":
            export.to_json(table, path)
        else:
            export.to_latex(table, path)
        return path.read_bytes()
