"""Checks that no attack with less knowledge does better: noise, scores alone, another model's gradients.

Beside them, a standard white-box attack must do no better than the one under test.

"Verify adaptive attacks perform better than any other", "apply gradient-free attacks", "perform a transferability
analysis", "try brute-force (random) search attacks" (Carlini et al. 2019, §4 and §5); AutoAttack's flag "Square Attack
improves the robustness evaluation".
"""

from __future__ import annotations

from typing import Any

from cmai_core.attacks.objectives.classes import Margin, exposes_logits
from cmai_core.attacks.objectives.objective import Objective, TaskObjective
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.searches.ensemble import EachTarget
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.attacks.searches.score_gradient import ScoreGradient
from cmai_core.attacks.searches.square import Square
from cmai_core.attacks.searches.transfer import Transfer
from cmai_core.errors import OptionError
from cmai_core.evaluation.checks.attacker import RandomNoise
from cmai_core.evaluation.checks.check import SOME_SHARE, Check, lead, share, skipped, worst
from cmai_core.evaluation.checks.context import Bench

NOISE = "random noise is far weaker than the attack"
STANDARD = "a standard attack finds no more"
TARGETED = "aiming at each of the strongest options finds no more"
SCORES = "black box is no better than white box"
TRANSFER = "transfer is no better than white box"
BARE = "the model without the defence around it"
FOOLS_ALL = "The attack fools every sample, so no other can fool one more."

# Draws of noise; Carlini et al. recommend thousands, which a self-check cannot afford, but ten show what noise can do.
DRAWS = 10
# "Far weaker": where noise reaches half of the attack's successes, the search may have added little. At a budget that
# few samples give way to, both fool few; then so many others decide, by how far their objective was raised.
FAR, ENOUGH = 0.5, 5
# APGD converges within 50 steps on undefended models and nearly does on trained ones (Croce and Hein 2020, fig. 2).
STANDARD_STEPS = 50
# Towards each target; nine of them make up for the fewer steps.
TARGETED_STEPS = 25


def score_objective(bench: Bench) -> Objective:
    """Choose what an attack raises that has nothing to do with the one under test: the margin, or a loss.

    The margin has a gradient also where the softmax is saturated.
    """
    if exposes_logits(bench.task):
        return Margin(bench.task, dataset=bench.dataset)
    return TaskObjective(bench.task, dataset=bench.dataset)


def noise(bench: Bench) -> Check:
    """Check that noise at the same ε (signs and uniform, the best of several draws) fools no more than the attack."""
    result = bench.run(bench.attacker.with_search(RandomNoise(draws=DRAWS)))
    ahead = lead(result.success_8bit, bench.fooled)
    found, fooled = int(result.success_8bit.sum()), int(bench.fooled.sum())
    numbers: dict[str, Any] = {"draws": DRAWS, "noise": found, "fooled": fooled, **ahead.numbers()}
    evidence = f"Of {bench.count} samples the best of {DRAWS} draws of noise fools {found}, the attack {fooled}"
    left = ~bench.fooled
    status, clear = ahead.status, False
    if bool(left.any()) and bench.main.minimum_norm is None:
        higher = int((result.objective[left] > bench.main.objective[left]).sum())
        total = int(left.sum())
        numbers |= {"not_fooled": total, "noise_higher": higher}
        evidence += f"; where it does not, noise raises the objective further for {share(higher, total)}"
        status = worst([status, "fail" if higher > total / 2 else "warn" if higher > SOME_SHARE * total else "pass"])
        clear = total >= ENOUGH and higher <= SOME_SHARE * total
    if found > FAR * fooled and not clear:
        status = worst([status, "warn"])
        evidence += ": either the budget is so large that noise will do, or the attack adds little to it"
    return Check(NOISE, status, evidence + ".", numbers)


