"""What docs/security.md and README promise is what the code does."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
BOUNDS = re.findall(r"^\| (.+) \| ([\d.]+) \| `([\w.]+):([\w.]+)` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("what", "bound", "module", "name"), BOUNDS, ids=[row[3] for row in BOUNDS])
def test_each_bound_is_the_code_s(what, bound, module, name):
    value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    assert float(value) == float(bound), what


def test_all_rows_of_the_tables_are_compared():
    parts = PAGE.split("## What is bounded")[1].split("## Headers")[0]
    rows = [line for line in parts.splitlines() if line.startswith("| ") and not line.startswith("| what ")]
    assert len(rows) == len(BOUNDS) > 30


def test_the_options_it_names_are_those_of_the_command():
    from cmai_core.cli import COMMANDS
    from cmai_core.commands.tree import built

    known = {word for option in built("app", COMMANDS["app"]).params for word in option.opts}
    named = set(
        re.findall(r"`(?:cmai app )?(--[a-z-]+)", PAGE.split("## What the owner")[1].split("## What is bounded")[0])
    )
    assert {"--allow", "--allow-any", "--max-download", "--review-key", "--open-review", "--name"} <= named <= known


def test_the_headers_it_names_are_sent():
    from app.access.gate import headers

    sent = headers()
    for name in sent:
        assert name in PAGE
    assert "frame-ancestors 'none'" in sent["Content-Security-Policy"]


def test_the_readme_leads_there():
    assert "(docs/security.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_defaults_of_the_download_agree():
    from app.access import permissions as owner
    from cmai_core.models.download import MAX_BYTES

    assert owner.DEFAULT_DOWNLOAD_GB * 1e9 == owner.Rules().download_bytes == MAX_BYTES


def test_the_example_command_is_one():
    from cmai_core.cli import parse
    from cmai_core.commands.app import settings

    (line,) = re.findall(r"^    cmai (app .+)$", PAGE, re.MULTILINE)
    variables, options = settings(parse(line.split())[1])
    assert "lab.example.org" in options and variables["CMAI_ALLOW"]
