"""Checks that more budget, more steps and more starts behave as they must, and that rounding to 8 bits costs little.

"Perform basic sanity tests", "verify attack convergence", "start search from random offsets" (Carlini et al. 2019, §5).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from cmai_core.attacks.result import AttackResult
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.errors import OptionError
from cmai_core.evaluation.checks.attacker import large_epsilon
from cmai_core.evaluation.checks.check import (
    LARGE_SHARE,
    SOME_SHARE,
    Check,
    Lead,
    lead,
    rounding,
    share,
    skipped,
    worst,
)
from cmai_core.evaluation.checks.context import Bench

RISES = "the loss rises with the steps"
CONVERGED = "twice the steps change little"
SINGLE = "iterating is no worse than a single step"
GROWS = "success grows with the budget"
LARGE = "a large budget leaves nothing right"
RESTARTS = "other random starts change little"
ROUNDED = "rounding to 8 bits costs the attack little"

# A budget that moves every pixel half of its range takes more steps to use (Carlini et al.: iterations grow with the
# distortion); only survivors of the declared steps get them.
MORE_STEPS = 5
# Seeds besides the first one.
SEEDS = 2


def rises(bench: Bench) -> Check:
    """Check that the objective at the end of the climb is higher than at its start, sample by sample."""
    result = bench.main
    if bench.attacker.effort is None or result.minimum_norm is not None:
        return skipped(RISES, "The search does not climb step by step.")
    trace = result.objective_trace.double()
    rising, total = 0, 0
    for column in trace.T:
        seen = column[~column.isnan()]
        if len(seen) >= 3:
            total += 1
            rising += bool(seen[-max(1, len(seen) // 3) :].mean() > seen[0])
    if not total:
        return skipped(RISES, "No sample was climbed for three steps or more.")
    seen = [float(row.nanmean()) for row in (trace[0], trace[len(trace) // 4], trace[len(trace) // 2], trace[-1])]
    numbers = {
        "samples": total,
        "rising": rising,
        "start": seen[0],
        "quarter": seen[1],
        "half": seen[2],
        "end": seen[3],
    }
    evidence = (
        f"The objective ends higher than it starts for {share(rising, total)} of the samples; its mean goes "
        f"{' → '.join(f'{value:.3g}' for value in seen)} (start, a quarter, half, all of the steps; samples that are "
        "fooled may leave early)."
    )
    status = "pass" if rising >= (1 - SOME_SHARE) * total else "warn" if rising > total / 2 else "fail"
    return Check(RISES, status, evidence, numbers)


def converged(bench: Bench) -> Check:
    """Check that twice the steps (or queries) fool no more samples; a quarter of them, no more than all."""
    effort = bench.attacker.effort
    if effort is None:
        return skipped(CONVERGED, "The attack has no number of steps that could be doubled.")
    if bool(bench.fooled.all()):
        return Check(CONVERGED, "pass", "The attack fools every sample, so more steps cannot add one.", {})
    declared = getattr(bench.attacker.base.search, effort)
    twice = bench.outcome(bench.attacker.at(**{effort: 2 * declared}))
    fewer = bench.outcome(bench.attacker.at(**{effort: max(1, declared // 4)}))
    more, less = lead(twice, bench.fooled), lead(fewer, bench.fooled)
    numbers = {effort: declared, "fooled": int(bench.fooled.sum()), "twice": int(twice.sum()), **more.numbers()}
    numbers |= {"quarter": int(fewer.sum()), "p_quarter": less.p}
    evidence = (
        f"Of {bench.count} samples a quarter of the {declared} {effort} fools {int(fewer.sum())}, all of them "
        f"{int(bench.fooled.sum())}, twice as many {int(twice.sum())}."
    )
    return Check(CONVERGED, worst([more.status, less.status]), evidence, numbers)


def single_step(bench: Bench) -> Check:
    """Check that one step of the gradient's signs (FGSM) fools no sample that the attack does not.

    Also AutoAttack's and Kurakin et al.'s (2017, arXiv 1611.01236) "label leaking": one step that makes the model
    *more* right gives the label away.
    """
    if bench.attacker.norm not in ("linf", "l2"):
        return skipped(SINGLE, f"There is no single step for {bench.attacker.norm}.")
    if bench.gradient_free:
        return skipped(SINGLE, "The attack takes no gradients: that one step of them does better is no wonder.")
    search = GradientSearch(steps=1, step_scale=1.0, random_start=False, keep="last")
    try:
        single = bench.run(bench.attacker.with_search(search))
    except OptionError as error:
        return skipped(SINGLE, error.message)
    ahead = lead(single.success_8bit, bench.fooled)
    lowered = int((single.objective < single.clean_objective).sum())
    numbers = {"fooled": int(bench.fooled.sum()), "single": int(single.success_8bit.sum()), **ahead.numbers()}
    numbers["lowered"] = lowered
    evidence = (
        f"Of {bench.count} samples one step fools {int(single.success_8bit.sum())}, the attack "
        f"{int(bench.fooled.sum())}; {ahead.extra} only the single step."
    )
    if lowered > bench.count / 2:
        evidence += f" One step lowers the loss of {lowered}: the gradient leads astray."
        return Check(SINGLE, worst([ahead.status, "warn"]), evidence, numbers)
    return Check(SINGLE, ahead.status, evidence, numbers)


def grows(bench: Bench) -> Check:
    """Check that at ε/2, ε and 2ε ever more samples are fooled."""
    if bench.attacker.rebuild is None:
        return skipped(GROWS, "The attack's budget cannot be set from outside.")
    if bench.main.minimum_norm is not None:
        return skipped(GROWS, "A search for the smallest perturbation is read at every budget at once.")
    limit = large_epsilon(bench.attacker.norm, bench.batch.pixels.shape[1:])
    budgets = [bench.epsilon / 2, bench.epsilon, min(2 * bench.epsilon, limit)]
    found = [bench.fooled if e == bench.epsilon else _at(bench, e).success_8bit for e in budgets]
    drops: list[Lead] = [lead(small, big) for small, big in itertools.pairwise(found)]
    counts = [int(f.sum()) for f in found]
    numbers = {"epsilons": budgets, "fooled": counts, "samples": bench.count, "p": [d.p for d in drops]}
    evidence = "Of {} samples are fooled: {}.".format(
        bench.count, ", ".join(f"{n} at {bench.words(e)}" for n, e in zip(counts, budgets, strict=True))
    )
    return Check(GROWS, worst([drop.status for drop in drops]), evidence, numbers)


def _at(bench: Bench, epsilon: float, **settings: Any) -> AttackResult:
    return bench.run(bench.attacker.at(epsilon, **settings))


def large(bench: Bench) -> Check:
    """Check that under a budget with which any picture becomes grey, the model is right about nothing."""
    if bench.attacker.rebuild is None:
        return skipped(LARGE, "The attack's budget cannot be set from outside.")
    epsilon = large_epsilon(bench.attacker.norm, bench.batch.pixels.shape[1:])
    if bench.epsilon > epsilon:
        epsilon = bench.epsilon
    result = _at(bench, epsilon)
    fooled = result.success_8bit if result.minimum_norm is None else result.minimum_norm.isfinite()
    left, effort, more = int((~fooled).sum()), bench.attacker.effort, ""
    if left and effort is not None:
        longer = {effort: MORE_STEPS * getattr(bench.attacker.base.search, effort)}
        fooled = fooled | _at(bench, epsilon, **longer).success_8bit
        more = f" ({left} before the steps were made {MORE_STEPS} times as many)"
        left = int((~fooled).sum())
    numbers = {"epsilon": epsilon, "samples": bench.count, "left": left}
    evidence = f"At a budget of {bench.words(epsilon)}, {share(left, bench.count)} are still right{more}."
    status = "pass" if not left else "warn" if left <= LARGE_SHARE * bench.count else "fail"
    return Check(LARGE, status, evidence, numbers)


def restarts(bench: Bench) -> Check:
    """Check that the attack from other random starts fools few samples more."""
    if bench.attacker.external:
        return skipped(RESTARTS, "The outside attack's random numbers are its own.")
    if bool(bench.fooled.all()):
        return Check(RESTARTS, "pass", "The attack fools every sample, so other starts cannot add one.", {})
    others = [bench.outcome(bench.attacker.base, bench.seed + k + 1) for k in range(SEEDS)]
    union = torch.stack([bench.fooled, *others]).any(dim=0)
    extra = int((union & ~bench.fooled).sum())
    counts = [int(f.sum()) for f in (bench.fooled, *others)]
    numbers = {"samples": bench.count, "fooled": counts, "together": int(union.sum()), "extra": extra}
    evidence = (
        f"With {SEEDS + 1} seeds the attack fools {', '.join(map(str, counts))} of {bench.count} samples, together "
        f"{int(union.sum())}."
    )
    if extra > max(1, SOME_SHARE * bench.count):
        return Check(RESTARTS, "warn", f"{evidence} One start finds too little: use several.", numbers)
    return Check(RESTARTS, "pass", evidence, numbers)


def rounded(bench: Bench) -> Check:
    """Check that successes survive rounding to the 256 levels a picture file has."""
    if bench.main.minimum_norm is not None:
        return skipped(ROUNDED, "The nearest examples lie on the decision boundary, where rounding decides by chance.")
    found, kept = int(bench.main.success.sum()), int((bench.main.success & bench.main.success_8bit).sum())
    return rounding(ROUNDED, found, kept)
