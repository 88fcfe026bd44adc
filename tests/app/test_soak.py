"""A few visitors on a real server, over Streamlit's own protocol: the small form of `make soak`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0


@pytest.fixture(scope="module")
def load():
    """The modules `lab_client` and `soak` of benchmarks/."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import lab_client
        import soak

        yield lab_client, soak
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def lab(load, tmp_path_factory):
    """(address, process id, log, journal) of a lab of its own."""
    from cmai_core.models import bundled_models

    if "tabletop" not in {card.name for card in bundled_models()}:
        pytest.skip("needs the bundled model tabletop (make models)")
    journal = tmp_path_factory.mktemp("soak") / "jobs"
    with load[0].running_lab(journal=journal, CMAI_WARM_UP="0") as (address, pid, log):
        yield address, pid, log, journal


async def visit(tab, words: str) -> bool:
    """Whether the page says this before long."""
    return await tab.until(lambda: any(words in text for text in tab.words[-40:]), PATIENCE)


@pytest.mark.timeout(600)
def test_a_closed_tab_frees_its_place(load, lab):
    lab_client, _ = load
    address, journal = lab[0], lab[3]

    async def story():
        seen = lab_client.Tab(address, lab_client.visitor_cookie(address))
        async with seen:
            await asyncio.sleep(3)
            seen.words.clear()
            assert await visit(seen, "queue empty")  # the bundled example is verified when a first page is opened
            cookie = lab_client.visitor_cookie(address)
            first, second = lab_client.Tab(address, cookie), lab_client.Tab(address, cookie)
            async with first, second:
                for tab in (first, second):
                    await tab.put("all_settings", "bool_value", True)
                    await tab.put("steps", "double_value", 200.0)
                    await tab.put("restarts", "double_value", 10.0)
                    await tab.click("start_attack", PATIENCE)
                assert "cancel_attack" in first.widgets and "cancel_attack" in second.widgets
                assert await visit(seen, "2 in the queue")
                async with lab_client.Tab(address, cookie) as third:  # of the same visitor: no third place
                    await third.click("start_attack", PATIENCE)
                    assert "cancel_attack" not in third.widgets and third.said("already have 2 jobs")
            seen.words.clear()
            assert await visit(seen, "queue empty")
            assert not seen.errors

    asyncio.run(story())
    assert not any(job["begun_for_nobody"] for job in load[1].jobs_done(journal))


@pytest.mark.timeout(600)
def test_a_few_visitors_for_twenty_seconds(load, lab):
    tally = asyncio.run(load[1].run(*lab, visitors=4, seconds=20.0, seed=1))
    assert not tally.failed, (tally.errors, tally.unanswered, tally.behind, tally.grown)
    assert tally.opened >= 4 and len(tally.reruns) > 8
    assert "Traceback" not in lab[2].read_text(errors="replace")
