"""What a user installs: the wheel has everything, the settings are understood, the lock fits the declared ranges."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import cmai_core

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")


def files_in(folder: str) -> set[str]:
    """Files of a folder of the checkout, relative to the root, but for what Python or git leave out."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".nbi", ".nbc")
    }


# --- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling (pip install -e '.[test]')")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel unpacked, as pip would put it into site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_library_the_lab_and_the_assets(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    places = {"cmai_core": "cmai_core", "app": "cmai_core/_app/app", "assets": "cmai_core/_assets"}
    for source, place in places.items():
        expected = {place + name.removeprefix(source) for name in files_in(source)}
        assert expected and not expected - names
    assert "cmai_core/_app/.streamlit/config.toml" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_holds_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"cmai_core", f"cmai-{cmai_core.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".nbi", ".nbc"))]


def test_an_installed_wheel_finds_its_own_assets(installed, tmp_path):
    code = "from cmai_core.paths import assets_dir; import cmai_core; print(assets_dir()); print(cmai_core.__version__)"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {code}"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert Path(printed[0]) == installed / "cmai_core" / "_assets"
    assert (Path(printed[0]) / "models").is_dir()
    assert printed[1] == cmai_core.__version__


def test_an_installed_wheel_starts_its_own_lab(installed, tmp_path):
    """The lab's start file and modules are those beside each other in the wheel, not those of the checkout."""
    start = installed / "cmai_core" / "_app" / "app" / "streamlit_app.py"
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); sys.path.insert(0, {str(start.parent.parent)!r});"
        "from app import state; import cmai_core; print(state.__file__); print(cmai_core.__file__)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert start.is_file()
    assert all(Path(line).is_relative_to(installed) for line in printed) and len(printed) == 2


