"""What the documentation shows runs: its Python from top to bottom of each page, its commands as far as their options.

A block that cannot be run has a line "*Not run by the tests: why.*" before it, which readers see too.
"""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest

from cmai_core import cli
from cmai_core.commands.tree import built

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if path.is_file()
)
COMPARE = [command.name for command in cli.COMMANDS["compare"].registered_commands]
MODULES = {  # what is still called as a module
    "cmai_core.training": ["train"],
    "cmai_core.training.bundle": ["bundle"],
    "cmai_core.training.reference": ["reference"],
    "cmai_core.training.placement": ["placement"],
    **{f"cmai_core.comparison.{name}": ["compare", name] for name in COMPARE},
}
NOT_RUN = {"docs/evaluation.md": 1}
FENCE = re.compile(
    r"^(?P<why>\*Not run by the tests: [^\n]+\*\n\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[re.Match]:
    return [match for match in FENCE.finditer(read(page)) if match["language"] == language]


WITH_PYTHON = [page for page in PAGES if any(not block["why"] for block in blocks(page, "python"))]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own to write into, and a data folder in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMAI_DATA", str(tmp_path / "data"))


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs(page, elsewhere, capsys):
    names: dict = {"__name__": "page"}
    for block in blocks(page, "python"):
        if not block["why"]:
            line = read(page)[: block.start("code")].count("\n")
            exec(compile("\n" * line + block["code"], str(ROOT / page), "exec"), names)
            if "print(" in block["code"]:
                assert capsys.readouterr().out.strip() or "def " in block["code"]


def test_few_blocks_are_not_run():
    found = {page: sum(bool(block["why"]) for block in blocks(page, "python")) for page in PAGES}
    assert {page: count for page, count in found.items() if count} == NOT_RUN
    assert len(WITH_PYTHON) >= 8


# --- commands ---------------------------------------------------------------------------------------------------------


def commands_of(page: str) -> list[str]:
    """Commands of a page's shell blocks and of its indented lines, lines that go on joined, without comments."""
    lines = [line for block in blocks(page, "sh") for line in block["code"].replace("\\\n", " ").splitlines()]
    outside = FENCE.sub("", read(page)).replace("\\\n", " ")
    lines += re.findall(r"^ {4}((?:cmai|make|torchrun|python) .*)$", outside, re.MULTILINE)
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def arguments_of(command: str) -> list[str] | None:
    """The words after `cmai`, also where it is called as a module; None for a command of others."""
    words = [word for word in shlex.split(command) if word != "…"]
    if words[0] == "cmai":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] in MODULES:
        at = words.index("-m")
        return [*MODULES[words[at + 1]], *words[at + 2 :]]
    return None


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_the_commands_of_a_page_can_be_read(page):
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    for command in commands_of(page):
        arguments = arguments_of(command)
        if arguments is not None:
            cli.parse(arguments)  # raises an error that names the option
        elif command.startswith("make "):
            assert re.match(r"[a-z]+", command[5:])[0] in targets, command


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_have_the_options_they_name(page):
    for words in re.findall(r"`cmai ([a-z][^`\n]*)`", read(page)):
        name, *rest = words.split()
        if name == "sparkle":  # the command of a tutorial's package
            continue
        assert name in cli.COMMANDS, words
        command = built(name, cli.COMMANDS[name])
        below = getattr(command, "commands", {})
        command = below.get(rest[0], command) if rest else command
        known = {option for param in command.params for option in param.opts} | {"--help"}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, words


def test_what_the_reference_names_is_there():
    names = [
        line.removeprefix("::: ").strip()
        for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("::: ")
    ]
    assert len(names) > 10
    assert [name for name in names if not _is_there(name)] == []


def _is_there(name):
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
