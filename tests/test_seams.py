"""Parts answer for themselves: nobody else asks what a task or dataset is called, or opens a dataset's own modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmai_core.data.registry import DATASETS
from cmai_core.tasks import TASKS

ROOT = Path(__file__).parent.parent
PROTOCOLS = ("cmai_core/comparison/", "cmai_core/training/")
"""They name tasks and datasets as data: what is compared, and what the bundled models are trained on."""
TRAINS_ON_TABLETOP = {
    f"cmai_core/training/{name}.py"
    for name in ("edits", "losses", "masked_lm", "placement", "reference", "runs", "validation")
}


def modules(*without: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of the project that does not lie in one of the folders."""
    for folder in ("cmai_core", "app"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            if not place.startswith(without):
                yield place, ast.parse(path.read_text("utf-8"))


def texts(node: ast.AST | None) -> set[str]:
    """The texts that stand in an expression, or in a tuple, list or set of them."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def asked_for(tree: ast.Module) -> Iterator[tuple[int, set[str]]]:
    """Lines that branch on texts, with the texts: comparisons, keys, subscripts, cases, beginnings and ends."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield node.lineno, set().union(*map(texts, (node.left, *node.comparators)))
        elif isinstance(node, ast.Dict):
            yield node.lineno, set().union(*map(texts, node.keys))
        elif isinstance(node, ast.Subscript):
            yield node.lineno, texts(node.slice)
        elif isinstance(node, ast.MatchValue):
            yield node.value.lineno, texts(node.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("startswith", "endswith", "get"):
            yield node.lineno, {text.partition("/")[0] for part in node.args for text in texts(part)}


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports, wherever in it, and dotted names in its texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ":" in node.value:
            yield node.value


def test_only_tasks_know_what_tasks_are_called():
    found = [
        f"{place}:{line} asks for {', '.join(sorted(named & set(TASKS)))}"
        for place, tree in modules("cmai_core/tasks/", *PROTOCOLS)
        for line, named in asked_for(tree)
        if named & set(TASKS)
    ]
    assert not found, found


def test_only_data_knows_what_datasets_are_called():
    found = [
        f"{place}:{line} asks for {', '.join(sorted(named & set(DATASETS)))}"
        for place, tree in modules("cmai_core/data/", "cmai_core/models/", *PROTOCOLS)  # models have names of their own
        for line, named in asked_for(tree)
        if named & set(DATASETS)
    ]
    assert not found, found


def test_only_the_training_of_the_bundled_models_opens_tabletop():
    users = {
        place
        for place, tree in modules("cmai_core/data/")
        if any(name.startswith("cmai_core.data.tabletop") for name in imported(tree))
    }
    assert users == TRAINS_ON_TABLETOP


@pytest.mark.parametrize(
    "code",
    ['task.name == "vqa"', 'x in ("nlvr", "a")', '{"captioning": 1}', 'of["retrieval"]', 'x.startswith("photos/test")'],
)
def test_the_rule_sees_what_it_forbids(code):
    named = set().union(*(texts for _, texts in asked_for(ast.parse(code))))
    assert named & {*TASKS, *DATASETS}