@pytest.mark.parametrize("place", ["checkout", "wheel"])
def test_the_command_app_serves_the_lab(place, installed, tmp_path):
    """`cmai app`, called from anywhere, serves the lab beside it, in the folder with its settings."""
    root = {"checkout": ROOT, "wheel": installed}[place]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        f"import atexit, os, sys; sys.path.insert(0, {str(root)!r}); from cmai_core.cli import main;"
        f"atexit.register(lambda: print('served in', os.getcwd(), flush=True)); main(['app', '--port', '{port}'])"
    )
    environment = os.environ | {"STREAMLIT_SERVER_HEADLESS": "true"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 90
        while (found := answer(f"http://127.0.0.1:{port}/_stcore/health")) is None:
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert found == "ok"
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
    said = (tmp_path / "log").read_text()
    assert f"http://localhost:{port}" in said and "Traceback" not in said
    assert f"served in {root if place == 'checkout' else root / 'cmai_core' / '_app'}\n" in said


def answer(address: str) -> str | None:
    """What the address says; None while nobody listens."""
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.read().decode()
    except OSError:
        return None


def test_metadata_names_the_command_and_the_pythons(installed):
    (folder,) = installed.glob("*.dist-info")
    metadata = (folder / "METADATA").read_text(encoding="utf-8")
    assert "\nRequires-Python: <3.15,>=3.11\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert "cmai = cmai_core.cli:main" in (folder / "entry_points.txt").read_text(encoding="utf-8")


# --- the lock ---------------------------------------------------------------------------------------------------------


def locked() -> dict[str, list[Version]]:
    pins: dict[str, list[Version]] = {}
    for line in LOCK.splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", f"not pinned: {line}"
            pins.setdefault(canonical(requirement.name), []).append(Version(pin.version))
    return pins


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_declared_is_locked_within_its_range():
    pins = locked()
    extras = PROJECT["project"]["optional-dependencies"]
    for text in [*PROJECT["project"]["dependencies"], *extras["test"], *extras["docs"], *extras["dev"]]:
        requirement = Requirement(text)
        versions = pins.get(canonical(requirement.name))
        assert versions, f"{requirement.name} is not in the lock: make lock"
        assert all(version in requirement.specifier for version in versions), f"the lock does not fit {text}: make lock"


def test_the_lock_names_no_place():
    for word in ("--index-url", "--extra-index-url", "--find-links", "://", "file:", "@ "):
        assert word not in LOCK
    assert not re.search(r"(^|\s)/", LOCK)


def test_torch_and_torchvision_are_locked_as_a_pair():
    """torchvision 0.N belongs to torch 2.M with N = M + 14 in this line; a mismatch fails at import."""
    pins = locked()
    (torch,), (vision,) = pins["torch"], pins["torchvision"]
    assert vision.minor + vision.major * 100 == torch.minor + 14
    assert torch.local is None and vision.local is None


# --- imports ----------------------------------------------------------------------------------------------------------


OPTIONAL = PROJECT["project"]["optional-dependencies"]


def imported_by(folder: str) -> dict[str, set[str]]:
    """Top-level modules that the files of a folder import, wherever in the file, and which files do."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.parametrize("folder", ["cmai_core", "app"])
def test_every_import_is_declared(folder):
    declared = {canonical(Requirement(text).name) for text in PROJECT["project"]["dependencies"]}
    # Extras may be imported by the folder they are for, where a missing one is an error that says what to install.
    places = {"cmai_core/training/": "train", "cmai_core/comparison/outsiders.py": "peers"}
    extras = {place: {canonical(Requirement(t).name) for t in OPTIONAL[name]} for place, name in places.items()}
    owners = importlib.metadata.packages_distributions()
    missing = {
        module: files
        for module, files in imported_by(folder).items()
        if not all(any(file.startswith(place) and module in names for place, names in extras.items()) for file in files)
        and module not in sys.stdlib_module_names
        and module not in ("cmai_core", "app")
        and not declared & {canonical(owner) for owner in owners.get(module, [])}
    }
    assert not missing


def test_the_library_knows_nothing_of_the_lab():
    imported = imported_by("cmai_core")
    assert len(imported) > 10
    assert not imported.get("streamlit") and not imported.get("app") and not imported.get("tests")


# --- settings of the lab ----------------------------------------------------------------------------------------------


def options_in(table: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat.update(options_in(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    return options_in(tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8")))


def test_streamlit_knows_every_setting(settings):
    from streamlit import config

    known = config.get_config_options()
    assert not [name for name in settings if name not in known]


def test_the_lab_is_fit_for_visitors(settings):
    from cmai_core.data.uploads import MAX_BYTES

    assert settings["server.maxUploadSize"] * 1024 * 1024 == MAX_BYTES
    assert settings["client.showErrorDetails"] == "none"
    assert settings["browser.gatherUsageStats"] is False
    assert settings["server.enableXsrfProtection"] is True and settings["server.enableCORS"] is True
    assert (
        "server.address" not in settings
    )  # the Makefile and `cmai app` bind to this machine alone unless told otherwise


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two #RRGGBB colours, 1 to 21."""

    def luminance(colour: str) -> float:
        channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_defined_and_readable(settings, theme):
    def colour(name: str) -> str:
        return str(settings[f"theme.{theme}.{name}"])

    for ground in ("backgroundColor", "secondaryBackgroundColor"):
        assert contrast(colour("textColor"), colour(ground)) >= 7
        for name in ("linkColor", "blueTextColor", "orangeTextColor", "greenTextColor", "grayTextColor"):
            assert contrast(colour(name), colour(ground)) >= 4.5, f"{name} on {ground}"
        for name in ("primaryColor", "blueColor", "orangeColor", "greenColor", "grayColor"):
            assert contrast(colour(name), colour(ground)) >= 3, f"{name} on {ground}"
    for name in ("blue", "orange", "green", "gray"):
        assert contrast(colour(f"{name}TextColor"), colour(f"{name}BackgroundColor")) >= 4.5, name


def test_roles_have_their_fixed_colours_in_the_light_theme(settings):
    roles = {"blueColor": "#0072B2", "orangeColor": "#D55E00", "greenColor": "#009E73"}
    assert {name: settings[f"theme.light.{name}"] for name in roles} == roles


# --- make -------------------------------------------------------------------------------------------------------------


def test_make_names_an_unsuitable_python(tmp_path):
    if subprocess.run(["make", "--version"], capture_output=True).returncode:
        pytest.skip("needs make")
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1"\nexit 1\n')
    old.chmod(0o755)
    command = ["make", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}", "app"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "is not a Python 3.11 to 3.14 (Python 3.8.1)" in result.stdout
    assert not (tmp_path / "venv").exists()
