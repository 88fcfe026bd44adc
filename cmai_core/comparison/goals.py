"""What full CMAI was to reach, and what it reached: each aim with its figure, met or not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cmai_core.bootstrap import bootstrap_interval
from cmai_core.comparison.correction import PART as CORRECTION
from cmai_core.comparison.correction import taken
from cmai_core.comparison.protocol import FAMILIES, REPLAYED, SURROGATES, Protocol
from cmai_core.comparison.results import Result
from cmai_core.comparison.tables import BEST, comparable, either, percent, points
from cmai_core.comparison.verdicts import difference, rights, share, success_rate
from cmai_core.training.recipes import RECIPES

GIVEN, RETRIEVED = "given", "retrieved"

_CLEAN = (
    ("retrieval", "image_to_text_r1", "image→text R@1"),
    ("retrieval", "text_to_image_r1", "text→image R@1"),
    ("vqa", "accuracy", "VQA"),
    ("nlvr", "accuracy", "NLVR"),
    ("captioning", "fact_f1", "caption fact-F1"),
)
Aim = tuple[str, str, bool]
"""What was aimed at, what was measured, whether it was met."""
MOST_LOST, KEPT, KEPT_JOINT, LATENCY = 0.03, 0.75, 0.65, 1.3
NOT_COMPARED = tuple(RECIPES[name].model_name for name in (REPLAYED, *SURROGATES))
"""CMAI's own schedule trained again, and a model of another architecture: measured, but nobody to win against."""


def compared(results: Mapping[str, Result]) -> dict[str, Result]:
    """Leave out the models that there is no winning against."""
    return {name: result for name, result in results.items() if name not in NOT_COMPARED}


def aims(results: Mapping[str, Result], protocol: Protocol) -> list[Aim]:
    """Return (aim, what was measured, whether it was met) for `BEST`; aims whose figures are not there are left out."""
    best, base = results.get(BEST), results.get(protocol.base)
    if best is None:
        return []
    everybody, results = results, compared(results)
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
    out += _tasks(results, best, protocol)
    out += _survives(best, protocol)
    out += _joint(results, best)
    out += _success(results, best, protocol)
    out += _aligned(results, best, protocol)
    out += _detecting(results, best, protocol)
    out += _rejecting(results, best)
    out += _transfer(everybody, best, protocol)
    found = best.parts.get("policies") or {}
    for policy, what in (("reject", "CMCV"), ("reject by S_c alone", "S_c alone")):
        if policy in found:
            ratio = found[policy]["ratio"]
            aim = f"latency with {what} at most {LATENCY:g} times the model's"
            out.append((aim, f"{ratio:.2f} times", ratio <= LATENCY))
    return out


def _kept(results: Mapping[str, Result], best: Result, protocol: Protocol) -> list[Aim]:
    out = []
    for epsilon in protocol.part("main").epsilons:
        own = best.verdict("main", epsilon)
        if own is None:
            continue
        if epsilon == 2.0:
            out += _of_clean(f"robust at 2/255 at least {KEPT:g} of clean", own.clean, own.held, KEPT)
        others = {n: v for n, r in results.items() if n != BEST and (v := r.verdict("main", epsilon)) is not None}
        found = {name: verdict.held for name, verdict in others.items()} | {best.name: own.held}
        out += _highest(found, best.name, f"robust at {epsilon:g}/255: highest, by more than the interval")
    return out


def _tasks(results: Mapping[str, Result], best: Result, protocol: Protocol) -> list[Aim]:
    """Judge every other task and norm: what is kept of the clean value, and is it the highest?"""
    out = []
    asked = [(name, task, e) for name in ("tasks", "captions", "l2") for task, e in _cells(protocol, name)]
    for part, task, epsilon in asked:
        found = {n: v.held for n, r in results.items() if (v := r.verdict(part, epsilon, task)) is not None}
        norm = "L2 " if part == "l2" else ""
        own = best.verdict(part, epsilon, task)
        if own is not None and epsilon == 2.0:
            out += _of_clean(f"robust {task} at 2/255 at least {KEPT:g} of clean", own.clean, own.held, KEPT)
        out += _highest(found, best.name, f"robust {task} at {norm}{epsilon:g}/255: highest, by more than the interval")
    return out


def _of_clean(aim: str, clean: str, held: str, least: float) -> list[Aim]:
    """Return whether at least that part of the clean share is kept; nothing where nothing is right when clean.

    The figure itself decides; its interval is a bootstrap over scenes.
    """
    before, after = share(clean)["value"], share(held)
    if not before:
        return []
    kept = bootstrap_interval(np.stack([rights(held), rights(clean)], axis=1), _ratio)
    said = f"{percent(after)}, {kept.value:.2f} [{kept.low:.2f}, {kept.high:.2f}] of {100 * before:.1f}"
    return [(aim, said, after["value"] >= least * before)]


