"""Self-checks of another package: one of the predictions of an evaluation, and one that probes a model."""

from cmai_core.evaluation.checks.check import Check


def enough_rows(rows) -> Check:
    """Warn of a table with few rows."""
    return Check("a hundred rows", "warn", f"{len(rows.frame)} rows.")


def patient(bench) -> Check:
    """Pass, whatever the attack."""
    return Check("patience", "pass", f"{len(bench.everyone.ids)} samples.")


def use() -> object:
    """Find both among the checks that are made."""
    from other.models import load
    from other.pictures import noise

    from cmai_core.evaluation.checks.from_predictions import CHECKS
    from cmai_core.evaluation.checks.probing import probe, probe_names

    made = probe(load("tiny:7"), "zero-shot", noise(), epsilon=8 / 255, attack="fgsm", samples=4, only=["patience"])
    return [check.name for check in made] == ["patience"] and "patience" in probe_names() and "a hundred rows" in CHECKS
