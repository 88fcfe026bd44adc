"""Tables of the comparison as Markdown. Every share has its 95 % interval, and its table says of how many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cmai_core.comparison.protocol import ABLATIONS, FAMILIES, Protocol
from cmai_core.comparison.results import Result
from cmai_core.comparison.verdicts import UNASKED, Verdict, difference, marks, rights, share, success_rate
from cmai_core.training.recipes import RECIPES

BEST = "tabletop-cmai"
"""The model that the others are compared with."""
_GAP = "–"
Results = Mapping[str, Result]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def percent(entry: Mapping[str, float] | None, counts: bool = False) -> str:
    """Write "71.2 [68.4, 74.0]", in per cent; with counts "(712/1000)" after it."""
    if entry is None or not np.isfinite(entry["value"]):
        return _GAP
    text = f"{100 * entry['value']:.1f} [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"
    return f"{text} ({entry['hits']}/{entry['total']})" if counts else text


def points(entry: Mapping[str, float] | None) -> str:
    """Write "+1.3 [−0.2, 2.8]": a difference in points."""
    if entry is None or not np.isfinite(entry["value"]):
        return _GAP
    return f"{100 * entry['value']:+.1f} [{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]".replace("-", "−")


def number(entry: Mapping[str, float] | None) -> str:
    """Write "0.912 [0.90, 0.92]"."""
    if entry is None or not np.isfinite(entry["value"]):
        return _GAP
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def label(name: str) -> str:
    """Write a model's name in a table."""
    return f"**`{name}`**" if name == BEST else f"`{name}`"


def robust_table(results: Results, part: str, task: str, epsilons: Sequence[float], base: str = "") -> str:
    """Return the main table: clean and worst case at each ε of every model.

    With their ratio, the attack success rate (of those right when clean), how much lower that is than the base's, and
    the paired difference to `BEST`.
    """
    asked = {len(rights(v.clean)) for r in results.values() if (v := r.verdict(part, epsilons[0], task)) is not None}
    head = ["model", f"clean (of {'/'.join(map(str, sorted(asked)))})"]
    for epsilon in epsilons:
        at = f"{epsilon:g}/255"
        head += [f"robust {at}", f"of clean {at}", f"ASR {at}", f"ASR less {at}", f"`{BEST}` − this, {at}"]
    rows = []
    for name, result in results.items():
        found = [result.verdict(part, epsilon, task) for epsilon in epsilons]
        if found[0] is None:
            continue
        row = [label(name), percent(share(found[0].clean))]
        for verdict, epsilon in zip(found, epsilons, strict=True):
            undefended = results[base].verdict(part, epsilon, task) if base in results and name != base else None
            row += _robust(verdict, _partner(results, name, part, epsilon, task), undefended)
        rows.append(row)
    return markdown(head, rows)


def _robust(verdict: Verdict | None, best: Verdict | None, base: Verdict | None) -> list[str]:
    if verdict is None:
        return [_GAP] * 5
    clean, held, rate = share(verdict.clean), share(verdict.held), success_rate(verdict)
    kept = f"{held['value'] / clean['value']:.2f}" if clean["hits"] else _GAP
    gap = _GAP if best is None else points(difference(best.held, verdict.held))
    less = _GAP if base is None else _less(success_rate(base)["value"], rate["value"])
    return [percent(held), kept, percent(rate, counts=True), less, gap]


def _less(base: float, own: float) -> str:
    """Say by how many points a rate is below the base's."""
    return f"{100 * (base - own):.1f}".replace("-", "−")


def _partner(results: Results, name: str, part: str, epsilon: float, task: str) -> Verdict | None:
    return results[BEST].verdict(part, epsilon, task) if BEST in results and name != BEST else None


