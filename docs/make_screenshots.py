"""Photographs every page of the lab, light and dark, and the attack lab as a telephone shows it.

    python docs/make_screenshots.py            # into docs/screenshots; needs Chromium, chromedriver and the models

It starts a lab of its own, over an empty evaluation store and review queue, and makes one attack, one verification, one
explanation, one distribution, one map and one benchmark in it; both pairs of one model go to review.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageColor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "benchmarks"), str(ROOT)]

from driver import chromium, full_page, running_lab, settled  # noqa: E402
from page import Lab  # noqa: E402

from app.components.common.theme import ROLES  # noqa: E402

WIDE, NARROW, TALL = 1440, 420, 900
MAX_BYTES = 400_000
PATIENCE = 1200.0


class Camera:
    """Photographs of one browser's lab, as small PNG files named <page>-<theme>.png."""

    def __init__(self, lab: Lab, folder: Path, theme: str):
        self.lab, self.folder, self.theme = lab, folder, theme

    def shoot(self, name: str, width: int = WIDE) -> None:
        """The whole page at this width."""
        browser = self.lab.browser
        size = {"width": width, "height": TALL, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_script("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")
        settled(browser)
        path = self.folder / f"{name}-{self.theme}.png"
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw.png"
            full_page(browser, raw, width)
            shrink(Image.open(raw).convert("RGB"), path)
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size | {"width": WIDE})
        print(path, f"{path.stat().st_size / 1000:.0f} kB", flush=True)


def shrink(image: Image.Image, path: Path) -> None:
    """Writes a palette PNG of at most MAX_BYTES: with as many colours as fit, those of the roles always among them."""
    kept = [value for role in ROLES.values() for value in ImageColor.getrgb(role.colour)]
    for colours in (256, 128, 64, 32):
        free = colours - len(ROLES)
        palette = Image.new("P", (1, 1))
        palette.putpalette(image.quantize(free).getpalette()[: 3 * free] + kept)
        image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return
    raise SystemExit(f"{path} is larger than {MAX_BYTES} bytes even with few colours.")


def follow(lab: Lab, words: str) -> None:
    """Opens a page by its link, which keeps the session (an address would start a new one)."""
    lab.until(lambda: next((e for e in lab.all("a") if e.text.strip().endswith(words)), None)).click()
    settled(lab.browser)


def run_job(lab: Lab, name: str, words: str) -> None:
    """Presses a page's button and waits for what it computes."""
    lab.press(f"start_{name}")
    lab.wait_for(f".st-key-cancel_{name} button", 60)
    lab.until(lambda: not lab.all(f".st-key-cancel_{name} button"), PATIENCE, words)
    lab.wait_for_text(words, 60)
    lab.no_error()


def verification(lab: Lab) -> None:
    """Opens the tab under the attack's result, where the verdict stands or is asked for."""
    lab.tab("Verification")
    lab.until(lambda: lab.all("[class*=st-key-card_verdict_]") or lab._click(".st-key-start_verdict button"), PATIENCE)
    lab.wait_for("[class*=st-key-card_verdict_]", PATIENCE)
    settled(lab.browser)
    lab.no_error()


def send_to_review(lab: Lab) -> None:
    """Hands the undefended model's pairs to a person; the queue keeps each once (also from the other theme's tour)."""
    for side in ("clean", "adversarial"):
        lab.press(f"send_undefended_{side}")
        lab.until(lambda side=side: "In the review queue" in lab.text(f".st-key-send_undefended_{side}"), PATIENCE)


def benchmark(lab: Lab) -> None:
    """A quick look, unless the store has it already (from the other theme's tour)."""
    if lab.all(".st-key-preset_quick button"):
        lab.press("preset_quick")
        lab.wait_for(".st-key-cancel_bench button", 60)
        lab.until(lambda: not lab.all(".st-key-cancel_bench button"), PATIENCE, "the benchmark")
    lab.wait_for_text("Every cell", PATIENCE)
    lab.wait_for(".st-key-bench_worst [data-testid=stDataFrame]", PATIENCE)
    settled(lab.browser)
    lab.no_error()


def tour(lab: Lab, camera: Camera, defended: str, benchmark_alone: bool) -> None:
    """All pages with something on them, or the benchmark's."""
    lab.open()
    if benchmark_alone:
        follow(lab, "Benchmark")
        benchmark(lab)
        camera.shoot("benchmark")
        return
    camera.shoot("first-screen")
    if defended:
        lab.select("defended", "OpenCLIP model …")
        lab.type("defended_spec", defended)
    run_job(lab, "attack", "What the attack did")
    camera.shoot("attack-lab")
    camera.shoot("attack-lab-narrow", NARROW)
    verification(lab)
    camera.shoot("verification")
    send_to_review(lab)
    follow(lab, "Attention & attribution")
    run_job(lab, "attention", "Words: what each adds")
    camera.shoot("attention")
    follow(lab, "Explore")
    lab.wait_for_text("What predicts that", PATIENCE)
    lab.wait_for_text("Open in the lab with its attack", PATIENCE)
    camera.shoot("explore")
    follow(lab, "Benchmark")
    benchmark(lab)
    camera.shoot("benchmark")
    follow(lab, "Review")
    lab.wait_for("[class*=st-key-card_review_]", PATIENCE)
    camera.shoot("review")
    follow(lab, "Models & about")
    camera.shoot("about")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshots", help="default: docs/screenshots")
    options.add_argument("--theme", choices=("light", "dark", "both"), default="both")
    options.add_argument("--defended", default="", help="an OpenCLIP name instead of the bundled one")
    options.add_argument("--benchmark-alone", action="store_true", help="this page and no other")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    options = ["--allow-any", "--open-review"]
    with (
        tempfile.TemporaryDirectory(prefix="cmai-data-") as data,
        running_lab({"CMAI_DATA": data}, options) as (address, _),
    ):
        for theme in ("light", "dark") if chosen.theme == "both" else (chosen.theme,):
            with chromium(WIDE, TALL, theme == "dark") as browser:
                lab = Lab(browser, address)
                tour(lab, Camera(lab, chosen.out, theme), chosen.defended, chosen.benchmark_alone)


if __name__ == "__main__":
    main()
