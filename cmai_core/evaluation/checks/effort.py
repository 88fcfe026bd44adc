"""Checks that the attack tries: it moves every picture, uses its budget and its steps, and raises its objective.

An attack that fails silently looks like a robust model (Pintor et al. 2021, arXiv 2106.09947, "indicators of attack
failure").
"""

from __future__ import annotations

from typing import Any

from cmai_core.evaluation.checks.check import BARELY, LAZY_SHARE, SOME_SHARE, Check, share, skipped
from cmai_core.evaluation.checks.context import Bench

BUDGET = "the attack uses its budget on what it does not fool"
STEPS = "the attack takes the steps it declares"
RAISES = "the attack raises its objective"
EVERYTHING = "The attack fools every sample, so nothing is left to try harder on."


def budget(bench: Bench) -> Check:
    """Check that examples lie within the threat model, and near its edge where a sample is not fooled."""
    result, threat = bench.main, bench.attacker.base.threat
    region = threat.around(bench.batch.pixels)
    distance = region.distance(result.pixels.to(bench.batch.pixels)).cpu().double()
    limit = threat.epsilons(bench.count)
    outside = int((distance > limit * (1 + 1e-5) + 1e-6).sum())
    left = ~bench.fooled
    total = int(left.sum())
    used = (distance / limit.clamp(min=1e-12))[left]
    unmoved, barely = int((used == 0).sum()), int((used < BARELY).sum())
    numbers: dict[str, Any] = {
        "samples": bench.count,
        "outside": outside,
        "not_fooled": total,
        "unmoved": unmoved,
        "barely": barely,
        "median_share_used": float(used.median()) if total else None,
    }
    if bench.attacker.norm == "linf" and total:
        delta = (result.pixels - bench.batch.pixels.cpu()).abs()[left]
        near = delta >= BARELY * limit[left].view(-1, 1, 1, 1).to(delta)
        at_edge = (result.pixels[left] <= 0) | (result.pixels[left] >= 1)
        numbers["median_values_near_the_edge"] = float((near | at_edge).flatten(1).double().mean(dim=1).median())
    if outside:
        evidence = f"{share(outside, bench.count)} of the examples lie outside the budget {bench.words()}."
        return Check(BUDGET, "fail", evidence, numbers)
    if result.minimum_norm is not None:
        return skipped(BUDGET, "The search looks for the smallest perturbation, not for the strongest one.")
    if not total:
        return Check(BUDGET, "pass", EVERYTHING, numbers)
    evidence = (
        f"Of {total} samples it does not fool, {unmoved} were given back unchanged and {barely} changed by less than "
        f"half of the budget {bench.words()}; the median one uses {100 * numbers['median_share_used']:.0f} % of it."
    )
    if barely > LAZY_SHARE * total or unmoved > SOME_SHARE * total:
        return Check(BUDGET, "fail", evidence, numbers)
    return Check(BUDGET, "warn" if barely > SOME_SHARE * total else "pass", evidence, numbers)


def steps(bench: Bench) -> Check:
    """Check that every sample that is not fooled gets the gradients or queries that the attack announces."""
    result, plain = bench.main, bench.attacker.base.describe()
    left = ~bench.fooled
    if result.minimum_norm is not None:
        return skipped(STEPS, "The search ends where it has found the boundary, however many steps it may take.")
    if "queries" in plain:
        what, declared, spent = "queries", plain["queries"], result.forwards
    elif "steps" in plain:
        passes = plain.get("eot", 1) * plain.get("restarts", 1) * getattr(bench.model, "passes", 1)
        what, declared, spent = "gradients", plain["steps"] * passes, result.backwards
    else:
        return skipped(STEPS, "The attack does not say how many steps it takes.")
    if not bool(left.any()):
        return Check(STEPS, "pass", EVERYTHING, {"declared": declared})
    few = spent[left]
    # Searches by scores may leave out a last step that their budget does not pay for in full.
    short = int((few < (0.9 if what == "queries" else 1.0) * declared).sum())
    numbers = {"declared": declared, "least": int(few.min()), "not_fooled": len(few), "short": short}
    evidence = (
        f"It declares {declared} {what} a sample; of {len(few)} samples it does not fool, {short} were given fewer "
        f"(the least: {numbers['least']})."
    )
    return Check(STEPS, "fail" if short else "pass", evidence, numbers)


def raises(bench: Bench) -> Check:
    """Check that on samples that are not fooled the objective is higher than on the clean picture."""
    result, left = bench.main, ~bench.fooled
    total = int(left.sum())
    if not total:
        return Check(RAISES, "pass", EVERYTHING, {"not_fooled": 0})
    if result.minimum_norm is not None:
        return skipped(RAISES, "The search looks for the smallest perturbation, not for the highest objective.")
    gain = (result.objective - result.clean_objective)[left].double()
    still = int((~(gain > 0)).sum())
    numbers = {"not_fooled": total, "not_raised": still, "median_gain": float(gain.median())}
    evidence = (
        f"Of {total} samples it does not fool, {still} have an objective no higher than the clean picture's; the "
        f"median gain is {numbers['median_gain']:.3g}."
    )
    if still > SOME_SHARE * total:
        return Check(RAISES, "fail" if still > LAZY_SHARE * total else "warn", evidence, numbers)
    return Check(RAISES, "pass", evidence, numbers)
