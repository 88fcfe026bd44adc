"""Imports within the lab go one way: services draw nothing, and no page's parts know another's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "app"

ORDER = (
    ("app.state", "app.access"),
    ("app.services",),
    ("app.subject",),
    ("app.verification_flow",),
    ("app.flow",),
    ("app.needs",),
    ("app.registry",),
    ("app.navigation",),
    ("app.components.common",),
    ("app.address",),
    ("app.page", "app.components"),
    ("app.app_pages",),
    ("app.streamlit_app", "app.server"),
)
"""Rooms from the ground up: a module imports from its own row and from those before it."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def level(module: str) -> int:
    """The row of a module: that of the longest room that it lies in."""
    rows = [
        (len(room), row) for row, rooms in enumerate(ORDER) for room in rooms if f"{module}.".startswith(f"{room}.")
    ]
    assert rows, f"{module} lies in no room of ORDER"
    return max(rows)[1]


def imports(path: Path) -> set[str]:
    """The modules of the lab that a file imports when it is loaded (inside functions there is no order to keep)."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "app":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                path = ROOT / full.replace(".", "/")
                is_module = path.with_suffix(".py").is_file() or path.is_dir()
                found.add(full if is_module else node.module)
    return found


MODULES = sorted(path for path in APP.rglob("*.py") if name_of(path) != "app")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    module = name_of(path)
    for other in imports(path):
        assert level(other) <= level(module), f"{module} imports {other}"


@pytest.mark.parametrize("path", sorted((APP / "components").rglob("*.py")), ids=name_of)
def test_a_page_s_parts_import_no_other_page_s(path):
    room = path.relative_to(APP / "components").parts[0]
    for other in imports(path):
        parts = other.split(".")
        if parts[:2] == ["app", "components"] and len(parts) > 2:
            assert parts[2] in (room, "common"), f"{name_of(path)} imports {other}"


def test_each_page_has_its_parts_in_a_room_of_its_name():
    from app.registry import PAGES

    rooms = {path.name for path in (APP / "components").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == {*PAGES, "common", "frame"}


def test_style_sheets_and_scripts_are_files():
    for path in APP.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "export default function" not in text and "@media" not in text, path
    used = "".join(path.read_text(encoding="utf-8") for path in APP.rglob("*.py"))
    for path in (APP / "static").iterdir():
        assert path.name in used or f'component("{path.stem}"' in used, f"{path.name} is used by nothing"


def test_the_roles_colours_stand_in_one_place():
    from app.components.common.theme import ROLES

    for path in (*APP.rglob("*.py"), *(APP / "static").iterdir()):
        if path.name != "theme.py":
            text = path.read_text(encoding="utf-8").upper()
            assert not [role.word for role in ROLES.values() if role.colour.upper() in text], path
