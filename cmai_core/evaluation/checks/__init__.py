"""Self-checks of an evaluation: does it measure the model, or the weakness of the attack?

    checks = check_predictions(frame)                                   # from a finished evaluation
    checks = probe(model, "retrieval", dataset, epsilon=4 / 255)           # small experiments on a few samples
    print(report(checks))

After Carlini et al. 2019, "On Evaluating Adversarial Robustness" (arXiv 1902.06705), §4 and §5, and the flags that
AutoAttack (Croce and Hein 2020) raises. Each check is a `Check`: pass, warn, fail or skipped, with its evidence.
"""

from cmai_core.evaluation.checks.check import STATUSES, Check, report, worst
from cmai_core.evaluation.checks.from_predictions import check_predictions

__all__ = ["STATUSES", "Check", "check_predictions", "probe", "report", "worst"]


def __getattr__(name: str):
    if name == "probe":  # imports torch; the checks of a frame do not need it
        from cmai_core.evaluation.checks.probing import probe

        return probe
    raise AttributeError(name)
