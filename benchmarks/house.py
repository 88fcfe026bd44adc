"""Counts the house: files, imports between them, long functions, lines.

    python benchmarks/house.py [CHECKOUT ...]

Prints a column for each folder, so that a layout can be compared with an earlier one (docs/architecture.md).
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

LONG = 60


def modules_of(root: Path) -> dict[str, Path]:
    """Return dotted name → file of everything in cmai_core and app."""
    found = {}
    for file in sorted([*root.glob("cmai_core/**/*.py"), *root.glob("app/**/*.py")]):
        name = ".".join(file.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file
    return found


def imports_of(name: str, tree: ast.AST, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the project's modules that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                target = full if full in modules else node.module
                if target in modules and target != name:
                    yield target


def counts(root: Path) -> dict[str, str]:
    """Count one checkout: what → how many, as text."""
    modules = modules_of(root)
    trees = {name: ast.parse(file.read_text("utf-8")) for name, file in modules.items()}
    arrows = {(name, target) for name, tree in trees.items() for target in imports_of(name, tree, modules)}

    def room(name: str) -> str:
        head = name.split(".")[:3]
        return ".".join(head) if (root / "/".join(head)).is_dir() else "cmai_core.attacks"

    attacks = {name for name in modules if name.startswith("cmai_core.attacks")}
    inside = {(a, b) for a, b in arrows if a in attacks and b in attacks}
    worlds = {a for a, b in arrows if b.startswith("cmai_core.data.tabletop") and not a.startswith("cmai_core.data")}
    functions = [
        (node.end_lineno - node.lineno + 1, node.name)
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    longest, name = max(functions)
    lines = sum(file.read_text("utf-8").count("\n") for file in modules.values())
    tests = sum(file.read_text("utf-8").count("\n") for file in root.glob("tests/**/*.py"))
    return {
        "files in attacks/ itself": str(len(list((root / "cmai_core/attacks").glob("*.py")))),
        "files in attacks/ and its rooms": str(len(attacks)),
        "imports between files of attacks/": str(len(inside)),
        "arrows between its rooms": str(len({(room(a), room(b)) for a, b in inside if room(a) != room(b)})),
        "modules above data/ that import Tabletop": str(len(worlds)),
        "of these outside training/": str(sum(not module.startswith("cmai_core.training") for module in worlds)),
        "longest function": f"{longest} ({name})",
        f"functions over {LONG} lines": str(sum(length > LONG for length, _ in functions)),
        "lines of cmai_core/ and app/": f"{lines:,}",
        "lines of tests/": f"{tests:,}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("roots", nargs="*", type=Path, default=[Path(__file__).resolve().parent.parent])
    columns = [counts(root) for root in parser.parse_args().roots]
    for what in columns[0]:
        print("  ".join([f"{what:<42}", *(f"{column[what]:>24}" for column in columns)]).rstrip())


if __name__ == "__main__":
    main()
