"""Tables as CSV, JSON and LaTeX files; a file is written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cmai_core.errors import OptionError
from cmai_core.files import STDOUT, explained, write_text

# Metrics that are shares, written in percent.
SHARES = ("acc_", "asr", "transfer_asr", "tpr_", "fpr_", "correct_", "gap_8bit", "label_change_rate", "word_edit_rate")
BEST = ("max", "min")
_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "ε": r"$\varepsilon$", "τ": r"$\tau$", "∞": r"$\infty$", "−": r"$-$", "×": r"$\times$", "→": r"$\to$",
}  # fmt: skip


def to_csv(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV (UTF-8, RFC 4180; -: to stdout); an unknown value is an empty field.

    Raises:
        DataError: the file cannot be written.
    """
    return _write(path, table.to_csv(index=False, lineterminator="\r\n"))


def to_json(table: pd.DataFrame, path: str | Path) -> Path:
    """Write {"columns": […], "rows": [{…}, …]}; null is unknown, infinities included. Strict JSON: no NaN.

    Raises:
        DataError: the file cannot be written.
    """
    columns = [str(name) for name in table.columns]
    rows = [
        {n: _plain(v) for n, v in zip(columns, row, strict=True)} for row in table.itertuples(index=False, name=None)
    ]
    text = json.dumps({"columns": columns, "rows": rows}, allow_nan=False, ensure_ascii=False, indent=1)
    return _write(path, text + "\n")


def to_latex(
    table: pd.DataFrame,
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    best: Mapping[str, str] | str | None = None,
    caption: str = "",
    label: str = "",
) -> Path:
    r"""Write a `tabular` for booktabs (`\usepackage{booktabs}`), in a `table` where there is a caption or a label.

    Where the table has value, low and high, they become one column "value [low, high]" and hits and total become "n"
    ("hits/total"). Shares (by `metric`) are in percent with one decimal; an unknown value is a dash.

    Args:
        columns: which, in order; None: all but those whose cells are all empty. "value" stands for value and interval,
            "n" for hits and total.
        best: column → "max" or "min": which cell is bold, all that show the same included. "max" or "min" alone means
            the column "value", and is judged for each metric, task and ε by itself.

    Raises:
        DataError: the file cannot be written. OptionError: an unknown column, or another word in `best`.
    """
    table = table.reset_index(drop=True)
    cells = _cells(table)
    wanted = [n for n in cells if any(cells[n])] if columns is None else list(columns)
    for name in wanted:
        if name not in cells:
            raise OptionError(f"The table has no column {name!r}.", f"Accepted: {', '.join(cells)}.")
    bold = _bold(table, cells, {"value": best} if isinstance(best, str) else dict(best or {}), isinstance(best, str))
    numeric = {n for n in wanted if n in ("value", "n") or (n in table and pd.api.types.is_numeric_dtype(table[n]))}
    lines = [r"\begin{tabular}{" + "".join("r" if n in numeric else "l" for n in wanted) + "}", r"\toprule"]
    lines += [" & ".join(escape(n.replace("_", " ")) for n in wanted) + r" \\", r"\midrule"]
    for row in range(len(table)):
        shown = []
        for name in wanted:
            text = escape(cells[name][row]) or "--"
            shown.append(rf"\textbf{{{text}}}" if row in bold.get(name, ()) else text)
        lines.append(" & ".join(shown) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption or label:
        head = [r"\begin{table}", r"\centering"]
        head += [rf"\caption{{{escape(caption)}}}"] if caption else []
        head += [rf"\label{{{label}}}"] if label else []
        lines = [*head, *lines, r"\end{table}"]
    return _write(path, "\n".join(lines) + "\n")


def escape(text: str) -> str:
    """Return a text that LaTeX prints as it stands."""
    return "".join(_ESCAPED.get(sign, sign) for sign in str(text)).replace("\n", " ")


def is_share(metric: Any) -> bool:
    """Say whether a metric is a share, to be shown in percent."""
    return isinstance(metric, str) and metric.startswith(SHARES)


def figure_text(value: Any, low: Any, high: Any, share: bool) -> str:
    """Return "76.4 [73.9, 78.9]" (percent) or three significant digits; "" where the value is unknown."""
    if _plain(value) is None:
        return ""

    def one(number: Any) -> str:
        if _plain(number) is None:
            return "–"
        return f"{100 * number:.1f}" if share else f"{number:.3g}"

    interval = "" if _plain(low) is None and _plain(high) is None else f" [{one(low)}, {one(high)}]"
    return one(value) + interval


def _cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """Write what stands in each column, with value and interval as one and hits and total as one."""
    joined = {"value", "low", "high"} <= set(table.columns)
    counted = {"hits", "total"} <= set(table.columns)
    out: dict[str, list[str]] = {}
    for name in table.columns:
        if joined and name in ("low", "high"):
            continue
        if counted and name in ("hits", "total"):
            rows = zip(table["hits"], table["total"], strict=True)
            out["n"] = [f"{h}/{t}" if _plain(h) is not None else _text(t) for h, t in rows]
        elif joined and name == "value":
            metrics = table["metric"] if "metric" in table else [""] * len(table)
            rows = zip(table["value"], table["low"], table["high"], metrics, strict=True)
            out["value"] = [figure_text(v, low, high, is_share(m)) for v, low, high, m in rows]
        else:
            out[str(name)] = [_text(value) for value in table[name]]
    return out


def _bold(
    table: pd.DataFrame, cells: Mapping[str, list[str]], best: Mapping[str, str], grouped: bool
) -> dict[str, set[int]]:
    out: dict[str, set[int]] = {}
    for name, kind in best.items():
        if name not in table or kind not in BEST:
            raise OptionError(f"best={{{name!r}: {kind!r}}} is not accepted.", "Accepted: a column; max or min.")
        keys = [k for k in ("metric", "dataset", "split", "task", "norm", "epsilon") if grouped and k in table]
        groups = table.groupby(keys, dropna=False).indices.values() if keys else [np.arange(len(table))]
        out[name] = set()
        for rows in groups:
            values = pd.to_numeric(table[name].iloc[rows]).to_numpy(dtype=float, na_value=np.nan)
            if np.isnan(values).all():
                continue
            winner = rows[np.nanargmax(values) if kind == "max" else np.nanargmin(values)]
            # what reads the same is equally good
            first = cells[name][winner].split(" [")[0]
            out[name] |= {int(r) for r in rows if cells[name][r].split(" [")[0] == first}
    return out


def _text(value: Any) -> str:
    value = _plain(value)
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Return a JSON value; None for what is unknown or not finite."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    return str(value)


def _write(path: str | Path, text: str) -> Path:
    path = Path(path)
    if path != STDOUT:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path
