"""What all tests share: fixed seeds, one thread each, no network, and the rule about browser tests."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

# Before torch or numpy are imported: with one process a core, more threads only stand in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Nothing is fetched in tests; a missing file is an error at once instead of after a time-out.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
REQUIRE_BROWSER = os.environ.get("CMAI_REQUIRE_BROWSER", "") not in ("", "0")

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = "browser tests need chromium and chromedriver on the PATH (Debian: apt install chromium chromium-driver)"


def find_browser() -> tuple[str, str] | None:
    """Paths of Chromium and of its chromedriver, or None where either is missing."""
    chromium = next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


# Files of few long tests, longest first: begun last, they would keep one process busy when the others have none left.
LONG = (
    *("browser/test_story", "browser/", "comparison/", "evaluation/sweep/", "app/test_benchmark", "app/", "data/"),
    "training/",
)


# What computes: run again by `make numerics` with other instructions, threads and last bits.
NUMERICAL = (
    *("attacks/", "models/", "explanations/", "tasks/", "defenses/test_cmcv", "defenses/test_system"),
    *("defenses/test_pathways", "evaluation/test_metrics", "evaluation/test_detection", "evaluation/test_figures"),
    *("training/test_forward", "training/test_inner", "training/test_one_step", "training/test_text_inner"),
    *("training/test_edits", "training/test_vision_start"),
)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, the rest as collected (`--no-loadscope-reorder` keeps this order among processes)."""

    def place(item: pytest.Item) -> str:
        return item.path.relative_to(ROOT / "tests").as_posix()

    def rank(item: pytest.Item) -> int:
        return next((k for k, start in enumerate(LONG) if place(item).startswith(start)), len(LONG))

    moved = [start for start in (*LONG, *NUMERICAL) if not any((ROOT / "tests").glob(f"{start}*"))]
    if moved:
        raise pytest.UsageError(f"tests/conftest.py names what is not there: {', '.join(moved)}")
    items.sort(key=rank)
    for item in items:
        if place(item).startswith(NUMERICAL):
            item.add_marker("numerics")


# --- other processors' last bits --------------------------------------------------------------------------------------


def nudge(parts: int) -> None:
    """Makes every random number that PyTorch draws smaller by `parts` in 2²³: the last bits of all that follows change.

    So one machine shows what others would: a test that then fails rests on its processor's rounding. The factor is the
    same everywhere, so that what must be equal stays equal.
    """
    import functools

    import torch
    from torch.utils import _device

    # PyTorch knows the functions that `with torch.device(...)` is for by what they are: it is asked before they change.
    getattr(_device, "_device_constructors", list)()
    factor = 1 - parts * 2.0**-23

    def scaled(draw, in_place):
        @functools.wraps(draw)
        def drawn(*arguments, **options):
            out = draw(*arguments, **options)
            if not out.is_floating_point():
                return out
            with torch.no_grad():
                return out.mul_(factor) if in_place else (out * factor).requires_grad_(out.requires_grad)

        return drawn

    for name in ("rand", "randn"):
        setattr(torch, name, scaled(getattr(torch, name), in_place=False))
    for name in ("normal_", "uniform_"):
        setattr(torch.Tensor, name, scaled(getattr(torch.Tensor, name), in_place=True))


if os.environ.get("CMAI_TEST_NUDGE"):
    nudge(int(os.environ["CMAI_TEST_NUDGE"]))


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with samples of published datasets, which are not part of the project; skips where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the published sample data in ../shared/data")
    return SHARED_DATA


@pytest.fixture
def generator():
    """A seeded torch.Generator on the CPU, new for each test."""
    import torch

    return torch.Generator().manual_seed(20240607)


@pytest.fixture
def private_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of this test's own, instead of the user's."""
    folder = tmp_path / "cmai-cache"
    monkeypatch.setenv("CMAI_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def browser_paths() -> tuple[str, str]:
    """(chromium, chromedriver). Tests that use it are marked `browser`."""
    found = find_browser()
    if found is None:
        pytest.fail(NO_BROWSER) if REQUIRE_BROWSER else pytest.skip(NO_BROWSER)
    return found


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Connections to other machines fail: after installation the project works without a network."""
    connect = socket.socket.connect

    def local_only(self, address):
        host = address[0] if isinstance(address, tuple) else ""
        if isinstance(address, tuple) and host not in ("localhost", "::1", "0.0.0.0") and not host.startswith("127."):
            raise OSError(f"tests do not use the network (connection to {host})")
        return connect(self, address)

    socket.socket.connect = local_only
    yield
    socket.socket.connect = connect


# --- browser tests ----------------------------------------------------------------------------------------------------


def pytest_runtest_setup(item):
    if item.get_closest_marker("browser") and find_browser() is None:
        pytest.fail(NO_BROWSER, pytrace=False) if REQUIRE_BROWSER else pytest.skip(NO_BROWSER)


_browser_outcomes = {"passed": 0, "skipped": 0}


def pytest_runtest_logreport(report):
    """Counts in the process that reports to the terminal, also under xdist."""
    if "browser" in report.keywords:
        if report.when == "call" and report.passed:
            _browser_outcomes["passed"] += 1
        elif report.skipped:
            _browser_outcomes["skipped"] += 1


def pytest_sessionfinish(session):
    """With CMAI_REQUIRE_BROWSER=1 a run in which the browser tests were skipped, or were not there, has failed."""
    if not REQUIRE_BROWSER or hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    if (_browser_outcomes["skipped"] or not _browser_outcomes["passed"]) and session.exitstatus in (0, 5):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if REQUIRE_BROWSER and (_browser_outcomes["skipped"] or not _browser_outcomes["passed"]):
        terminalreporter.write_line(
            f"FAILED: CMAI_REQUIRE_BROWSER is set, but {_browser_outcomes['passed']} browser tests passed and "
            f"{_browser_outcomes['skipped']} were skipped",
            red=True,
        )
