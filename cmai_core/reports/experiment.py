"""Reports of experiments of the lab: one with everything, or several side by side."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cmai_core import __version__
from cmai_core.errors import OptionError
from cmai_core.lab.belonging import in_force, pair_words
from cmai_core.lab.experiment_file import write_experiment
from cmai_core.lab.images import data_url, perturbation_gain, perturbation_numbers, perturbation_view
from cmai_core.reports.charts import Point, Series, line_chart
from cmai_core.reports.looks import ROLES
from cmai_core.reports.page import number, render

if TYPE_CHECKING:
    from cmai_core.lab.again import Compared
    from cmai_core.lab.result import Answer, Example, LabResult, PairPrediction
    from cmai_core.lab.verdict import LabVerdict

MOST = 60
"""Experiments of one report: each brings its pictures."""
FILE = "cmai-experiment.json"


def experiment_report(
    result: LabResult,
    verdict: LabVerdict | None = None,
    *,
    upload: bytes | None = None,
    compared: Sequence[Compared] = (),
) -> str:
    """Return the report of one experiment, as HTML.

    Args:
        verdict: what CMCV said of the pairs. upload: PNG of the visitor's own picture, where the pair is one.
        compared: the result held against a file (`lab.again.compare_with_file`).
    """
    return render(
        "experiment.html.j2",
        title=f"What the attack did to “{_short(result.experiment.caption)}”",
        findings=findings(result),
        one=_experiment(result),
        charts=_charts(result),
        verdicts=_verdicts(verdict),
        compared=[_compared(row) for row in sorted(compared, key=lambda row: row.outcome == "equal")],
        compared_note=_compared_note(compared),
        settings=_settings(result),
        setup=_setup(result),
        plain=json.dumps(result.experiment.to_dict(), indent=1, ensure_ascii=False),
        command=f"cmai report {FILE} --again --out report.html",
        file=_file(result, FILE, upload, verdict),
        version=__version__,
        written=_today(),
    )


def experiments_report(results: Sequence[LabResult], title: str = "") -> str:
    """Return the report of several experiments, as HTML: a slice of a data set with what an attack did to each pair.

    Raises:
        OptionError: none, or more than MOST.
    """
    if not 0 < len(results) <= MOST:
        raise OptionError(f"{len(results)} experiments are given.", f"A report holds 1 to {MOST}.")
    names = [f"cmai-experiment-{k + 1}.json" for k in range(len(results))]
    experiments = [
        _experiment(result) | {"settings": [*_settings(result), *_setup(result)], "file": _file(result, name)}
        for result, name in zip(results, names, strict=True)
    ]
    count = len(results)
    return render(
        "slice.html.j2",
        title=title or f"{count} experiment{'' if count == 1 else 's'}",
        lead=_lead(results),
        experiments=experiments,
        overview=[row for result in results for row in _overview(result)],
        command=f"cmai report {' '.join(names)} --again --out report.html",
        version=__version__,
        written=_today(),
    )


# --- what an experiment came to, in words -----------------------------------------------------------------------------


def findings(result: LabResult) -> list[str]:
    """Return the outcome, a sentence for each model."""
    said = []
    for role, prediction in result.predictions.items():
        name = f"{role}, {prediction.name}"
        if not prediction.attacked:
            said.append(f"{name}: not attacked, as the attack was cancelled before its turn.")
            continue
        broken, right = prediction.broken_tasks()
        tail = f", {broken} of {right} right answers lost" if right else ""
        said.append(f"{name}: S_c {number(prediction.clean)} → {number(prediction.adversarial)}{tail}.")
    return said


def _lead(results: Sequence[LabResult]) -> str:
    changes = [p.change for result in results for p in result.attacked.values() if p.change is not None]
    if not changes:
        return "No model was shown an attack."
    fell = sum(change < 0 for change in changes)
    return f"S_c falls in {fell} of {len(changes)} cases; on average it changes by {sum(changes) / len(changes):+.3f}."


def _overview(result: LabResult) -> list[tuple[Any, ...]]:
    rows = []
    for prediction in result.predictions.values():
        broken, right = prediction.broken_tasks()
        change = "–" if prediction.change is None else f"{prediction.change:+.3f}".replace("-", "−")
        rows.append(
            (
                pair_words(result.experiment), result.experiment.caption, prediction.name, number(prediction.clean),
                number(prediction.adversarial), change, f"{broken} of {right}" if right else "–",
            )
        )  # fmt: skip
    return rows


def _experiment(result: LabResult) -> dict[str, Any]:
    experiment, example = result.experiment, result.first_example
    known = in_force(experiment)
    return {
        "pair": pair_words(experiment),
        "sentence": caption_parts(experiment.caption, example.caption or experiment.caption),
        "truth": _truth(example),
        "attack": _attack(known),
        "examples": [_example(one) for one in result.examples.values() if one.begun],
        "scores": [_scores(prediction) for prediction in result.predictions.values()],
        "answers": [row for prediction in result.predictions.values() for row in _answers(prediction)],
    }


def _attack(known: Mapping[str, tuple[str, str]]) -> str:
    """Return search, threat model and budget, then what else was set, by name."""
    first = [known[name][1] for name in ("search", "threat model") if name in known]
    rest = [
        f"{name} {value}"
        for name, (kind, value) in known.items()
        if kind == "setting" and name not in ("search", "threat model")
    ]
    return " · ".join([*first, *rest])


def caption_parts(before: str, after: str) -> list[tuple[str, str]]:
    """Return the attacked sentence in parts: ("same" | "gone" | "came", text)."""
    old, new = (re.findall(r"\S+|\s+", text) for text in (before, after))
    parts = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, came = "".join(old[a:b]), "".join(new[c:d])
        parts += [("same", came)] if kind == "equal" else [("gone", gone), ("came", came)]
    return [(kind, text) for kind, text in parts if text.strip() or kind == "same"]


def _truth(example: Example) -> str:
    if not example.caption:
        return ""
    known = {True: "still true of the scene", False: "false of the scene", None: "of a scene that nobody knows here"}
    return f"The attacked sentence is {known[example.true]}."


def _example(example: Example) -> dict[str, Any]:
    gain = perturbation_gain(example.clean, example.adversarial)
    numbers = perturbation_numbers(example.clean, example.adversarial)
    psnr = "∞" if numbers["psnr"] == float("inf") else f"{numbers['psnr']:.1f} dB"
    note = (
        f"Made on model {example.role} in {example.steps_done} steps; largest change {numbers['linf']:.0f}/255, root "
        f"mean square {numbers['rms']:.2f}/255, {numbers['changed']:.0%} of the values changed, PSNR {psnr}."
    )
    if example.success is not None:
        note += " The attack succeeded." if example.success else " The attack did not succeed."
    if example.cancelled:
        note += " It was cancelled: this is the best until then."
    return {
        "clean": data_url(example.clean),
        "attacked": data_url(example.adversarial),
        "change": data_url(perturbation_view(example.clean, example.adversarial, gain)),
        "gain": gain,
        "note": f"{note} {example.note}".strip(),
    }


def _scores(prediction: PairPrediction) -> dict[str, Any]:
    return {
        "look": ROLES[prediction.role],
        "role": prediction.role,
        "name": prediction.name,
        "clean": prediction.clean,
        "attacked": prediction.adversarial,
        "change": prediction.change,
        "before": prediction.float_score,
        "jpeg": prediction.jpeg_score,
        "tau": prediction.tau,
        "shown": f"what was made on {prediction.picture}" if prediction.transferred else "its own attack",
    }


def _answers(prediction: PairPrediction) -> list[tuple[str, ...]]:
    return [
        (prediction.role, task, clean.prompt, _said(clean), _said(attacked))
        for task, (clean, attacked) in prediction.answers.items()
    ]


def _said(answer: Answer) -> str:
    return {True: "✓ ", False: "✗ ", None: ""}[answer.correct] + (answer.text or "(nothing)")


def _charts(result: LabResult) -> list[Markup]:
    made = []
    for name, word in (("score_trace", "S_c"), ("objective_trace", "The objective")):
        series = [
            Series(f"{word} on {role}", ROLES[role], [Point(k, y, f"step {k}: {number(y)}") for k, y in enumerate(ys)])
            for role, example in result.examples.items()
            if len(ys := getattr(example, name)) > 1
        ]
        if series:
            ends = series[0].points[0].y, series[0].points[-1].y
            title = f"{word} goes from {number(ends[0])} to {number(ends[1])}"
            made.append(line_chart(series, title=title, x_label="step"))
    return made


def _verdicts(verdict: LabVerdict | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for role, found in verdict.roles.items() if verdict is not None else ():
        for side, (word, text, one) in enumerate(zip(("clean", "attacked"), found.texts, found.verdicts, strict=True)):
            accepted = [f"{rate:.0%}" for rate in found.rates if found.consistent(side, rate)]
            rates = ", ".join(accepted) if accepted else "none" if found.rates else "no thresholds are known"
            verified = "–" if one.log_v is None else f"{one.log_v:.2f} (log)".replace("-", "−")
            chance = "–" if one.probability is None else f"{one.probability:.1%}"
            rows.append((f"{role} {found.name}", word, text, number(one.s_c), verified, chance, rates))
    return rows


def _compared(row: Compared) -> tuple[str, ...]:
    def words(value: object) -> str:
        if value is None or isinstance(value, bool):
            return {None: "–", True: "yes", False: "no"}[value]
        return number(value) if isinstance(value, float) else str(value)

    marks = {"equal": "＝", "close": "≈", "different": "≠"}
    apart = "" if not row.distance else f"{row.distance:.2g}"
    return f"{marks.get(row.outcome, '–')} {row.outcome}", row.name, words(row.recorded), words(row.now), apart


def _compared_note(compared: Sequence[Compared]) -> str:
    equal = sum(row.outcome == "equal" for row in compared)
    return (
        f"{equal} of {len(compared)} values are exactly those of the file. On the same machine with the same versions "
        "all of them are; elsewhere S_c within 0.005 and sizes within 1/255 count as close."
    )


def _settings(result: LabResult) -> list[tuple[str, Any]]:
    return [(name, value) for name, (_, value) in in_force(result.experiment).items() if value != "none"]


def _setup(result: LabResult) -> list[tuple[str, Any]]:
    return [
        *((f"weights of {prediction.name}", prediction.hash) for prediction in result.predictions.values()),
        ("device", result.device),
        ("made", result.created),
        ("seconds", f"{result.seconds:g}"),
        *result.versions.items(),
    ]


def _file(
    result: LabResult, name: str, upload: bytes | None = None, verdict: LabVerdict | None = None
) -> dict[str, str]:
    data = base64.b64encode(write_experiment(result, upload, verdict)).decode()
    return {"name": name, "url": f"data:application/json;base64,{data}"}


def _short(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:67]}…"


def _today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
