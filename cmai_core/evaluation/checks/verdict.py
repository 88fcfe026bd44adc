"""What the probing checks come to together: several warnings are a failure, and few samples decide little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest

from cmai_core.evaluation.checks import comparison, effort, gradients, inference, strength
from cmai_core.evaluation.checks.check import SIGNIFICANCE, Check, skipped
from cmai_core.evaluation.checks.context import Bench

TOGETHER = "warnings about the attack's strength stay single"
ENOUGH = "the samples are enough to decide"

STRENGTH = (
    *(inference.OPTIMISES, inference.RANDOM, gradients.PRESENT, gradients.SLOPE),
    *(effort.BUDGET, effort.STEPS, effort.RAISES),
    *(strength.ROUNDED, strength.RISES, strength.SINGLE, strength.GROWS, strength.LARGE),
    *(strength.RESTARTS, strength.CONVERGED, comparison.NOISE, comparison.STANDARD, comparison.TARGETED),
    *(comparison.TRANSFER, comparison.SCORES),
)
"""Checks that ask whether the attack is as strong as an attack may be."""

# A model that stands honestly draws a warning now and then, since each check looks at few samples; three at once are
# what a defence draws that hides from the attack.
SEVERAL = 3
# Fewer samples than these left to fool, and no other attack can be shown to be ahead: five of its own are the least.
LEAST = 5
# Samples are recommended up to so many times those that were used.
MOST_TIMES = 16


def together(checks: Sequence[Check]) -> Check:
    """Fail where several checks of strength warn, though each alone might be chance."""
    warned = [check.name for check in checks if check.status == "warn" and check.name in STRENGTH]
    made = [check for check in checks if check.status != "skipped" and check.name in STRENGTH]
    if not made:
        return skipped(TOGETHER, "No check of strength was made.")
    numbers = {"warnings": len(warned), "of": len(made), "names": warned}
    if len(warned) < SEVERAL:
        evidence = f"{len(warned)} of {len(made)} checks of strength warn; from {SEVERAL} on it counts as a failure."
        return Check(TOGETHER, "pass", evidence, numbers)
    evidence = (
        f"{len(warned)} of {len(made)} checks of strength warn at once, which chance hardly does: the figures say more "
        f"about the attack than about the model. These are: {'; '.join(warned)}."
    )
    return Check(TOGETHER, "fail", evidence, numbers)


def enough(bench: Bench, checks: Sequence[Check], asked: int) -> Check:
    """Say how many samples would decide what these leave open.

    Args:
        asked: samples that were used, right when clean or not.
    """
    left = bench.count - int(bench.fooled.sum())
    numbers: dict[str, Any] = {"samples": asked, "right": bench.count, "not_fooled": left}
    if not left:
        return Check(ENOUGH, "pass", "The attack fools every sample, so there is nothing to decide.", numbers)
    if left < LEAST:
        numbers["recommended"] = wanted = min(MOST_TIMES * asked, math.ceil(asked * 2 * LEAST / left))
        evidence = (
            f"Of {bench.count} samples that are right when clean the attack leaves {left}; with fewer than {LEAST} no "
            f"other attack can be shown to be ahead. Use {wanted} samples or more."
        )
        return Check(ENOUGH, "warn", evidence, numbers)
    open_ = [check for check in checks if check.status == "warn" and "only_other" in check.numbers]
    if not open_:
        evidence = f"The attack leaves {left} of {bench.count} samples, and no comparison is undecided."
        return Check(ENOUGH, "pass", evidence, numbers)
    times = max(_times(check.numbers) for check in open_)
    numbers["recommended"] = wanted = times * asked
    evidence = (
        f"{len(open_)} comparison{'' if len(open_) == 1 else 's'} with another attack cannot be decided on "
        f"{bench.count} samples. Use {wanted} samples or more, which would decide were the lead to stay as it is."
    )
    return Check(ENOUGH, "warn", evidence, numbers)


def _times(numbers: Any) -> int:
    """Return how many times the samples a lead must be found on, were it to stay, for the sign test to decide."""
    extra, differing = numbers["only_other"], numbers["only_other"] + numbers["only_tested"]
    for times in range(2, MOST_TIMES):
        if binomtest(times * extra, max(1, times * differing), 0.5, alternative="greater").pvalue < SIGNIFICANCE:
            return times
    return MOST_TIMES
