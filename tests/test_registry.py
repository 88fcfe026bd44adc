"""Parts by name: lazily imported, and brought by other packages through entry points."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cmai_core.errors import CmaiError, OptionError
from cmai_core.registry import Registry

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def registry():
    return Registry("thing", "cmai.tests.nothing", {"errors": "cmai_core.errors:CmaiError", "five": 5})


def test_parts_are_imported_when_asked_for(registry):
    assert list(registry) == ["errors", "five"]
    assert registry["errors"] is CmaiError
    assert registry.find("five") == 5
    assert dict(registry) == {"errors": CmaiError, "five": 5}


def test_an_unknown_name_lists_those_there_are(registry):
    with pytest.raises(OptionError, match=r"five"):
        registry.find("fiv")
    with pytest.raises(KeyError):
        registry["six"]
    with pytest.raises(OptionError):
        registry.find(None)


def test_a_part_is_added_once(registry):
    registry.add("six", 6)
    assert registry.find("six") == 6
    with pytest.raises(OptionError):
        registry.add("six", 7)
    with pytest.raises(OptionError):
        registry.add("five", 7)
    assert registry["six"] == 6


def test_a_refused_part_is_not_added():
    registry = Registry("number", "cmai.tests.nothing", {}, lambda name, part: "" if part > 0 else "not positive")
    with pytest.raises(OptionError, match="minus"):
        registry.add("minus", -1)
    assert len(registry) == 0


@pytest.fixture
def package(tmp_path):
    """A package as pip installs it: with a good part, a broken one, a refused one and a name that is taken."""
    (tmp_path / "theirs.py").write_text("six = 6\nnegative = -6\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cmai.tests]\nsix = theirs:six\nbroken = theirs:missing\nnegative = theirs:negative\nfive = theirs:six\n"
    )
    return tmp_path


def test_installed_packages_bring_parts(package):
    script = """
        import warnings
        from cmai_core.errors import CmaiWarning
        from cmai_core.registry import Registry
        registry = Registry("number", "cmai.tests", {"five": 5}, lambda name, part: "" if part > 0 else "not positive")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            print(dict(registry))
            print(sorted(name for w in seen for name in ("broken", "negative", "five") if repr(name) in str(w.message)))
            print({w.category is CmaiWarning for w in seen}, registry.find("six"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": f"{package}", "PATH": ""},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["{'five': 5, 'six': 6}", "['broken', 'five', 'negative']", "{True} 6"]


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("shared", "six = len(shared.NUMBERS) + 5"),  # the registry imports it
        ("theirs", "six = shared.NUMBERS.find('five') + 1"),  # a person does, before the registry
    ],
)
def test_a_package_may_look_up_parts_while_it_is_imported(tmp_path, first, code):
    (tmp_path / "theirs.py").write_text(f"import shared\n{code}\n")
    (tmp_path / "shared.py").write_text(
        "from cmai_core.registry import Registry\nNUMBERS = Registry('number', 'cmai.tests', {'five': 5})\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cmai.tests]\nsix = theirs:six\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {first}, shared; print(dict(shared.NUMBERS))"],
        capture_output=True, text=True, env={"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))), "PATH": ""},
    )  # fmt: skip
    assert done.stdout.strip() == "{'five': 5, 'six': 6}", done.stderr
