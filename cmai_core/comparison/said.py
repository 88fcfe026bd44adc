"""Figures in what people write of the results: `{robust tabletop-cmai 2}` in the notes becomes what the tables say.

A sentence with a number copied by hand stays behind when the number changes, and one picked from a table hides the
rest of it. So notes name what they mean, and the page is filled in from the published results, with the range wherever
a sentence is about several models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from cmai_core.comparison.correction import PART as CORRECTION
from cmai_core.comparison.correction import taken
from cmai_core.comparison.protocol import PROTOCOL, Protocol
from cmai_core.comparison.results import Result
from cmai_core.comparison.tables import points
from cmai_core.comparison.verdicts import Verdict, difference, share, success_rate
from cmai_core.errors import DataError
from cmai_core.training.recipes import RECIPES

Results = Mapping[str, Result]
UNKNOWN = "–"
_ASKED = re.compile(r"\{([^{}]+)\}")


def filled(notes: str, results: Results, protocol: Protocol = PROTOCOL) -> str:
    """Return notes with every `{question}` answered; "–" where the figure was not measured.

    Questions: `asr MODEL ε`, `robust MODEL ε [TASK]`, `gap MODEL OTHER ε [TASK]` (points with the interval), `gained
    MODEL OTHER ε` (of what the other gains over the base, in per cent), `taken MODEL ε` (by the targeted attack, of how
    many), `left MODEL ε` (after it, per cent of all scenes), `clean MODEL` (the points each clean figure is over the
    base, least and most), `auroc SCORE clean|ε` (V, S_c, cosine: the defended models' least and most), `flagged SET`
    (per cent of clean pairs), `slower POLICY` and `slower POLICY flagged` (times the model alone), `won POLICY` (points
    over no policy, attacked).

    Raises:
        DataError: a question that is not known.
    """

    def answer(match: re.Match[str]) -> str:
        word, *rest = match[1].split()
        if word not in _ANSWERS:
            raise DataError(f"The notes ask for {match[0]}.", f"Known: {', '.join(_ANSWERS)}.")
        return _ANSWERS[word](results, protocol, *rest)

    return _ASKED.sub(answer, notes)


def _verdict(results: Results, name: str, epsilon: str, task: str = "retrieval") -> Verdict | None:
    part = "main" if task == "retrieval" else "captions" if task == "captioning" else "tasks"
    return results[name].verdict(part, float(epsilon), task) if name in results else None


def _asr(results: Results, protocol: Protocol, name: str, epsilon: str) -> str:
    found = _verdict(results, name, epsilon)
    return UNKNOWN if found is None else f"{100 * success_rate(found)['value']:.0f}"


def _robust(results: Results, protocol: Protocol, name: str, epsilon: str, task: str = "retrieval") -> str:
    found = _verdict(results, name, epsilon, task)
    return UNKNOWN if found is None else f"{100 * share(found.held)['value']:.1f}"


def _gap(results: Results, protocol: Protocol, one: str, other: str, epsilon: str, task: str = "retrieval") -> str:
    found = [_verdict(results, name, epsilon, task) for name in (one, other)]
    return UNKNOWN if None in found else points(difference(*(verdict.held for verdict in found)))


def _gained(results: Results, protocol: Protocol, one: str, other: str, epsilon: str) -> str:
    found = [_verdict(results, name, epsilon) for name in (protocol.base, one, other)]
    if None in found:
        return UNKNOWN
    base, own, theirs = (share(verdict.held)["value"] for verdict in found)
    return UNKNOWN if theirs <= base else f"{100 * (own - base) / (theirs - base):.0f}"


def _taken(results: Results, protocol: Protocol, name: str, epsilon: str) -> str:
    found = results[name].verdict(CORRECTION, float(epsilon)) if name in results else None
    return UNKNOWN if found is None else "{} of {}".format(*taken(found))


def _left(results: Results, protocol: Protocol, name: str, epsilon: str) -> str:
    found = results[name].verdict(CORRECTION, float(epsilon)) if name in results else None
    return UNKNOWN if found is None else f"{100 * share(found.held)['value']:.1f}"


def _clean(results: Results, protocol: Protocol, name: str) -> str:
    measures = [(t, m) for t, m in (("zero-shot", "accuracy"), ("vqa", "accuracy"), ("nlvr", "accuracy"))]
    measures += [("retrieval", m) for m in ("image_to_text_r1", "text_to_image_r1")] + [("captioning", "fact_f1")]
    own, base = (results[n].parts.get("clean", {}) if n in results else {} for n in (name, protocol.base))
    gaps = []
    for task, measure in measures:
        found = [part.get(task, {}).get(measure) for part in (own, base)]
        if None not in found:
            gaps.append(100 * (found[0]["value"] - found[1]["value"]))
    return _range(gaps, "{:+.1f}")


def defended(results: Results) -> dict[str, Result]:
    """Return the models whose training perturbs pictures while their own towers learn."""
    names = [r.model_name for r in RECIPES.values() if r.adversarial_share > 0 and r.trained]
    return {name: results[name] for name in results if name in names}


def _auroc(results: Results, protocol: Protocol, score: str, column: str) -> str:
    every = results if column == "clean" else defended(results)
    aligned = [(r.parts.get("detection") or {}).get("aligned", {}).get(column, {}) for r in every.values()]
    values = [v["value"] for one in aligned for k, v in one.items() if k.partition(",")[0] == score and k != "quantile"]
    return _range(values, "{:.2f}")


def _flagged(results: Results, protocol: Protocol, name: str) -> str:
    from cmai_core.models import bundled_models

    rate, found = f"{protocol.rates[-1]:g}", []
    for card in bundled_models():
        rules = card.card.get("cmcv", {}).get("rates", {}).get(name, {})
        rule = next((r for r in ("either", "S_c") if r in rules), "")
        if rule and card.name in results:
            found.append(100 * rules[rule][rate]["rate"])
    return _range(found, "{:.0f}")


def _slower(results: Results, protocol: Protocol, *words: str) -> str:
    flagged = words[-1] == "flagged"
    policy, key = " ".join(words[: -1 if flagged else None]), "flagged_ratio" if flagged else "ratio"
    heads = (r.parts.get("policies") or {} for name, r in results.items() if name != protocol.base)
    return _range((found[policy][key] for found in heads if key in found.get(policy, {})), "{:.1f}")


def _won(results: Results, protocol: Protocol, *words: str) -> str:
    policy, gaps = " ".join(words), []
    for result in results.values():
        found = result.parts.get("policies") or {}
        if policy in found:
            own, none = (share(found[name]["attacked"])["value"] for name in (policy, "none"))
            gaps.append(100 * (own - none))
    return _range(gaps, "{:.1f}")


def _range(values: Iterable[float], form: str) -> str:
    known = list(values)
    if not known:
        return UNKNOWN
    low, high = (form.format(round(v, 6)).replace("-", "−") for v in (min(known), max(known)))
    return low if low == high else f"{low} to {high}"


_ANSWERS: dict[str, Callable[..., str]] = {
    "asr": _asr,
    "robust": _robust,
    "gap": _gap,
    "gained": _gained,
    "taken": _taken,
    "left": _left,
    "clean": _clean,
    "auroc": _auroc,
    "flagged": _flagged,
    "slower": _slower,
    "won": _won,
}
