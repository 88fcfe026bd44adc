"""Many visitors at once: what breaks, who waits, what stays behind. `make soak`.

    python benchmarks/soak.py [--visitors 20] [--seconds 300] [--root FOLDER]

Starts a lab of its own on the loopback address. Each visitor is one browser (a cookie of its own) that opens a page
(often by a link, some of which are nonsense) and then does, seeded, what people do: look around, change pages, press
things, attack with few steps or many and wait, cancel, begin a benchmark and stop it, or close the tab at any moment,
also with an attack under way, and come back after a while. CMAI_SOAK_VISITORS and CMAI_SOAK_SECONDS set the defaults.
The exit status is 1 where there were errors, where jobs stayed behind, or where memory grew by more than MOST_GROWN.

Printed are errors (shown to a visitor, or a traceback in the server's log), reruns that were not answered within a
minute, the rerun's waiting time, an attack's time from its start to its result, jobs that went on after their tab was
closed, and the server's memory before and after. A job *ran for nobody* when it began after its tab was closed, or was
still running `ALLOWED` seconds later.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from bench_lab import cpu, yardstick
from lab_client import ROOT, Tab, Unanswered, percentile, running_lab, visitor_cookie

PAGES = ("", "explore", "explain", "immunize", "lessons", "benchmark", "review", "about")
PATIENCE = 60.0
"""Seconds after which a rerun counts as not answered."""
LATE = 10.0
ALLOWED = 6.0
"""Seconds for which a job may go on after its tab was closed: a broken connection comes back within that time."""
MOST_GROWN = 700.0
"""Megabytes that the server may grow by once its models are loaded: caches that fill up to their bounds."""
LINKS = (
    "pair=tabletop/test/{n}&caption=a+small+cube&steps={steps}", "pair=tabletop/test/{n}&caption=a+ring&recipe=fgsm",
    "pair=tabletop/test/{n}&caption=%3Cscript%3Ealert(1)%3C/script%3E&steps={steps}", "pair=../../etc/passwd",
    "pair=tabletop/test/{n}&caption=%00%E2%80%AE&steps=1e9", "pair=scene&scene=%5B%5B&caption=x", "steps={steps}&x=y",
)  # fmt: skip
"""Addresses that visitors come by; `Experiment.from_query` takes the first ones and refuses the others in words."""
_WAITING = re.compile(r"≡ (\d+) in the queue")


@dataclass
class Tally:
    """What has happened."""

    reruns: list[float] = field(default_factory=list)
    attacks: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    unanswered: int = 0
    started: int = 0
    refused: int = 0
    cancelled: int = 0
    left: int = 0
    opened: int = 0
    benchmarks: int = 0
    behind: int = 0
    grown: float = 0.0

    @property
    def failed(self) -> bool:
        return bool(self.errors or self.unanswered or self.behind or self.grown > MOST_GROWN)


class Visitor:
    """One browser and what its owner does until the end."""

    def __init__(self, address: str, number: int, seed: int, tally: Tally, end: float):
        self.address, self.tally, self.end = address, tally, end
        self.cookie = visitor_cookie(address)
        self.random = random.Random(seed * 1000 + number)

    async def live(self) -> None:
        await asyncio.sleep(self.random.uniform(0, 3))
        while time.monotonic() < self.end:
            await self.visit()
            await self.pause(2, 8)

    async def visit(self) -> None:
        """One tab, from its opening to its closing."""
        tab = Tab(self.address, self.cookie, query=self.link() if self.random.random() < 0.4 else "")
        self.tally.opened += 1
        try:
            await self.counted(tab.open(PATIENCE))
            for _ in range(self.random.randint(2, 8)):
                if time.monotonic() > self.end or tab.closed:
                    break
                await self.pause(0.5, 4)
                if not await self.act(tab):
                    break
        except Unanswered:
            self.tally.unanswered += 1
        except (OSError, TimeoutError) as error:
            self.tally.errors.append(f"no connection: {error!r}")
        finally:
            await tab.close()
            self.tally.errors += tab.errors

    def link(self) -> str:
        """An address that somebody was given."""
        return self.random.choice(LINKS).format(n=self.random.randrange(1000), steps=self.random.choice((2, 10, 40)))

    async def act(self, tab: Tab) -> bool:
        """One thing; whether the tab stays open."""
        what = self.random.choices(("look", "page", "press", "attack", "benchmark"), (3, 2, 3, 4, 1))[0]
        if what == "benchmark":
            await self.benchmark(tab)
            return True
        if what == "page":
            await self.counted(tab.go(self.random.choice(PAGES), PATIENCE))
            return True
        if tab.page:
            await self.counted(tab.go("", PATIENCE))
        if what == "look":
            await self.counted(tab.rerun(timeout=PATIENCE))
        elif what == "press":
            keys = [k for k in tab.widgets if k.startswith(("norm_", "objective_")) or k.startswith("recipe_")]
            if keys:
                await self.counted(tab.click(self.random.choice(keys), PATIENCE))
        elif "start_attack" in tab.widgets:
            return await self.attack(tab)
        return True

    async def benchmark(self, tab: Tab) -> None:
        """A first grid, begun where none runs, and stopped before long; elsewhere a look at how it goes."""
        await self.counted(tab.go("benchmark", PATIENCE))
        if "preset_quick" not in tab.widgets:
            return
        await self.counted(tab.click("preset_quick", PATIENCE))
        self.tally.benchmarks += "cancel_bench" in tab.widgets
        await self.pause(2, 10)
        if "cancel_bench" in tab.widgets:
            await self.counted(tab.click("cancel_bench", PATIENCE))

    async def attack(self, tab: Tab) -> bool:
        """An attack that is waited for, cancelled, or left alone by closing the tab."""
        start = time.monotonic()
        await self.counted(tab.click("start_attack", PATIENCE))
        if "cancel_attack" not in tab.widgets and not tab.said("cm-finding"):
            self.tally.refused += 1
            return True
        self.tally.started += 1
        fate = self.random.choices(("wait", "cancel", "leave"), (5, 2, 3))[0]
        if fate == "wait":
            done = await tab.until(lambda: "cancel_attack" not in tab.widgets, max(1.0, self.end - time.monotonic()))
            if done:
                self.tally.attacks.append(time.monotonic() - start)
            return True
        await self.pause(0.5, 6)
        if fate == "leave":
            if "cancel_attack" in tab.widgets:
                self.tally.left += 1
            return False
        if "cancel_attack" in tab.widgets:
            self.tally.cancelled += 1
            await self.counted(tab.click("cancel_attack", PATIENCE))
        return True

    async def counted(self, waiting) -> None:
        self.tally.reruns.append(await waiting)

    async def pause(self, low: float, high: float) -> None:
        await asyncio.sleep(min(self.random.uniform(low, high), max(0.0, self.end - time.monotonic())))


async def drained(address: str, seconds: float) -> tuple[int, int]:
    """(jobs in the queue `LATE` seconds after the last tab was closed, the same at the end of the wait)."""
    await asyncio.sleep(LATE)
    async with Tab(address, visitor_cookie(address)) as tab:
        late = _queue(tab)
        end = time.monotonic() + seconds
        while _queue(tab) and time.monotonic() < end:
            await tab.rerun(timeout=PATIENCE)
            await asyncio.sleep(1)
        return late, _queue(tab)


def _queue(tab: Tab) -> int:
    found = [match for words in tab.words if (match := _WAITING.search(words))]
    return int(found[-1][1]) if found else 0


def memory(pid: int) -> float:
    """Resident megabytes."""
    return psutil.Process(pid).memory_info().rss / 2**20


def jobs_done(journal: Path) -> list[dict]:
    """What has been written down of the jobs."""
    if not journal.is_file():
        return []
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]


async def run(address: str, pid: int, log: Path, journal: Path, visitors: int, seconds: float, seed: int) -> Tally:
    tally = Tally()
    async with Tab(address, visitor_cookie(address)) as tab:  # the models are loaded before anything is measured
        await tab.click("start_attack", 120)
        await tab.until(lambda: tab.said("cm-finding"), 300)
        await tab.until(lambda: _queue(tab) == 0, 60)
    warm = len(jobs_done(journal))
    before, used, begun = memory(pid), cpu(pid), time.monotonic()
    end = begun + seconds
    await asyncio.gather(*(Visitor(address, k, seed, tally, end).live() for k in range(visitors)))
    length, used = time.monotonic() - begun, cpu(pid) - used
    late, at_end = await drained(address, 30)
    tally.behind, tally.grown = at_end, memory(pid) - before
    said = log.read_text(errors="replace")
    tracebacks = said.count("Traceback (most recent call last)")
    jobs = jobs_done(journal)[warm:]
    nobody = [job for job in jobs if job["begun_for_nobody"] or job["for_nobody"] > ALLOWED]
    wasted, worked = (sum(job[name] for job in jobs) for name in ("for_nobody", "ran"))
    print(f"{visitors} visitors for {length:.0f} s, {tally.opened} tabs, yardstick {yardstick():.1f} ms")
    print(f"errors                    {len(tally.errors)} shown, {tracebacks} tracebacks in the log")
    for error in sorted(set(tally.errors))[:10]:
        print(f"                          {error[:160]}")
    print(f"reruns                    {len(tally.reruns)}, {tally.unanswered} not answered within {PATIENCE:g} s")
    waits = [1000 * wait for wait in tally.reruns]
    if waits:
        print(
            f"a rerun's wait            median {statistics.median(waits):.0f} ms, p95 {percentile(waits, 0.95):.0f} ms"
        )
    print(
        f"attacks                   {tally.started} started, {tally.refused} refused, {len(tally.attacks)} waited for, "
        f"{tally.cancelled} cancelled, {tally.left} left by closing the tab"
    )
    if tally.attacks:
        late_attack = percentile(tally.attacks, 0.95)
        print(f"from start to result      median {statistics.median(tally.attacks):.1f} s, p95 {late_attack:.1f} s")
    print(
        f"jobs                      {len(jobs)} ran, {len(nobody)} of them for nobody "
        f"({sum(job['begun_for_nobody'] for job in jobs)} begun so); {wasted:.0f} s of {worked:.0f} s"
    )
    print(f"left behind               {late} jobs {LATE:g} s after the last tab was closed, {at_end} at the end")
    print(f"processor                 {used:.0f} s, {100 * used / length:.0f} % of a core")
    print(f"benchmarks                {tally.benchmarks} begun")
    print(f"memory                    {before:.0f} MB before, {before + tally.grown:.0f} MB after")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--visitors", type=int, default=int(os.environ.get("CMAI_SOAK_VISITORS", "20")))
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("CMAI_SOAK_SECONDS", "300")))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose lab is started")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cmai-soak-") as folder:
        journal = Path(folder) / "jobs"
        with running_lab(chosen.root, journal) as (address, pid, log):
            tally = asyncio.run(run(address, pid, log, journal, chosen.visitors, chosen.seconds, chosen.seed))
    return int(tally.failed)


if __name__ == "__main__":
    raise SystemExit(main())
