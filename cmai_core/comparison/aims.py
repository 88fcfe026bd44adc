"""What full CMAI was to reach, and what it reached: each aim with its figure, met or not."""

from __future__ import annotations

from collections.abc import Mapping

from cmai_core.comparison.protocol import Protocol
from cmai_core.comparison.results import Result
from cmai_core.comparison.tables import BEST, percent, points
from cmai_core.comparison.verdicts import difference, share

_CLEAN = (
    ("retrieval", "image_to_text_r1", "image→text R@1"),
    ("retrieval", "text_to_image_r1", "text→image R@1"),
    ("vqa", "accuracy", "VQA"),
    ("nlvr", "accuracy", "NLVR"),
    ("captioning", "fact_f1", "caption fact-F1"),
)
MOST_LOST, KEPT, KEPT_JOINT, LATENCY = 0.03, 0.75, 0.65, 1.3


def aims(results: Mapping[str, Result], protocol: Protocol) -> list[tuple[str, str, bool]]:
    """(aim, what was measured, whether it was met) for `BEST`; aims whose figures are not there are left out."""
    best, base = results.get(BEST), results.get(protocol.base)
    if best is None:
        return []
    out = []
    if base is not None and "clean" in best.parts and "clean" in base.parts:
        for task, measure, title in _CLEAN:
            entries = [result.parts["clean"].get(task, {}).get(measure) for result in (best, base)]
            if None in entries:
                continue
            own, start = (entry["value"] for entry in entries)
            said = f"{100 * own:.1f} against {100 * start:.1f}: {100 * (own - start):+.1f}".replace("-", "−")
            out.append((f"clean {title} at most 3 points under the base", said, own >= start - MOST_LOST))
    out += _kept(results, best, protocol)
    out += _joint(results, best)
    out += _rejecting(results, best)
    found = best.parts.get("policies") or {}
    for policy, what in (("reject", "CMCV"), ("reject by S_c alone", "S_c alone")):
        if policy in found:
            ratio = found[policy]["ratio"]
            aim = f"latency with {what} at most {LATENCY:g} times the model's"
            out.append((aim, f"{ratio:.2f} times", ratio <= LATENCY))
    return out


def _kept(results: Mapping[str, Result], best: Result, protocol: Protocol) -> list[tuple[str, str, bool]]:
    out = []
    for epsilon in protocol.part("main").epsilons:
        own = best.verdict("main", epsilon)
        if own is None:
            continue
        clean, held = share(own.clean)["value"], share(own.held)
        if epsilon == 2.0 and clean:
            said = f"{percent(held)}, {held['value'] / clean:.2f} of {100 * clean:.1f}"
            out.append(("robust at 2/255 at least 0.75 of clean", said, held["value"] >= KEPT * clean))
        others = {n: v for n, r in results.items() if n != BEST and (v := r.verdict("main", epsilon)) is not None}
        if others:
            rival = max(others, key=lambda n: share(others[n].held)["value"])
            gap = difference(own.held, others[rival].held)
            said = f"{points(gap)} points to the best other, `{rival}`"
            out.append((f"robust at {epsilon:g}/255 highest, by more than the interval", said, gap["low"] > 0))
    return out


def _joint(results: Mapping[str, Result], best: Result) -> list[tuple[str, str, bool]]:
    own = (best.parts.get("joint") or {}).get("scene")
    if not own:
        return []
    clean, held = share(own["clean"])["value"], share(own["held"])
    said = f"{percent(held)}, {held['value'] / clean:.2f} of {100 * clean:.1f}"
    out = [("joint (picture and one word) at least 0.65 of clean", said, held["value"] >= KEPT_JOINT * clean)]
    others = {n: r.parts["joint"]["scene"]["held"] for n, r in results.items() if n != BEST and r.parts.get("joint")}
    if others:
        rival = max(others, key=lambda n: share(others[n])["value"])
        gap = difference(own["held"], others[rival])
        out.append(("joint: highest", f"{points(gap)} points to the best other, `{rival}`", gap["value"] > 0))
    return out


def _rejecting(results: Mapping[str, Result], best: Result) -> list[tuple[str, str, bool]]:
    out = []
    for which in ("given", "retrieved"):
        found = {n: r.parts["aimed"][which]["held"] for n, r in results.items() if r.parts.get("aimed")}
        if best.name not in found or len(found) < 2:
            continue
        own = share(found[best.name])
        rival = max((n for n in found if n != BEST), key=lambda n: share(found[n])["value"])
        gap = difference(found[best.name], found[rival])
        said = f"{percent(own)}; {points(gap)} points to the best other, `{rival}`"
        aim = f"correct or rejected, attacker aware, {which} caption: highest"
        out.append((aim, said, gap["value"] > 0))
    return out
