"""A Chromium and a running lab: what the browser tests and the screenshot script share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab_server import served

ROOT = Path(__file__).resolve().parents[2]

CHROMIUM_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)


def find_chromium() -> tuple[str, str] | None:
    """(browser, driver) as installed by the system; None where one is missing."""
    browser = os.environ.get("CMAI_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    browser = browser or shutil.which("google-chrome")
    driver = os.environ.get("CMAI_CHROMEDRIVER") or shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def running_lab(environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> Iterator[tuple[str, Path]]:
    """Starts the lab on a free port; yields (address, log file) and stops it again.

    Args:
        environment: variables beside those of this process. options: of `cmai app`.
    """

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "cmai_core", "app", "--port", str(port), *options]

    with served(command, ROOT, {"STREAMLIT_SERVER_HEADLESS": "true"} | (environment or {})) as (address, _, log):
        yield address, log


@contextmanager
def chromium(width: int = 1440, height: int = 900, dark: bool = False) -> Iterator:
    """A fresh headless Chromium with an empty profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = find_chromium()
    if found is None:
        raise RuntimeError("Chromium and chromedriver are not installed.")
    with tempfile.TemporaryDirectory(prefix="cmai-chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = found[0]
        for option in CHROMIUM_OPTIONS:
            options.add_argument(option)
        options.add_argument(f"--user-data-dir={profile}")
        options.add_argument(f"--window-size={width},{height}")
        browser = _started(lambda: webdriver.Chrome(options=options, service=Service(found[1])))
        try:
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
            )
            scheme = "dark" if dark else "light"
            browser.execute_cdp_cmd(
                "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            )
            yield browser
        finally:
            browser.quit()


def _started(start):
    """The browser; tried again once, since on a busy machine chromedriver may give up on a slow start."""
    from selenium.common.exceptions import WebDriverException
    from urllib3.exceptions import HTTPError

    try:
        return start()
    except (WebDriverException, HTTPError):
        return start()


def settled(browser, seconds: float = 60) -> None:
    """Waits until no script is running and nothing is stale."""
    end = time.monotonic() + seconds
    quiet = 0
    while time.monotonic() < end and quiet < 3:
        busy = browser.execute_script(
            "const a = document.querySelector('[data-testid=stApp]');"
            "return !a || a.dataset.testScriptState === 'running' || "
            "!!document.querySelector('[data-testid=stSkeleton]')"
        )
        quiet = 0 if busy else quiet + 1
        time.sleep(0.15)


def full_page(browser, path: Path, width: int, least: int = 900) -> None:
    """A screenshot of the whole page, not only of what fits the window."""
    tall = browser.execute_script(
        "const m = document.querySelector('[data-testid=stMain]'); return m ? m.scrollHeight : "
        "document.body.scrollHeight"
    )
    size = {"width": width, "height": max(least, int(tall) + 2), "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(0.6)
    browser.save_screenshot(str(path))
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | {"height": least})