def _ratio(rows: np.ndarray) -> float:
    above, below = rows.sum(axis=0)
    return above / below if below else np.nan


def _cells(protocol: Protocol, name: str) -> list[tuple[str, float]]:
    part = protocol.part(name)
    return [(task, epsilon) for task in part.tasks for epsilon in part.epsilons]


def _highest(found: Mapping[str, str], best: str, aim: str) -> list[Aim]:
    """Return whether the best's share right is above every other's; nothing where it stands alone.

    Above by more than the interval of the difference, over the same scenes.
    """
    if best not in found or len(found) < 2:
        return []
    gaps = {name: difference(found[best], held) for name, held in found.items() if name != best}
    rival = min(gaps, key=lambda n: gaps[n]["value"])
    said = f"{percent(share(found[best]))}; {points(gaps[rival])} points to the best other, `{rival}`"
    return [(aim, said, all(gap["low"] > 0 for gap in gaps.values()))]


def _survives(best: Result, protocol: Protocol) -> list[Aim]:
    """Judge whether more steps, restarts, a black box, other libraries, or an ε that leaves nothing, change figures."""
    out = []
    main, strong = (best.verdict(name, 2.0) for name in ("main", "stronger"))
    if main is not None and strong is not None:
        stood = rights(main.held[: strong.count])
        lost = int((stood & ~rights(strong.held)).sum())
        said = f"{lost} of {int(stood.sum())} scenes that stood are lost"
        out.append(("robust at 2/255 survives stronger untargeted attacks: no scene lost", said, lost == 0))
    for epsilon in protocol.part("main").epsilons:
        if (targeted := best.verdict(CORRECTION, epsilon)) is not None:
            lost, stood = taken(targeted)
            said = f"{lost} of {stood} scenes that stood are lost"
            aim = f"robust at {epsilon:g}/255 survives attacks towards the strongest false captions: no scene lost"
            out.append((aim, said, lost == 0))
    aimed = best.parts.get("aimed") or {}
    if main is not None and {GIVEN, RETRIEVED} <= aimed.keys():
        stood = rights(main.held[: len(aimed[GIVEN]["held"])])
        lost = int((stood & ~(rights(aimed[GIVEN]["held"]) & rights(aimed[RETRIEVED]["held"]))).sum())
        said = f"{lost} of {int(stood.sum())} scenes that stood are lost"
        out.append(("robust at 2/255 survives its own adaptive attacks: no scene lost", said, lost == 0))
    ours, theirs = best.verdict("tasks", 2.0, "zero-shot"), best.verdicts("outside")
    if ours is not None and theirs and theirs[0].count == ours.count:
        lost = int((rights(ours.held) & ~rights(theirs[0].held)).sum())
        aim = "robust zero-shot at 2/255 survives PGD of other libraries: no scene lost"
        out.append((aim, f"{lost} of {ours.count} scenes fall to theirs alone", lost == 0))
    (epsilon,) = protocol.part("large").epsilons
    if (large := best.verdict("large", epsilon)) is not None:
        held = share(large.held)
        out.append((f"nothing is left at {epsilon:g}/255", percent(held, counts=True), held["hits"] == 0))
    return out


def _success(results: Mapping[str, Result], best: Result, protocol: Protocol) -> list[Aim]:
    """Judge untargeted and targeted ASR: the reduction against the base is that of the lowest."""
    out = []
    for epsilon in protocol.part("main").epsilons:
        rates = {
            n: success_rate(v)["value"] for n, r in results.items() if (v := r.verdict("main", epsilon)) is not None
        }
        out += _lowest(rates, best.name, f"attack success rate at {epsilon:g}/255: lowest")
    rates = {}
    for name, result in results.items():
        if found := (result.parts.get("aimed") or {}).get("targeted"):
            clean = rights(found["clean"])
            rates[name] = float((~rights(found["held"])[clean]).mean()) if clean.any() else 1.0
    return out + _lowest(rates, best.name, "targeted attack success rate: lowest")


def _lowest(rates: Mapping[str, float], best: str, aim: str) -> list[Aim]:
    known = {name: rate for name, rate in rates.items() if rate == rate}
    if best not in known or len(known) < 2:
        return []
    rival = min((n for n in known if n != best), key=known.__getitem__)
    said = f"{100 * known[best]:.1f} against {100 * known[rival]:.1f} of `{rival}`"
    return [(aim, said, known[best] < known[rival])]


