"""The types of the library's core are said where they meet: mypy checks them only where nothing is `Any`."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = {
    *("model", "batch", "pair", "pairs", "dataset", "features", "task"),
    *("objective", "success", "threat", "search", "attack", "result"),
}


def checked_files() -> list[Path]:
    """The files that mypy checks."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["files"]
    paths = [ROOT / name for name in named]
    assert all(path.exists() for path in paths)
    return [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]


def annotated(tree: ast.Module) -> list[tuple[str, ast.expr]]:
    """Names with their annotations: parameters of functions, and fields of classes."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found += [(a.arg, a.annotation) for a in (*node.args.args, *node.args.kwonlyargs) if a.annotation]
        elif isinstance(node, ast.ClassDef):
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            found += [(part.target.id, part.annotation) for part in fields if isinstance(part.target, ast.Name)]
    return found


def test_the_core_types_are_no_any():
    wrong, seen = [], set()
    for file in checked_files():
        for name, annotation in annotated(ast.parse(file.read_text(encoding="utf-8"))):
            if name in CORE:
                seen.add(name)
                if "Any" in {part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)}:
                    wrong.append(f"{file.relative_to(ROOT)}: {name}: {ast.unparse(annotation)}")
    assert not wrong
    assert {"model", "batch", "dataset", "task", "features", "objective"} <= seen
