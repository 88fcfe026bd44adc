"""Whatever can be added to CMAI comes from another package through public entry points, without an edit in the project.

`tests/plugins/` is that package, a file a kind; it is installed as pip would, into a folder of the test. Each file has
`use()`, which uses its part as a person would and returns whether it worked.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENTRY_POINTS = {
    "cmai.commands": {"stars": "other.commands:stars"},
    "cmai.models": {"tiny": "other.models:FAMILY"},
    "cmai.checks": {"a hundred rows": "other.checks:enough_rows"},
    "cmai.probes": {"patience": "other.checks:patient"},
    "cmai.recipes": {"gentle": "other.training:RECIPE"},
    "cmai.pages": {"hello": "other.pages:PAGE"},
    "cmai.lessons": {"halves": "other.lessons:LESSON"},
    "cmai.datasets": {"swatches": "other.datasets:SWATCHES"},
    "cmai.tasks": {"best-class": "other.tasks:BEST"},
    "cmai.metrics": {"confidence": "other.tasks:CONFIDENCE"},
    "cmai.attacks": {"sparkle": "other.attacks:SPARKLE", "shout": "other.text_attacks:SHOUT"},
    "cmai.objectives": {"length": "other.objectives:LENGTH"},
    "cmai.figures": {"tries": "other.figures:tries"},
    "cmai.norms": {"grey": "other.norms:GREY"},
}
USES = (
    *("commands", "models", "checks", "training", "pages", "lessons", "datasets", "tasks"),
    *("attacks", "text_attacks", "objectives", "norms", "figures"),
)
SCRIPT = """
import importlib, json, sys, traceback
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = bool(importlib.import_module(f"other.{name}").use())
    except BaseException:
        found[name] = traceback.format_exc()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> dict[str, object]:
    """Module → what its `use()` returned (a traceback where it failed), in a process that has the package installed."""
    folder = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(ROOT / "tests" / "plugins", folder / "other", ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in parts.items()) for group, parts in ENTRY_POINTS.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *USES],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "is left out" not in done.stderr, done.stderr  # the note of a part that cannot be used
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
def test_a_part_of_another_package_works(used, name):
    assert used[name] is True, used[name]


def test_every_group_of_entry_points_has_a_part_here():
    groups = set()
    for folder in ("cmai_core", "app"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            groups |= set(re.findall(r'^[A-Z]\w+.* = Registry\(\s*"[^"]+",\s*"(cmai\.\w+)"', text, re.MULTILINE))
    assert groups == set(ENTRY_POINTS)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/tutorials/attack-package.md"])
def test_the_documentation_names_every_group(page):
    named = set(re.findall(r"`(cmai\.\w+)`", (ROOT / page).read_text(encoding="utf-8")))
    assert set(ENTRY_POINTS) <= named