def clean_table(results: Results, base: str) -> str:
    """Tabulate clean figures of every task, with the differences of the values to the base in points."""
    shown = (
        ("zero-shot", "accuracy", "zero-shot"),
        ("retrieval", "image_to_text_r1", "image→text R@1"),
        ("retrieval", "text_to_image_r1", "text→image R@1"),
        ("vqa", "accuracy", "VQA"),
        ("nlvr", "accuracy", "NLVR"),
        ("captioning", "fact_f1", "caption fact-F1"),
    )
    rows = []
    for name, result in results.items():
        clean = result.parts.get("clean")
        if clean is None:
            continue
        row = [label(name)]
        for task, measure, _ in shown:
            entry = clean.get(task, {}).get(measure)
            start = results[base].parts.get("clean", {}).get(task, {}).get(measure) if base in results else None
            text = percent(entry)
            if entry and start and name != base:
                text += f" ({100 * (entry['value'] - start['value']):+.1f})".replace("-", "−")
            row.append(text)
        rows.append(row)
    return markdown(["model", *(title for _, _, title in shown)], rows)


def stronger_table(results: Results, protocol: Protocol) -> str:
    """Return the worst case of the main attacks on the first scenes, and with the stronger ones added.

    Over the scenes of the adaptive attacks (against S_c and V of the given and of the retrieved caption) also with
    these added.
    """
    (epsilon,) = protocol.part("stronger").epsilons
    rows = []
    for name, result in results.items():
        main, strong = result.verdict("main", epsilon), result.verdict("stronger", epsilon)
        if main is None or strong is None:
            continue
        before, after = main.held[: strong.count], strong.held
        lost = int((rights(before) & ~rights(after)).sum())
        rows.append([label(name), *(percent(share(x)) for x in (before, after)), str(lost), *_adaptive(result, main)])
    head = ["model", "main attacks", "with stronger ones", f"of {protocol.part('stronger').limit} scenes lost besides"]
    head += [f"main attacks, first {protocol.aimed.limit}", "with its own adaptive ones"]
    return markdown(head, rows)


def _adaptive(result: Result, main: Verdict) -> list[str]:
    """Return the main attacks' worst case, and with what the adaptive ones make wrong and accepted."""
    aimed = result.parts.get("aimed")
    if not aimed:
        return [_GAP, _GAP]
    stands = rights(main.held[: len(aimed["given"]["held"])])
    both = stands & rights(aimed["given"]["held"]) & rights(aimed["retrieved"]["held"])
    return [percent(share(marks(stands.tolist()))), percent(share(marks(both.tolist())))]


def outside_table(results: Results) -> str:
    """Tabulate PGD of other libraries beside ours, on zero-shot classification."""
    rows = []
    for name, result in results.items():
        outside, ours = result.verdicts("outside"), result.verdict("tasks", 2.0, "zero-shot")
        if not outside or ours is None:
            continue
        (verdict,) = outside
        row = [label(name), percent(share(ours.held)), percent(share(verdict.held))]
        missed = rights(ours.held) & ~rights(verdict.held) if ours.count == verdict.count else np.zeros(0, bool)
        rows.append([*row, str(int(missed.sum()))])
    return markdown(["model", "our attacks", "theirs", "scenes that only theirs fool"], rows)


def joint_table(results: Results) -> str:
    """Tabulate attacks on picture and one word: with captions that stay true, and with any."""
    rows = []
    best = results[BEST].parts.get("joint", {}).get("scene") if BEST in results else None
    for name, result in results.items():
        joint = result.parts.get("joint")
        if not joint:
            continue
        true, free = joint["scene"], joint["none"]
        clean, held = share(true["clean"]), share(true["held"])
        gap = _GAP if best is None or name == BEST else points(difference(best["held"], true["held"]))
        false = f"{free['false']}/{free['changed']}" if free["changed"] else _GAP
        kept = f"{held['value'] / clean['value']:.2f}" if clean["hits"] else _GAP
        rows.append([label(name), percent(clean), percent(held), kept, gap, percent(share(free["held"])), false])
    head = ["model", "clean", "robust, caption true", "of clean", f"`{BEST}` − this", "robust, any word"]
    return markdown([*head, "captions known to be false, of all changed"], rows)