def _aligned(results: Mapping[str, Result], best: Result, protocol: Protocol) -> list[Aim]:
    """Judge the AUROC of S_c (cosine, without heads) between true and false captions under attack."""
    out = []
    for epsilon in protocol.part("main").epsilons:
        areas = {}
        for name, result in results.items():
            found = ((result.parts.get("detection") or {}).get("aligned") or {}).get(f"{epsilon:g}", {})
            area = found.get(f"S_c, {GIVEN}") or found.get(f"cosine, {GIVEN}")
            if area:
                areas[name] = area["value"]
        out += _largest(areas, best.name, f"AUROC of S_c, true against false captions, attacked at {epsilon:g}/255")
    return out


def _largest(areas: Mapping[str, float], best: str, aim: str) -> list[Aim]:
    if best not in areas or len(areas) < 2:
        return []
    rival = max((n for n in areas if n != best), key=areas.__getitem__)
    said = f"{areas[best]:.3f} against {areas[rival]:.3f} of `{rival}`"
    return [(f"{aim}: highest", said, areas[best] > areas[rival])]


def _detecting(results: Mapping[str, Result], best: Result, protocol: Protocol) -> list[Aim]:
    """Judge CMCV against the other detectors on the same model, and against CMCV on the other models."""
    out = []
    for epsilon in protocol.part(FAMILIES).epsilons:
        areas: dict[str, dict[str, float]] = {}
        for name, result in results.items():
            for found in (result.parts.get("detection") or {}).get("detectors", ()):
                if found["epsilon"] == epsilon and found["family"] == "all":
                    areas.setdefault(name, {})[found["detector"]] = found["auroc"]["value"]
        for which in (GIVEN, RETRIEVED):
            rule = f"CMCV, {which}"
            own = areas.get(best.name, {})
            plain = {k: v for k, v in own.items() if not k.startswith(("CMCV", "S_c", "V,"))}
            if rule in own and plain:
                rival = max(plain, key=plain.__getitem__)
                said = f"{own[rule]:.3f} against {plain[rival]:.3f} of {rival}"
                aim = f"detection at {epsilon:g}/255, {which} caption: CMCV above the other detectors on the same model"
                out.append((aim, said, own[rule] > plain[rival]))
            others = {name: its[rule] for name, its in areas.items() if rule in its}
            out += _largest(
                others, best.name, f"detection at {epsilon:g}/255, {which} caption, of all models with CMCV"
            )
    return out


def _transfer(results: Mapping[str, Result], best: Result, protocol: Protocol) -> list[Aim]:
    """Judge transfer over the scenes that all models get right, those without rank included, as in `transfer_table`."""
    out = []
    part = protocol.part("transfer")
    for source in part.sources:
        for epsilon in part.epsilons:
            found = {
                n: v for n, r in results.items() if (v := r.verdict("transfer", epsilon, source=source)) is not None
            }
            if best.name not in found:
                continue
            found = comparable(found)
            if best.name not in found:
                continue
            every = np.logical_and.reduce([rights(v.clean) for v in found.values()])
            ranked = {n: v for n, v in found.items() if n not in NOT_COMPARED and every.any()}
            rates = {n: float((~rights(v.held)[every]).mean()) for n, v in ranked.items()}
            aim = f"transfer from `{source}` at {epsilon:g}/255, success rate of {int(every.sum())}: lowest"
            out += _lowest(rates, best.name, aim)
    return out


def _joint(results: Mapping[str, Result], best: Result) -> list[Aim]:
    own = (best.parts.get("joint") or {}).get("scene")
    if not own:
        return []
    aim = f"joint (picture and one word) at least {KEPT_JOINT:g} of clean"
    out = _of_clean(aim, own["clean"], own["held"], KEPT_JOINT)
    found = {n: r.parts["joint"]["scene"]["held"] for n, r in results.items() if r.parts.get("joint")}
    return out + _highest(found, best.name, "joint: highest")


def _rejecting(results: Mapping[str, Result], best: Result) -> list[Aim]:
    """Judge what is correct or rejected, by an attacker who knows of CMCV and by one who does not."""
    out = []
    for which in (GIVEN, RETRIEVED):
        found = {n: r.parts["aimed"][which]["held"] for n, r in results.items() if r.parts.get("aimed")}
        out += _highest(found, best.name, f"correct or rejected, attacker aware, {which} caption: highest")
    unaware = {n: r.parts["policies"]["reject"] for n, r in results.items() if r.parts.get("policies")}
    held = {name: either(found["attacked"], found["attacked_rejected"]) for name, found in unaware.items()}
    return out + _highest(held, best.name, "correct or rejected, attacker unaware: highest")
