"""What one rerun of the lab costs that computes nothing: processor time of the server, and how long a visitor waits.

    python benchmarks/bench_lab.py [--reruns 40] [--root FOLDER]

Starts a lab of its own on the loopback address, opens each page and asks for it again and again, with no fragment
refreshing itself meanwhile. Two lines are of the first page: without a result, and with one just made and verified.
Processor time is that of the whole server process (threads included) a rerun. On a machine that does other work it
grows too, though less than the waiting time: cores share their caches. The yardstick says by how much: it is the
processor time of a fixed piece of Python, measured before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path

import psutil
from lab_client import ROOT, Tab, percentile, running_lab, visitor_cookie

PAGES = ("explore", "explain", "immunize", "lessons", "benchmark", "review", "about")
WARM = 4
"""Reruns before those that are counted."""


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def yardstick() -> float:
    """Milliseconds of processor time of a fixed piece of Python, the least of a few tries."""
    tries = []
    for _ in range(5):
        start = time.process_time()
        sum(len(str(k)) for k in range(100_000))
        tries.append(1000 * (time.process_time() - start))
    return min(tries)


async def measured(tab: Tab, pid: int, reruns: int) -> str:
    """A line of figures of the page on show."""
    for _ in range(WARM):
        await tab.rerun()
    start, received, waits = cpu(pid), tab.received, []
    for _ in range(reruns):
        waits.append(await tab.rerun())
    used = 1000 * (cpu(pid) - start) / reruns
    median, late = 1000 * statistics.median(waits), 1000 * percentile(waits, 0.95)
    size = (tab.received - received) / reruns / 1024
    return f"{used:12.1f} {median:12.0f} {late:12.0f} {size:10.0f}"


async def idle_cost(pid: int, tab: Tab, seconds: float) -> float:
    """Milliseconds of processor time a second that one open page costs of which nobody touches anything."""
    tab.refresh = True
    await tab.rerun()
    start, begun = cpu(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return 1000 * (cpu(pid) - start) / (time.monotonic() - begun)


async def run(address: str, pid: int, reruns: int, seconds: float) -> None:
    cookie = visitor_cookie(address)
    print(f"yardstick: {yardstick():.1f} ms")
    print(f"{'page':28} {'CPU ms':>12} {'median ms':>12} {'p95 ms':>12} {'kB':>10}")
    async with Tab(address, cookie, refresh=False) as tab:
        print(f"{'attack_lab, no result':28} {await measured(tab, pid, reruns)}")
        tab.refresh = True
        await tab.click("start_attack")
        if not await tab.until(lambda: "result_slider" in tab.widgets or tab.said("cm-finding"), 300):
            raise SystemExit("The attack did not end.")
        if "result_tabs" in tab.widgets:
            await tab.put("result_tabs", "string_value", "Verification")
        if not await tab.until(lambda: tab.said("What would be done about a flagged pair"), 300):
            raise SystemExit("The verification did not end.")
        tab.refresh = False
        if "result_tabs" in tab.widgets:
            print(f"{'with its verification':28} {await measured(tab, pid, reruns)}")
            await tab.put("result_tabs", "string_value", "Answers")
        print(f"{'attack_lab, with a result':28} {await measured(tab, pid, reruns)}")
        for page in PAGES:
            await tab.go(page)
            await asyncio.sleep(3 if page == "benchmark" else 0.5)  # what is counted in the background
            print(f"{page:28} {await measured(tab, pid, reruns)}")
        await tab.go("")
        spent = await idle_cost(pid, tab, seconds)
        print(f"an open page nobody touches: {spent:.1f} ms of processor time a second")
        print(f"yardstick: {yardstick():.1f} ms")
        for error in tab.errors:
            print("error:", error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--reruns", type=int, default=40)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds for which the open page is watched")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose lab is started")
    chosen = parser.parse_args()
    with running_lab(chosen.root, CMAI_WARM_UP="0") as (address, pid, _):
        asyncio.run(run(address, pid, chosen.reruns, chosen.idle))


if __name__ == "__main__":
    main()