def transfer_table(results: Results, protocol: Protocol) -> str:
    """Tabulate the ASR of examples made on other models, over scenes that all of a column's models get right clean."""
    part = protocol.part("transfer")
    columns = [(source, epsilon) for source in part.sources for epsilon in part.epsilons]
    head, cells = ["model"], {}
    for source, epsilon in columns:
        found = {
            name: verdict
            for name, result in results.items()
            if (verdict := result.verdict("transfer", epsilon, source=source)) is not None
        }
        found = comparable(found)
        if not found:
            continue
        all_right = np.logical_and.reduce([rights(verdict.clean) for verdict in found.values()])
        head.append(f"from `{source}`, {epsilon:g}/255 (of {int(all_right.sum())})")
        for name, verdict in found.items():
            lost = "".join("1" if fooled else "0" for fooled in ~rights(verdict.held)[all_right])
            cells[name, source, epsilon] = percent(share(lost)) if lost else _GAP
    names = [name for name in results if any(key[0] == name for key in cells)]
    return markdown(head, [[label(n), *(cells.get((n, s, e), _GAP) for s, e in columns)] for n in names])


def comparable(found: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Without the models that answer much less than the others when clean (under half of the median).

    Of what all get right too little would be left.
    """
    clean = {name: share(verdict.clean)["value"] for name, verdict in found.items()}
    least = 0.5 * float(np.median(list(clean.values()))) if clean else 0.0
    return {name: verdict for name, verdict in found.items() if clean[name] >= least}


def targeted_table(results: Results, base: str = "") -> str:
    """Tabulate targeted ASR on zero-shot classification, and how much lower it is than the base's."""
    rows: list[list[str]] = []
    rates: dict[str, float] = {}
    for name, result in results.items():
        found = result.parts.get("aimed", {}).get("targeted")
        if found is None:
            continue
        clean = rights(found["clean"])
        reached = "".join("1" if not held else "0" for held in rights(found["held"])[clean])
        rates[name] = share(reached)["value"]
        rows.append([label(name), percent(share(found["clean"])), percent(share(reached), counts=True)])
    for name, row in zip(rates, rows, strict=True):
        known = base in rates and name != base
        row.append(_less(rates[base], rates[name]) if known else _GAP)
    return markdown(["model", "clean accuracy", "target reached, of those right (ASR)", "ASR less"], rows)


_PATHWAYS = ("robust pathway", "shifted weights")


def aware_table(results: Results) -> str:
    """Tabulate the attacker who knows of CMCV: right or rejected, false accepts, forced rejections, robust pathway."""
    rows = []
    for name, result in results.items():
        aimed = result.parts.get("aimed")
        if not aimed:
            continue
        row = [label(name)]
        for which in ("given", "retrieved"):
            row += [percent(share(aimed[which]["accepted"])), percent(share(aimed[which]["held"]))]
        for which in ("accept false", "reject true"):
            row.append(_turned(aimed[which]))
        for pathway in _PATHWAYS:
            row.append(percent(share(aimed[pathway]["held"])) if pathway in aimed else _GAP)
        rows.append(row)
    head = ["model"]
    for which in ("given", "retrieved"):
        head += [f"{which}: clean, correct and accepted", f"{which}: attacked, correct or rejected"]
    return markdown(
        [*head, "false captions accepted", "true pairs rejected", *(f"right through {name}" for name in _PATHWAYS)],
        rows,
    )


def _turned(found: Mapping[str, str]) -> str:
    """Return the share that is turned of those judged as the defender wants when clean."""
    clean = rights(found["clean"])
    turned = "".join("1" if not held else "0" for held in rights(found["held"])[clean])
    return percent(share(turned), counts=True) if turned else _GAP


def policy_table(results: Results) -> str:
    """Tabulate ARM's policies against an attacker who does not know of them."""
    rows = []
    for name, result in results.items():
        for policy, found in (result.parts.get("policies") or {}).items():
            row = [label(name), policy, percent(share(accepted(found["clean"], found["clean_rejected"])))]
            row.append(percent(share(found["attacked"])))
            row.append(percent(share(either(found["attacked"], found["attacked_rejected"]))))
            flagged = f"{found['flagged_ratio']:.2f}" if "flagged_ratio" in found else _GAP
            rows.append([*row, f"{found['milliseconds']:.1f}", f"{found['ratio']:.2f}", flagged])
    head = ["model", "policy", "clean: right, accepted", "attacked: right, given or not", "attacked: right or rejected"]
    return markdown([*head, "ms a picture", "times “none”", "the same, flagged"], rows)


def accepted(right: str, rejected: str) -> str:
    """Count who is right and not rejected."""
    pairs = zip(right, rejected, strict=True)
    return "".join(UNASKED if a == UNASKED else str(int(a == "1" and b == "0")) for a, b in pairs)


def either(right: str, rejected: str) -> str:
    """Count who is right or rejected."""
    pairs = zip(right, rejected, strict=True)
    return "".join(UNASKED if a == UNASKED else str(int(a == "1" or b == "1")) for a, b in pairs)


def alignment_table(results: Results, protocol: Protocol) -> str:
    """Tabulate true against false captions: AUROC of S_c and of V, clean and attacked; where attacked S_c lies."""
    epsilons = [f"{e:g}" for e in protocol.part("main").epsilons]
    scenes, shown = protocol.part("main").limit, protocol.part(FAMILIES).limit
    head = ["model", "score", f"clean ({scenes} scenes)", *(f"attacked, {e}/255 (first {shown})" for e in epsilons)]
    head += [f"mean quantile of attacked S_c, {e}/255" for e in epsilons]
    rows = []
    for name, result in results.items():
        aligned = (result.parts.get("detection") or {}).get("aligned")
        if not aligned:
            continue
        for score in aligned["clean"]:
            row = [label(name), score.partition(",")[0], number(aligned["clean"][score])]
            row += [number(aligned.get(e, {}).get(score)) for e in epsilons]
            first = score.startswith("S_c") or (score.startswith("cosine") and "S_c, given" not in aligned["clean"])
            rows.append([*row, *(f"{aligned[e]['quantile']:.3f}" if first and e in aligned else "" for e in epsilons)])
    return markdown(head, rows)


def detection_table(results: Results, epsilon: float, detectors: Sequence[str]) -> str:
    """Tabulate detection of successful attacks of all families: AUROC, and the rate found at 1 % and 5 %."""
    rows = []
    for name, result in results.items():
        for detector in detectors:
            found = detector_entry(result, detector, epsilon)
            if found is not None:
                rows.append([label(name), *_detected(found)])
    return markdown(["model", *_DETECTED], rows)


def families_table(result: Result, epsilon: float) -> str:
    """Tabulate every detector on one model, attack family by attack family, and CMCV learned without the family."""
    rows = []
    for found in result.parts["detection"]["detectors"]:
        if found["epsilon"] == epsilon and found["family"] != "all":
            rows.append([f"`{found['family']}`", *_detected(found)])
    return markdown(["attacks", *_DETECTED], sorted(rows))


_DETECTED = ("detector", "AUROC", "found at 1 % (realised)", "found at 5 % (realised)", "successes")


def detector_entry(result: Result, detector: str, epsilon: float, family: str = "all") -> Mapping[str, Any] | None:
    """Return what was measured of a detector on one model, or None."""
    for found in (result.parts.get("detection") or {}).get("detectors", ()):
        if (found["detector"], found["epsilon"], found["family"]) == (detector, epsilon, family):
            return found
    return None


def _detected(found: Mapping[str, Any]) -> list[str]:
    out = [found["detector"], number(found["auroc"])]
    for rate in ("0.01", "0.05"):
        if "tpr" not in found:
            out.append(_GAP)
            continue
        out.append(f"{percent(found['tpr'][rate])} ({100 * found['fpr'][rate]['value']:.1f} %)")
    return [*out, str(found["successes"])]


def rates_table(results: Results, rate: float) -> str:
    """Return the per cent of fresh clean pairs that CMCV flags, at one stated rate.

    By the cards: of pairs that had no part in setting the thresholds, those with S_c or V_verify below theirs.
    """
    from cmai_core.models import bundled_models

    cards = {card.name: card.card.get("cmcv", {}).get("rates", {}) for card in bundled_models()}
    sets = list(dict.fromkeys(name for rates in cards.values() for name in rates))
    rows = []
    for name in results:
        found = cards.get(name)
        if found:
            rules = [next((r for r in ("either", "S_c") if r in found.get(one, {})), "") for one in sets]
            shares = [found[one][rule][f"{rate:g}"] if rule else None for one, rule in zip(sets, rules, strict=True)]
            rows.append(
                [label(name), *(f"{100 * s['rate']:.1f} ({s['flagged']}/{s['count']})" if s else _GAP for s in shares)]
            )
    return markdown(["model", *sets], rows) if rows else ""


def training_table(results: Results) -> str:
    """Tabulate what each training saw and how long it took, by the cards."""
    from cmai_core.models import bundled_models

    cards = {card.name: card.training for card in bundled_models()}
    rows = []
    for name in results:
        training = cards.get(name, {})
        if not training:
            continue
        heads = training.get("heads", {})
        after = f"{heads.get('pairs', 0):,} ({heads.get('seconds', 0) / 60:.0f} min)" if heads else _GAP
        minutes = training.get("seconds", 0) / 60
        clean = cards.get(RECIPES["continued"].model_name, {}).get("seconds", 0)
        ratio = f"{60 * minutes / clean:.1f}" if clean and training.get("start") else _GAP
        count = training.get("threads")
        where = f"{training.get('device')}, {count} thread{'' if count == 1 else 's'}"
        rows.append([label(name), f"{training.get('pairs', 0):,}", f"{minutes:.1f}", ratio, after, where])
    return markdown(["model", "pairs", "minutes", "to clean training, without heads", "heads afterwards", "on"], rows)


def validation_table(names: Sequence[str]) -> str:
    """Tabulate what each training ended with on validation, from the cards."""
    from cmai_core.models import bundled_models

    shown = (
        ("r1_image_to_text", "image→text R@1"),
        ("r1_text_to_image", "text→image R@1"),
        ("vqa", "VQA"),
        ("nlvr", "NLVR"),
        ("r1_clean_small", "R@1 of 256"),
        ("r1_attacked", "the same, PGD-10 2/255"),
    )
    cards = {card.name: card.results.get("validation", {}) for card in bundled_models()}
    rows = []
    for name in names:
        found = cards.get(name)
        if found:
            values = [f"{100 * found[key]:.1f}" if key in found else _GAP for key, _ in shown]
            rows.append([label(name), *values])
    return markdown(["model", *(title for _, title in shown)], rows)


STEPS = (
    ("tecoa", "pgd-at", "images attacked through retrieval alone instead of the mixture of tasks"),
    ("mbat-beta0", "pgd-at", "one word of the caption attacked besides"),
    ("mbat", "mbat-beta0", "−β·S_c in the inner problem, S_c being the cosine (no heads yet)"),
    (
        "cmcv-mbat",
        "mbat",
        "consistency heads trained along: their S_c, their loss, a fifth of the images attacked for them",
    ),
    ("cmai", "cmcv-mbat", "ARM instead of fixed β, ε and λ"),
    ("cmai", "cmai-replay", "ARM looking, instead of its schedule followed blindly (and another seed)"),
    ("cmai-lora", "cmai", "low-rank updates (at their own learning rate) instead of whole matrices"),
)
"""Pairs of recipes, and what the first has that the second has not."""


def steps_table(results: Results, part: str, task: str, epsilons: Sequence[float]) -> str:
    """Tabulate what each step from recipe to recipe changes, as paired differences of one training each."""
    rows = []
    for one, other, what in STEPS:
        own, rival = (results.get(RECIPES[name].model_name) for name in (one, other))
        found = [[r.verdict(part, e, task) if r else None for r in (own, rival)] for e in epsilons]
        if all(a is not None and b is not None for a, b in found):
            gaps = [points(difference(a.held, b.held)) for a, b in found]
            rows.append([what, f"`{own.name}` − `{rival.name}`", *gaps])
    return markdown(["what", "robust, in points", *(f"{e:g}/255" for e in epsilons)], rows) if rows else ""


def ablation(results: Results, base: str) -> dict[str, Result]:
    """Return the models that tell what each part of CMAI does."""
    ours = ("cmcv", "mbat-beta0", "mbat", "cmcv-mbat", "cmai", *ABLATIONS)
    names = [base, *dict.fromkeys(RECIPES[name].model_name for name in ours)]
    return {name: results[name] for name in names if name in results}