def standard(bench: Bench) -> Check:
    """Check that APGD on the margin, an attack of known strength, fools no more than the attack under test.

    So an attack is caught that climbs the wrong loss, stops early, or takes steps that are too short.
    """
    if bench.gradient_free:
        return skipped(STANDARD, "The attack takes no gradients: that one which does finds more is as it should be.")
    if bench.attacker.norm not in APGD.norms():
        return skipped(STANDARD, f"There is no standard attack under {bench.attacker.norm}.")
    if bool(bench.fooled.all()):
        return Check(STANDARD, "pass", FOOLS_ALL, {})
    search = APGD(steps=STANDARD_STEPS, eot=bench.attacker.averaged)
    return _against(bench, STANDARD, f"APGD on the margin with {STANDARD_STEPS} steps", search, score_objective)


def targeted(bench: Bench) -> Check:
    """Check that APGD towards each of the strongest false options finds no sample that the attack does not.

    Where options are many, losses that only push away from the right one stop at the first rival that comes near;
    AutoAttack's standard version tries nine for this reason.
    """
    if not exposes_logits(bench.task):
        return skipped(TARGETED, "The task has no options to aim at.")
    if bench.gradient_free:
        return skipped(TARGETED, "The attack takes no gradients: that one which does finds more is as it should be.")
    if bench.attacker.norm not in APGD.norms():
        return skipped(TARGETED, f"There is no such attack under {bench.attacker.norm}.")
    if bool(bench.fooled.all()):
        return Check(TARGETED, "pass", FOOLS_ALL, {})
    objective = score_objective(bench)
    search = EachTarget(search=APGD(steps=TARGETED_STEPS, eot=bench.attacker.averaged), objective=objective)
    words = f"APGD towards each of the {search.targets} strongest false options"
    return _against(bench, TARGETED, words, search, score_objective)


def black_box(bench: Bench) -> Check:
    """Check that Square (NES where Square does not go with the norm) fools no more, at a stated number of queries."""
    if bench.gradient_free:
        return skipped(SCORES, "The attack takes no gradients itself.")
    if bool(bench.fooled.all()):
        return Check(SCORES, "pass", FOOLS_ALL, {})
    if bench.attacker.norm in Square.norms:
        search, word = Square(queries=bench.queries), "Square"
    else:
        search, word = ScoreGradient(queries=bench.queries), "NES"
    return _against(bench, SCORES, f"{word} with {bench.queries} queries", search, score_objective)


def transfer(bench: Bench) -> Check:
    """Check that pictures made on other models fool no sample that the attack does not.

    The model that a defence stands around is one of them: where its own gradients do better than those through the
    defence, the defence hides them (BPDA: Athalye et al. 2018, arXiv 1802.00420, §4.1, with the defence as identity).
    """
    surrogates = dict(bench.surrogates)
    bare = getattr(bench.model, "model", None)
    if callable(getattr(bare, "image_features", None)) and bench.white_box:
        surrogates.setdefault(BARE, bare)
    if not surrogates:
        return skipped(TRANSFER, "No other model was given to make pictures on, and no defence stands around this one.")
    if bool(bench.fooled.all()):
        return Check(TRANSFER, "pass", FOOLS_ALL, {})
    checks = []
    for name, surrogate in surrogates.items():
        objective = TaskObjective(bench.task, dataset=bench.dataset)
        inner = GradientSearch(steps=20, momentum=1.0)
        search = Transfer(surrogate=surrogate, search=inner, objective=objective)
        checks.append(_against(bench, TRANSFER, f"PGD on {name}", search, None))
    found = next(check for check in checks if check.status == worst([c.status for c in checks]))
    rest = [check.evidence for check in checks if check is not found]
    return Check(TRANSFER, found.status, " ".join([found.evidence, *rest]), found.numbers)


def _against(bench: Bench, name: str, words: str, search: Any, objective: Any) -> Check:
    try:
        other = bench.run(bench.attacker.with_search(search, None if objective is None else objective(bench)))
    except OptionError as error:
        return skipped(name, error.message)
    ahead = lead(other.success_8bit, bench.fooled)
    numbers = {"other": int(other.success_8bit.sum()), "fooled": int(bench.fooled.sum()), **ahead.numbers()}
    evidence = (
        f"Of {bench.count} samples {words} fools {numbers['other']}, the attack {numbers['fooled']}; "
        f"{ahead.extra} are fooled by the former alone."
    )
    if ahead.status == "fail":
        evidence += " Chance hardly gives such a lead: the attack under test is too weak here."
    return Check(name, ahead.status, evidence, numbers)
