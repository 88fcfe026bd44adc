"""Checks that the model answers an attacker at work as it answers everybody else.

An attack by gradients asks about pictures between the 256 levels of a file, and with gradients switched on. A model
that tells these questions from others can answer them otherwise, and look robust through that alone; what it protects
is not the picture that comes out in the end. An attacker who knows rounds every iterate, or asks for scores.
"""

from __future__ import annotations

from typing import Any

import torch

from cmai_core.attacks.result import LEVELS, round_to_8bit
from cmai_core.errors import OptionError
from cmai_core.evaluation.checks.check import Check, share, skipped
from cmai_core.evaluation.checks.context import SAME, Bench
from cmai_core.models.evaluation_mode import evaluation_mode
from cmai_core.seeds import sample_generators

LATTICE = "pictures of 8 bits are answered like those between the levels"
WATCHED = "the model answers the same with gradients as without"

# Of a smooth loss, the step to the nearest picture of 8 bits and the same step the other way change it by the same.
# Curvature makes them differ by a few per cent at such lengths; where the former is three times as far, for three
# quarters of the points, the model sees the difference between a file and what lies beside it.
FARTHER, QUARTERS = 3.0, 0.75
# Points tried for each sample.
POINTS = 4


def lattice(bench: Bench) -> Check:
    """Check that at random points in the budget, rounding to 8 bits changes the objective less than a step back."""
    if bench.random > SAME:
        return skipped(LATTICE, "The model is random: differences of its loss measure its randomness.")
    if getattr(bench.model, "knowledge", None) == "decisions":
        return skipped(LATTICE, "The attacker of this view of the system sees decisions alone.")
    pixels, ids = bench.batch.pixels, bench.batch.ids
    region = bench.attacker.base.threat.around(pixels)
    there, back = [], []
    with evaluation_mode(bench.model):
        evaluator = bench.evaluator()
        for point in range(POINTS):
            generators = sample_generators(bench.seed, [f"{sample}/between" for sample in ids], point)
            # The mirrored one lies in the box.
            inner = region.random_start(generators) * (LEVELS - 2) / LEVELS + 1 / LEVELS
            value = evaluator.score(inner, success=False).value
            on = round_to_8bit(inner)
            there.append((evaluator.score(on, success=False).value - value).double())
            back.append((evaluator.score(2 * inner - on, success=False).value - value).double())
    onto, beside = (float(torch.cat(found).abs().quantile(QUARTERS)) for found in (there, back))
    scale = max(1.0, float(value.abs().amax()))
    numbers: dict[str, Any] = {"points": POINTS * bench.count, "onto": onto, "beside": beside}
    evidence = (
        f"Rounding random points within the budget to 8 bits changes the objective by up to {onto:.3g} (three quarters "
        f"of {len(there) * bench.count} points), the same step the other way by up to {beside:.3g}."
    )
    if not onto <= max(FARTHER * beside, SAME * scale):
        evidence += (
            " So the model treats what a file can hold differently from what attacks by gradients climb through: round "
            "every iterate, or attack by scores on rounded pictures."
        )
        return Check(LATTICE, "fail", evidence, numbers)
    return Check(LATTICE, "pass", evidence, numbers)


def watched(bench: Bench) -> Check:
    """Check that the same pictures have the same objective whether or not their gradient is asked for."""
    if bench.random > SAME:
        return skipped(WATCHED, "The model is random: no two passes agree.")
    if not bench.white_box:
        return skipped(WATCHED, "The attacker of this view of the system sees no gradients.")
    with evaluation_mode(bench.model):
        evaluator = bench.evaluator()
        plain = evaluator.score(bench.batch.pixels, success=False).value.double()
        try:
            climbed = evaluator.value_and_grad(bench.batch.pixels)[0].value.double()
        except OptionError as error:
            return skipped(WATCHED, f"No gradient can be asked for: {error.message}")
    gap = (plain - climbed).abs() / plain.abs().clamp(min=1.0)
    differ, largest = int((~(gap <= SAME)).sum()), float(gap.nan_to_num(nan=float("inf")).max())
    numbers = {"samples": bench.count, "differ": differ, "largest": largest}
    evidence = (
        f"The objective of {share(differ, bench.count)} clean pictures is another when gradients are taken; the "
        f"largest relative difference is {largest:.1g}."
    )
    return Check(WATCHED, "fail" if differ else "pass", evidence, numbers)
