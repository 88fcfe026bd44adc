"""The benchmark in a real browser: a tiny grid runs, its table stands there, a number opens the pairs behind it."""

from __future__ import annotations

import os

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = float(os.environ.get("CMAI_BROWSER_PATIENCE", "400"))


@pytest.fixture
def own_lab(driver, tmp_path):
    """A lab over a store of its own."""
    with driver.running_lab({"CMAI_DATA": str(tmp_path)}) as (address, log):
        yield address
        assert "Traceback" not in log.read_text(errors="replace")


def test_a_tiny_grid_from_start_to_a_pair_in_the_attack_lab(open_lab, own_lab):
    from cmai_core.models import bundled_models

    if not {card.name for card in bundled_models()} >= {"tabletop"}:
        pytest.skip("needs the bundled model tabletop (make models)")
    lab = open_lab()
    lab.url = own_lab
    lab.open("/benchmark")
    assert "A cell is one measurement" in lab.text()
    lab.chips("bench_image", {"FGSM"})
    lab.chips("bench_epsilons", {"4/255"})
    lab.slide("bench_count", -3)  # 32 pairs → 4
    lab.wait_for_text("× 4 pairs")
    lab.press("start_bench")
    lab.wait_for(".st-key-bench_worst [data-testid=stDataFrame]", PATIENCE)
    lab.no_error()
    lab.click_cell("bench_worst", 0)
    lab.wait_for("[data-testid=stDialog] .cm-pictures img", PATIENCE)
    said = lab.text("[data-testid=stDialog]")
    assert "S" in said and "Fooled" in said
    lab.until(
        lambda: lab._click("[data-testid=stDialog] [class*=st-key-bench_lab_] button"), what="the way into the lab"
    )
    lab.wait_for(".st-key-start_attack button", PATIENCE)
    lab.no_error()
    assert "pair=tabletop" in lab.browser.current_url
