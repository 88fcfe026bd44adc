"""One running lab for all browser tests, and a fresh Chromium for each."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def _load(name: str):
    """A helper of this folder, whatever way pytest imports tests."""
    full = f"cmai_browser_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session")
def driver(browser_paths):
    return _load("driver")


@pytest.fixture(scope="session")
def lab_address(driver, tmp_path_factory):
    """The address of a lab started for these tests, over results of its own."""
    data = {"CMAI_DATA": str(tmp_path_factory.mktemp("data"))}
    with driver.running_lab(data, ["--allow-any", "--open-review"]) as (address, log):
        yield address
        said = log.read_text(errors="replace")
        assert "Traceback" not in said or "WebSocketDisconnected" in said, said[-4000:]


@pytest.fixture
def open_lab(driver, lab_address, tmp_path):
    """open_lab(width, height, dark): a page object on a fresh browser; closed after the test."""
    page = _load("page")
    opened = []

    def start(width: int = 1440, height: int = 900, dark: bool = False):
        context = driver.chromium(width, height, dark)
        opened.append(context)
        return page.Lab(context.__enter__(), lab_address)

    yield start
    for context in opened:
        context.__exit__(None, None, None)
