"""The page of a report: one file, everything in it, nothing fetched, no script but its own."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from cmai_core.reports.looks import ROLES, Look

_FOLDER = Path(__file__).resolve().parent / "templates"


def render(name: str, **values: Any) -> str:
    """Fill in a template of this folder; whatever is not markup of this package is escaped.

    Args:
        name: of the file. values: what it names; one that it needs and does not get is an error.
    """
    style, script = _asset("report.css"), _asset("report.js")
    return _environment().get_template(name).render(
        **values, style=style, script=script, policy=_policy(style, script)
    )  # fmt: skip


def _policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy: this style, this script, pictures inside the file, and nothing else."""
    sums = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{sums[0]}'; script-src 'sha256-{sums[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    text = (_FOLDER / name).read_text("utf-8").strip()
    return text + _colours() if name.endswith(".css") else text


def _colours() -> str:
    """Return a class for each colour, as the page allows no style of its own to an element."""
    found = dict.fromkeys(look.colour for look in ROLES.values())
    return "".join(f"\n.c{colour[1:]}{{color:{colour}}}" for colour in found)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(_FOLDER), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=True,
    )  # fmt: skip

    def mark(look: Look) -> Markup:
        return Markup('<span class="m c{}" aria-hidden="true">{}</span>').format(look.colour[1:], look.mark)

    made.filters |= {"number": number, "signed": signed, "mark": mark}
    made.globals |= {"ROLES": ROLES}
    return made


def number(value: float | None) -> str:
    """Return three decimals with a true minus sign; an en dash if there is no number."""
    return "–" if value is None or value != value else f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Return three decimals, always with a sign; an en dash if there is no number."""
    return "–" if value is None or value != value else f"{value:+.3f}".replace("-", "−")


def percent(value: Any, low: Any = None, high: Any = None) -> str:
    """Return "76 % [70, 82]", "–" for what is not known."""
    if value is None or value != value:
        return "–"
    interval = "" if low is None or low != low else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{100 * value:.0f} %{interval}"
