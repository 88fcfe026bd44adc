"""The whole story, as a person lives it: open, pick, attack, cancel, attack again, upload a photograph, read S_c."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = float(os.environ.get("CMAI_BROWSER_PATIENCE", "240"))
"""Seconds to wait for a model or an attack; generous, since tests may share few cores."""


def photograph(shared: Path) -> tuple[Path, str]:
    """A real photograph: one of COCO's where it is there, else one of scikit-image's."""
    coco = sorted((shared / "coco" / "val2017").glob("*.jpg")) if shared.is_dir() else []
    if coco:
        return coco[0], "a photograph of an everyday scene"
    import skimage

    return Path(skimage.__file__).parent / "data" / "coffee.png", "a cup of coffee on a table"


def cancel_soon(lab) -> float:
    """Starts a long attack, waits for its first curve, cancels; returns the seconds until the result stood there."""
    lab.press("start_attack")
    lab.wait_for(".st-key-cancel_attack button", PATIENCE)
    lab.until(lambda: "S_c is" in lab.text(), PATIENCE, "the first steps")
    start = time.monotonic()
    lab.press("cancel_attack")
    lab.wait_for_text("Cancelled", PATIENCE)
    return time.monotonic() - start


def set_search(lab, steps: int, restarts: int = 1) -> None:
    if not any(e.is_displayed() for e in lab.all(".st-key-steps input")):
        lab.until(lambda: lab._click("[data-testid=stExpander] summary"))
    lab.type("steps", str(steps))
    lab.type("restarts", str(restarts))


def tell(lab, collection: str, query: str, shared: Path) -> None:
    """The story on the models chosen."""
    caption = lab.pick(collection, query)
    assert query.split()[0] in caption
    set_search(lab, 200, 5)
    cancel_soon(lab)
    lab.no_error()
    assert lab.scores()
    set_search(lab, 10)
    lab.attack(PATIENCE)
    lab.no_error()
    clean, adversarial = lab.scores()["undefended"]
    assert adversarial < clean
    path, words = photograph(shared)
    lab.upload(path, words)
    lab.attack(PATIENCE)
    lab.no_error()
    clean, adversarial = lab.scores()["undefended"]
    assert adversarial < clean
    assert words in lab.text()


def test_the_story_on_the_bundled_models(open_lab):
    from cmai_core.models import bundled_models

    names = {card.name for card in bundled_models()}
    if not {"tabletop", "tabletop-tecoa"} <= names:
        pytest.skip("needs the bundled models tabletop and tabletop-tecoa (make models)")
    lab = open_lab()
    lab.open()
    tell(lab, "Tabletop scenes", "red cube", Path(__file__).resolve().parents[3] / "shared" / "data")
    assert "only ever seen Tabletop" in lab.text()
    assert "transferred attack" in lab.text() and set(lab.scores()) == {"undefended", "defended"}


def test_the_story_on_a_real_vit_b_32(open_lab):
    lab = open_lab()
    lab.open()
    lab.select("undefended", "OpenCLIP model …") if not lab.all(".st-key-undefended_spec input") else None
    lab.type("undefended_spec", "ViT-B-32/random")
    if "none" not in lab.text(".st-key-defended"):
        lab.select("defended", "none")
    lab.segment("objective", "S_c")
    tell(lab, "Photographs", "cat", Path(__file__).resolve().parents[3] / "shared" / "data")
    assert set(lab.scores()) == {"undefended"}
