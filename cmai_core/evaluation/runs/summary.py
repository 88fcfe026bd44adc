"""The report of an attack in a few lines."""

from __future__ import annotations

from typing import Any

from cmai_core.budget import Budget


def summary(data: dict[str, Any]) -> list[str]:
    """Say a report in a few lines, every share with its count.

    Args:
        data: `AttackReport.data`, or what `cmai attack --json` wrote.
    """
    experiment = data["experiment"]
    words = [f"{experiment['task']} on {experiment['dataset']}/{experiment['split']}"]
    if experiment["recipe"]:
        words.append(experiment["recipe"])
    if experiment["norm"]:
        words.append(f"{experiment['norm']} {Budget(experiment['norm'], experiment['epsilon']).words}")
    if experiment["steps"]:
        words.append(f"{experiment['steps']} steps")
    lines = [", ".join([*words, f"objective {data['attack']['objective']}"])]
    rates = data["rates"]
    text = [f"{name.replace('_', ' ')} {_part(rate)}" for name, rate in rates.items()]
    if len(rates) > 1:
        lines.append(f"{data['attack']['success']}: {', '.join(text)}")
    for spec, totals in data["summary"].items():
        role = "crafted on" if spec == experiment["model"] else "transferred to"
        lines.append(
            f"{role} {spec}: clean {_part(totals['accuracy_clean'])}, robust {_part(totals['accuracy_robust'])}, "
            f"ASR {_part(totals['asr'])}, S_c {_score(totals['consistency_clean'])} → "
            f"{_score(totals['consistency_attacked'])}"
        )
    return lines


def _part(share: dict[str, Any]) -> str:
    if share["hits"] is None:
        return "– (unknown)"
    percent = "–" if share["share"] is None else f"{100 * share['share']:.1f} %"
    return f"{percent} ({share['hits']}/{share['total']})"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
