"""The published ablation, comparison and policies, as exhibits with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cmai_core.lab.exhibits import Bar, Bars, Table, share_bar
from cmai_core.lab.published import clean_share, published, short

EPSILONS = (2.0, 4.0)
BASE = "tabletop"


def names(which: str) -> list[str]:
    """Return the models of the "ablation" (the base and CMAI's parts) or of the whole "comparison"."""
    from cmai_core.comparison.goals import compared
    from cmai_core.comparison.tables import ablation

    results = published()
    return list(ablation(results, BASE)) if which == "ablation" else list(compared(results))


def robust_bars(which: str, epsilon: float) -> Bars:
    """Return what each model keeps of image→text R@1 in the worst case at an ε, the most robust first."""
    from cmai_core.comparison.verdicts import share

    found = {name: share(published()[name].verdict("main", epsilon).held) for name in names(which)}
    order = sorted(found, key=lambda name: -found[name]["value"])
    defended = _defended()
    bars = [share_bar(short(n), found[n], "defended" if n in defended else "undefended") for n in order]
    title = f"At {epsilon:g}/255 {bars[0].label} keeps most, {bars[0].said}"
    return Bars(title, bars, 0.0, 1.2 * max(bar.high or bar.value for bar in bars) or 1.0)


def clean_bars(which: str) -> Bars:
    """Return each model's clean image→text R@1, the highest first."""
    found = {name: clean_share(name) for name in names(which)}
    order, defended = sorted(found, key=lambda name: -found[name]["value"]), _defended()
    bars = []
    for n in order:
        entry, role = found[n], "defended" if n in defended else "undefended"
        bars.append(Bar(short(n), entry["value"], f"{100 * entry['value']:.1f} %", role, entry["low"], entry["high"]))
    gap = 100 * (bars[0].value - bars[-1].value)
    return Bars(f"Clean retrieval: {gap:.1f} points between {bars[0].label} and {bars[-1].label}", bars)


def _defended() -> set[str]:
    from cmai_core.models import bundled_models

    return {card.name for card in bundled_models() if card.defended}


def steps_table() -> Table:
    """Return what each step from recipe to recipe changes: paired differences with intervals, in points."""
    from cmai_core.comparison.tables import STEPS, points
    from cmai_core.comparison.verdicts import difference
    from cmai_core.training.recipes import RECIPES

    rows, clear = [], 0
    for one, other, what in STEPS:
        own, rival = (published().get(RECIPES[name].model_name) for name in (one, other))
        if own is None or rival is None:
            continue
        row: dict[str, Any] = {"what is added": what, "compared": f"{short(own.name)} − {short(rival.name)}"}
        for epsilon in EPSILONS:
            gap = difference(own.verdict("main", epsilon).held, rival.verdict("main", epsilon).held)
            row[f"{epsilon:g}/255, points"] = points(gap)
            clear += gap["low"] > 0 or gap["high"] < 0
        rows.append(row)
    return Table(f"{clear} of {len(rows) * len(EPSILONS)} differences are clear of 0", rows)


def models_with_policies() -> list[str]:
    """Return the models whose policies were measured, with the usual one first."""
    from cmai_core.comparison.tables import BEST

    found = [name for name, result in published().items() if result.parts.get("policies")]
    return sorted(found, key=lambda name: name != BEST)


def policy_exhibits(name: str) -> tuple[Bars, Bars, Table]:
    """Return what ARM's policies did about attacked pictures of one model, what they cost clean ones, and in time."""
    from cmai_core.comparison.tables import accepted, either
    from cmai_core.comparison.verdicts import share

    found = published()[name].parts["policies"]
    safe, clean, rows = [], [], []
    for policy, f in found.items():
        held = share(either(f["attacked"], f["attacked_rejected"]))
        kept = share(accepted(f["clean"], f["clean_rejected"]))
        safe.append(share_bar(policy, held, "adversarial"))
        clean.append(share_bar(policy, kept, "clean"))
        rows.append({
            "policy": policy, "ms a picture": round(f["milliseconds"], 1), "times “none”": round(f["ratio"], 2),
            "the same, flagged": round(f["flagged_ratio"], 2) if "flagged_ratio" in f else None,
        })  # fmt: skip
    best, least = _extreme(safe), min(rows[1:], key=lambda row: row["times “none”"])
    return (
        Bars(f"Attacked, right or rejected: {best.label} reaches {best.said}", safe),
        Bars(f"Clean, right and accepted: {_extreme(clean).label} keeps most, {_extreme(clean).said}", clean),
        Table(f"The cheapest beside none is {least['policy']}: {least['times “none”']:.2f} times the time", rows),
    )


def _extreme(bars: Sequence[Bar]) -> Bar:
    return max(bars, key=lambda bar: bar.value)
