"""Checks of the gradients an attack climbs by: there, finite, fine enough, and pointing uphill.

Gradients that mislead make a model look robust that is not (Athalye et al. 2018, arXiv 1802.00420); AutoAttack's flag
"zero gradient"; "approximate non-differentiable layers" (Carlini et al. 2019, §5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cmai_core.attacks.engine.evaluator import Evaluator
from cmai_core.errors import OptionError
from cmai_core.evaluation.checks.check import Check, share, skipped
from cmai_core.evaluation.checks.context import SAME, Bench
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.seeds import sample_generators

# AutoAttack warns of a single point without gradient. Where it is every tenth, robust accuracy is off by so much.
ZERO_SHARE = 0.1
# Parts of a picture may have no say (a crop, dead units); more than half is worth a look.
EXACT_ZEROS = 0.5
# Gradients of full precision nearly all differ. No more magnitudes than 8 bits have: they were quantised. Less than a
# tenth of the entries: half precision, or a coarse stand-in.
EIGHT_BITS, DISTINCT_SHARE = 256, 0.1
# A short step along the gradient's signs always raises a smooth loss, and an unrelated one every second time.
UPHILL, UNRELATED = 0.9, 0.6
# A derivative agrees with differences of the loss up to curvature and rounding; where it is off by half, it is none.
DISAGREEMENT = 0.5
# Half-widths of the differences as shares of ε: one is short enough for curvature and long enough for rounding.
WIDTHS = (1 / 64, 1 / 16, 1 / 4)
STEP = 1 / 10

PRESENT = "gradients are there: not zero, finite, not quantised"
SLOPE = "gradients are the slope of the loss"


@dataclass(frozen=True)
class StartGradients:
    """Where gradients are looked at: a random point of the budget, as attacks start there (and as AutoAttack looks).

    Attributes:
        evaluator: scores. start: N×3×H×W; value, gradient: the objective there (N) and its gradient (N×3×H×W).
        clean: the gradient at the clean pictures.
    """

    evaluator: Evaluator
    start: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    clean: torch.Tensor


def start_gradients(bench: Bench) -> StartGradients:
    """Return gradients as the attack's search gets them.

    Raises:
        OptionError: no gradient reaches the pixels.
    """
    pixels, ids = bench.batch.pixels, bench.batch.ids
    region = bench.attacker.base.threat.around(pixels)
    start = region.random_start(sample_generators(bench.seed, [f"{sample}/check" for sample in ids], 0))
    with evaluation_mode(bench.model):
        evaluator = bench.evaluator()
        clean = evaluator.value_and_grad(pixels)[1]
        found, gradient = evaluator.value_and_grad(start)
    return StartGradients(evaluator, start, found.value, gradient, clean)


def gradients(bench: Bench) -> list[Check]:
    """Make both checks of gradients."""
    if not bench.white_box:
        why = "The attacker of this view of the system sees no gradients."
        return [skipped(PRESENT, why), skipped(SLOPE, why)]
    try:
        begun = start_gradients(bench)
    except OptionError as error:
        why = f"No gradient reaches the pixels, so attacks by gradients cannot work: {error.message}"
        return [Check(PRESENT, "fail", why, {"samples": bench.count}), skipped(SLOPE, "There is no gradient.")]
    return [present(begun), slope(bench, begun)]


def present(begun: StartGradients) -> Check:
    """Check that gradients are neither zero, nor infinite or not a number, nor made of a few values."""
    gradient = begun.gradient.flatten(1)
    count = len(gradient)
    finite = gradient.isfinite().all(dim=1) & begun.value.isfinite() & begun.clean.flatten(1).isfinite().all(dim=1)
    size = gradient.abs()
    nothing = (size.amax(dim=1) == 0) & finite
    exact = float((size[finite] == 0).double().mean()) if bool(finite.any()) else float("nan")
    alive = size[finite & ~nothing]
    distinct = [len(row[row > 0].unique()) for row in alive]
    entries = [int((row > 0).sum()) for row in alive]
    middle = (
        sorted(range(len(distinct)), key=lambda k: distinct[k] / entries[k])[len(distinct) // 2] if distinct else -1
    )
    numbers: dict[str, Any] = {
        "samples": count,
        "not_finite": int((~finite).sum()),
        "zero": int(nothing.sum()),
        "zero_clean": int((begun.clean.flatten(1).abs().amax(dim=1) == 0).sum()),
        "share_exact_zeros": exact,
        "distinct": distinct[middle] if distinct else 0,
        "entries": entries[middle] if distinct else 0,
    }
    coarse = _coarse(numbers["distinct"], numbers["entries"])
    evidence = (
        f"At a random point within the budget the gradient is not finite for {share(numbers['not_finite'], count)}, "
        f"exactly zero for {share(numbers['zero'], count)}; of all its entries {100 * exact:.0f} % are zero, and the "
        f"median sample has {numbers['distinct']} different magnitudes in {numbers['entries']} entries."
    )
    if numbers["not_finite"] or numbers["zero"] >= ZERO_SHARE * count or coarse == "fail":
        if numbers["zero"]:
            evidence += (
                " Where it is zero, attacks by gradients stand still: the loss is saturated or not differentiable."
            )
        return Check(PRESENT, "fail", evidence, numbers)
    if numbers["zero"] or exact > EXACT_ZEROS or coarse == "warn":
        return Check(PRESENT, "warn", evidence, numbers)
    return Check(PRESENT, "pass", evidence, numbers)


def _coarse(distinct: int, entries: int) -> str:
    if distinct <= EIGHT_BITS and distinct < DISTINCT_SHARE * entries:
        return "fail"
    return "warn" if distinct < DISTINCT_SHARE * entries else "pass"


def slope(bench: Bench, begun: StartGradients) -> Check:
    """Check that the gradient agrees with differences of the loss itself.

    A short step along its signs must raise the loss; and along a random direction the loss must change by what the
    gradient says, at one of several widths at least.
    """
    if bench.random > SAME:
        return skipped(SLOPE, "The model is random: differences of its loss measure its randomness.")
    if bench.attacker.norm not in ("linf", "l2"):
        return skipped(SLOPE, f"A budget of {bench.attacker.norm} has no length to take short steps of.")
    gradient, start, evaluator = begun.gradient, begun.start, begun.evaluator
    usable = (gradient.flatten(1).isfinite().all(dim=1)) & (gradient.flatten(1).abs().amax(dim=1) > 0)
    if not bool(usable.any()):
        return skipped(SLOPE, "There is no gradient that could be compared.")
    reach = bench.epsilon if bench.attacker.norm == "linf" else bench.epsilon / start[0].numel() ** 0.5
    generators = sample_generators(bench.seed, [f"{sample}/direction" for sample in bench.batch.ids], 0)
    drawn = [torch.rand(start.shape[1:], generator=g, dtype=start.dtype) < 0.5 for g in generators]
    direction = torch.where(torch.stack(drawn).to(start.device), 1.0, -1.0).to(start)
    with evaluation_mode(bench.model):
        up = evaluator.score((start + STEP * reach * gradient.sign()).clamp(0, 1), success=False).value > begun.value
        told, seen = _differences(evaluator, start, gradient, direction, reach)
    error = ((told - seen).abs() / torch.maximum(told.abs(), seen.abs()).clamp(min=1e-30)).amin(dim=0)[usable]
    total = int(usable.sum())
    numbers = {
        "samples": total,
        "uphill": int(up[usable].sum()),
        "disagreement": float(error.median()),
    }
    rising = numbers["uphill"] / total
    evidence = (
        f"A short step along the gradient's signs raises the loss of {share(numbers['uphill'], total)}; along a random "
        f"direction the loss changes as the gradient says up to {100 * numbers['disagreement']:.1f} % (median)."
    )
    if rising < UNRELATED:
        return Check(SLOPE, "fail", f"{evidence} An unrelated direction would raise every second one.", numbers)
    if numbers["disagreement"] > DISAGREEMENT:
        evidence += (
            " So the loss moves by jumps (a model that rounds its input, for instance), and the gradient is a stand-in "
            "for its slope: run attacks by scores beside those by gradients."
        )
        return Check(SLOPE, "warn", evidence, numbers)
    if rising < UPHILL:
        return Check(SLOPE, "warn", evidence, numbers)
    return Check(SLOPE, "pass", evidence, numbers)


def _differences(
    evaluator: Evaluator, start: torch.Tensor, gradient: torch.Tensor, direction: torch.Tensor, reach: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the gradient says the objective does between two points on either side, and what it does: W×N."""
    told, seen = [], []
    for width in WIDTHS:
        ahead, behind = ((start + sign * width * reach * direction).clamp(0, 1) for sign in (1, -1))
        told.append(((ahead - behind) * gradient).flatten(1).sum(dim=1))
        seen.append(evaluator.score(ahead, success=False).value - evaluator.score(behind, success=False).value)
    return torch.stack(told), torch.stack(seen)
