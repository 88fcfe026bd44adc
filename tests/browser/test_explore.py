"""Explore as a person uses it: a lasso on the map, a bar of a histogram, and a pair opened in the lab."""

from __future__ import annotations

import os

import pytest
from selenium.webdriver.common.action_chains import ActionChains

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

PATIENCE = float(os.environ.get("CMAI_BROWSER_PATIENCE", "400"))
CANVAS = """
const walk = root => { for (const e of root.querySelectorAll('*')) {
    if (e.matches && e.matches('canvas[tabindex]')) return e;
    if (e.shadowRoot) { const found = walk(e.shadowRoot); if (found) return found; } } return null; };
const canvas = walk(document);
if (canvas) canvas.scrollIntoView({block: 'center'});
return canvas;
"""


def lasso(lab) -> None:
    """Draws a lasso around the left half of the map."""
    canvas = lab.until(lambda: lab.browser.execute_script(CANVAS), PATIENCE, "the map")
    wide, high = canvas.size["width"], canvas.size["height"]
    hand = ActionChains(lab.browser, duration=20)
    hand.move_to_element_with_offset(canvas, -wide // 2 + 10, -high // 2 + 10).click_and_hold()
    for across, down in ((1, 0), (0, 1), (-1, 0)):
        for _ in range(8):
            hand.move_by_offset(across * (wide // 2 - 10) // 8, down * (high - 20) // 8)
    hand.release().perform()


def bar(lab) -> None:
    """Clicks the tallest bar of the first histogram."""
    script = """
    const bars = [...document.querySelectorAll('[class*=st-key-explore_scores_A] .bars .point path')];
    bars.sort((a, b) => b.getBoundingClientRect().height - a.getBoundingClientRect().height);
    if (bars.length) bars[0].scrollIntoView({block: 'center'});
    return bars[0];
    """
    found = lab.until(lambda: lab.browser.execute_script(script), PATIENCE, "the bars")
    ActionChains(lab.browser).move_to_element(found).pause(0.5).click().perform()  # Plotly takes what is hovered over


def chips(lab) -> list[str]:
    """The parts of the filter."""
    return [chip.text.split("\n")[-1] for chip in lab.all("[class*=st-key-explore_chip_] button")]


def test_a_lasso_and_a_bar_narrow_and_a_pair_opens_in_the_lab(open_lab, driver):
    lab = open_lab()
    lab.open("/explore")
    lasso(lab)
    lab.until(lambda: any("picked on the map" in words for words in chips(lab)), PATIENCE, "the lasso's chip")
    lab.until(lambda: "where=rows" in lab.browser.current_url, PATIENCE, "the address")
    driver.settled(lab.browser)
    bar(lab)
    lab.until(lambda: any("A S_c" in words for words in chips(lab)), PATIENCE, "the bar's chip")
    driver.settled(lab.browser)
    lab.no_error()
    lab.press("explore_open")
    lab.wait_for(".cm-finding", PATIENCE)
    lab.until(lambda: "steps=10" in lab.browser.current_url, PATIENCE, "the address")
    assert "craft_on=each" in lab.browser.current_url
    assert set(lab.scores()) == {"A", "B"}
    lab.no_error()
