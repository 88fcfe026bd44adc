"""A report in a browser without a network: nothing is asked for, nothing is refused, and what can be pressed works."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cmai_core.lab.experiment import Experiment
from cmai_core.lab.result import Answer, Example, LabResult, PairPrediction
from cmai_core.reports.experiment import experiment_report

pytestmark = pytest.mark.browser
HOSTILE = 'a cube <script>document.title="caught"</script><img src=x onerror="document.title=1">'


@pytest.fixture
def report(tmp_path):
    clean = np.random.default_rng(0).integers(30, 220, (16, 16, 3), dtype=np.uint8)
    example = Example("A", clean, clean + 3, (0.1, 0.4, 0.9), (0.6, 0.1, -0.2), steps_done=2)
    answers = {"zero-shot": (Answer(HOSTILE, True), Answer("a ring", False))}
    prediction = PairPrediction("A", "m", "m", "h", "tabletop", "A", 0.6, -0.2, answers=answers)
    experiment = Experiment(pair="tabletop/test/0", caption=HOSTILE, b="")
    result = LabResult(experiment, {"A": example}, {"A": prediction}, 1.0, "cpu", "now", {"python": "3"})
    path = tmp_path / "report.html"
    path.write_text(experiment_report(result), encoding="utf-8")
    return path.as_uri()


def test_a_report_opens_without_a_network(driver, report):
    from selenium.webdriver.common.by import By

    with driver.chromium() as browser:
        browser.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        browser.get(report)
        fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert not [name for name in fetched if not name.startswith("data:")]
        assert not browser.get_log("browser")
        assert browser.title.startswith("What the attack did") and "<script>" in browser.page_source.replace(
            "&lt;", "<"
        )
        pictures = browser.find_elements(By.CSS_SELECTOR, ".pictures img")
        assert len(pictures) == 3 and all(int(p.get_property("naturalWidth")) == 16 for p in pictures)

        line = browser.find_element(By.CSS_SELECTOR, "[data-line]")
        browser.find_element(By.CSS_SELECTOR, "[data-series]").click()
        assert not line.is_displayed()
        browser.execute_script("document.querySelectorAll('.chart')[1].querySelector('.dot').focus()")
        assert "step 0" in browser.find_element(By.CSS_SELECTOR, ".tip:not([hidden])").text
        browser.find_element(By.CSS_SELECTOR, "[data-blink] button").click()
        assert browser.find_element(By.CSS_SELECTOR, "[data-blink] button").get_attribute("aria-pressed") == "true"
        policy = browser.execute_script(
            "const s = document.createElement('script'); s.textContent = 'document.title = \"run\"';"
            "document.body.append(s); return document.title"
        )
        assert policy != "run", json.dumps(browser.get_log("browser"))  # no script but its own
