"""Shoots every page of the lab, light and dark, wide and as a telephone sees it, into docs/screenshots.

    python docs/make_screenshots.py            # needs Chromium and chromedriver, and the bundled models

It starts its own lab, makes one attack, one distribution, one map and one explanation, and photographs them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from driver import chromium, full_page, running_lab, settled  # noqa: E402
from page import Lab  # noqa: E402

OUT = ROOT / "docs" / "screenshots"
PATIENCE = 600.0


def shoot(lab: Lab, name: str, width: int, theme: str) -> None:
    settled(lab.browser)
    time.sleep(1.0)
    path = OUT / f"{name}-{theme}.png"
    full_page(lab.browser, path, width)
    print(path.relative_to(ROOT), flush=True)


def follow(lab: Lab, words: str) -> None:
    """Opens a page by its link, which keeps the session (an address would start a new one)."""
    lab.until(lambda: next((e for e in lab.all("a") if e.text.strip().endswith(words)), None)).click()
    settled(lab.browser)


def run_job(lab: Lab, button: str, cancel: str, words: str) -> None:
    lab.press(button)
    lab.wait_for(f".st-key-{cancel} button", 60)
    lab.until(lambda: not lab.all(f".st-key-{cancel} button"), PATIENCE, words)
    lab.wait_for_text(words, 60)
    lab.no_error()


def tour(lab: Lab, theme: str) -> None:
    """All pages with something on them."""
    wide = 1440
    lab.open()
    shoot(lab, "first-screen", wide, theme)
    lab.press("open_browse")
    lab.until(lambda: "Choose one" in lab.text("[role=dialog]"), PATIENCE)
    time.sleep(2)
    lab.browser.save_screenshot(str(OUT / f"browse-{theme}.png"))
    lab.press_close()
    lab.press("open_compose")
    lab.until(lambda: "True of this scene" in lab.text("[role=dialog]"), PATIENCE)
    time.sleep(2)
    lab.browser.save_screenshot(str(OUT / f"compose-{theme}.png"))
    lab.press_close()
    lab.press("start_attack")
    lab.until(lambda: "current picture" in lab.text() or "What the attack did" in lab.text(), PATIENCE)
    if "current picture" in lab.text():
        lab.browser.save_screenshot(str(OUT / f"attacking-{theme}.png"))
    lab.wait_for_text("What the attack did", PATIENCE)
    shoot(lab, "attack-lab", wide, theme)
    for number, tab in enumerate(("Perturbation", "Course", "Does it survive a file?", "Replay and files")):
        lab.tab(tab)
        shoot(lab, f"attack-lab-{number + 1}", wide, theme)
    follow(lab, "Attention & attribution")
    run_job(lab, "start_explanation", "cancel_explanation", "Words: what each adds")
    shoot(lab, "attention", wide, theme)
    follow(lab, "Distributions")
    run_job(lab, "start_distribution", "cancel_distribution", "area under the ROC")
    shoot(lab, "distributions", wide, theme)
    follow(lab, "Embedding map")
    run_job(lab, "start_embedding", "cancel_embedding", "Drift control")
    shoot(lab, "embedding-map", wide, theme)
    follow(lab, "Models & about")
    shoot(lab, "about", wide, theme)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--theme", choices=("light", "dark", "both"), default="both")
    themes = ("light", "dark") if (chosen := options.parse_args().theme) == "both" else (chosen,)
    OUT.mkdir(parents=True, exist_ok=True)
    with running_lab() as (address, _):
        for theme in themes:
            with chromium(1440, 900, theme == "dark") as browser:
                tour(Lab(browser, address), theme)
            with chromium(420, 900, theme == "dark") as browser:
                lab = Lab(browser, address)
                for path, name in (("", "telephone-first-screen"), ("/distributions", "telephone-distributions")):
                    lab.open(path)
                    shoot(lab, name, 420, theme)


if __name__ == "__main__":
    main()
