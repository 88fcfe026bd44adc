"""Lesson 6: detection, and the attacker who knows of the detector; from the published results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmai_core.lab.exhibits import Bar, Bars, Exhibit, Table, Words, share_bar
from cmai_core.lab.lessons.lesson import Choice, Lesson, Number, Setting, Step
from cmai_core.lab.published import published, short

_MODEL = "tabletop-cmai"
_EPSILON = 2.0
_RATE = "0.05"
_RULE = "CMCV, given"
_COMPARED = ("CMCV, given", "energy", "feature squeezing", "nearest neighbours", "Mahalanobis")


def entry(detector: str) -> Mapping[str, Any]:
    """Return what was measured of a detector on successful attacks of all families."""
    from cmai_core.comparison.tables import detector_entry

    return detector_entry(published()[_MODEL], detector, _EPSILON)


def safe() -> tuple[dict[str, float], dict[str, float]]:
    """Return the share of attacked scenes that are right or rejected: the attacker unaware of CMCV, and aware.

    Both on the same first scenes.
    """
    from cmai_core.comparison.tables import either
    from cmai_core.comparison.verdicts import share

    parts = published()[_MODEL].parts
    aware, unaware = parts["aimed"]["given"]["held"], parts["policies"]["reject"]
    held = either(unaware["attacked"], unaware["attacked_rejected"])[: len(aware)]
    return share(held), share(aware)


def turned() -> dict[str, dict[str, float]]:
    """Return how often an attacker turns the verdict itself: false captions accepted, true pairs rejected."""
    from cmai_core.comparison.verdicts import marks, rights, share

    out = {}
    for words, name in (("false captions accepted", "accept false"), ("true pairs rejected", "reject true")):
        found = published()[_MODEL].parts["aimed"][name]
        out[words] = share(marks((~rights(found["held"])[rights(found["clean"])]).tolist()))
    return out


def _setup(setting: Setting) -> tuple[Exhibit, ...]:
    found = entry(_RULE)
    words = (
        f"The model is “{short(_MODEL)}”. Its detector looks at pairs: {found['clean']} clean ones and "
        f"{found['successes']} that an attack at ε = {_EPSILON:g}/255 has turned wrong. They do not know of it."
    )
    return (Words(words),)


def _area(setting: Setting) -> Number:
    found = entry(_RULE)["auroc"]
    because = f"The 95 % interval is {found['low']:.2f} to {found['high']:.2f}. Tossing a coin gives 0.5."
    prompt = "The area under the ROC curve (AUROC): how well does consistency verification tell them apart?"
    return Number(prompt, 0, 1, 0.01, found["value"], 0.08, because)


def _areas(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    bars = []
    for name in _COMPARED:
        area = entry(name)["auroc"]
        role = "A" if name == _RULE else "clean"
        bars.append(Bar(name, area["value"], f"{area['value']:.2f}", role, area["low"], area["high"]))
    best = max(bars, key=lambda bar: bar.value)
    return (Bars(f"{best.label} has the largest area, {best.value:.2f}", bars, level=(0.5, "chance")),)


def _found(setting: Setting) -> Number:
    found = entry(_RULE)
    rate, said = found["tpr"][_RATE], found["fpr"][_RATE]
    because = f"{rate['hits']} of {rate['total']}; of the clean pairs it flags {said['value']:.1%}."
    prompt = (
        f"Its threshold is set to flag {float(_RATE):.0%} of clean pairs. How many of the attacked ones does it flag?"
    )
    return Number(prompt, 0, 100, 1, 100 * rate["value"], 8, because, "%")


def _rates(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    found = entry(_RULE)
    bars = [
        share_bar("clean pairs flagged", found["fpr"][_RATE], "clean"),
        share_bar("attacked pairs flagged", found["tpr"][_RATE], "adversarial"),
    ]
    return (Bars(f"At a threshold that one can afford, {bars[1].said} of the attacked pairs are found", bars),)


_CHANGES = ("it stays the same within 5 points", "it falls", "it rises")


def _aware(setting: Setting) -> Choice:
    unaware, aware = (found["value"] for found in safe())
    right = 0 if abs(unaware - aware) <= 0.05 else 1 if aware < unaware else 2
    because = f"Right or rejected: {unaware:.0%} with the unaware attacker, {aware:.0%} with the aware one."
    prompt = (
        "Now the attacker knows the detector and stays above its threshold. What becomes of the share that is safe?"
    )
    return Choice(prompt, _CHANGES, right, because)


def _both(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    unaware, aware = safe()
    bars = [share_bar("attacker unaware", unaware, "clean"), share_bar("attacker aware", aware, "adversarial")]
    gap = 100 * (aware["value"] - unaware["value"])
    title = f"Right or rejected, same scenes: {gap:+.0f} points".replace("-", "−")
    return (Bars(title, bars), Words("A detector is measured by the attacker who knows it (Carlini and Wagner 2017)."))


def _verdict(setting: Setting) -> Choice:
    found = turned()
    values = [share["value"] for share in found.values()]
    because = " ".join(f"{words.capitalize()}: {share['value']:.0%}." for words, share in found.items())
    prompt = "An attacker may aim at the verdict itself. Which is easier?"
    return Choice(
        prompt, ("to have a false caption accepted", "to have a true pair rejected"), values.index(max(values)), because
    )


def _turned(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    found = turned()
    bars = [share_bar(words, share, "adversarial") for words, share in found.items()]
    rows = [{"aim": words, "turned": f"{s['hits']} of {s['total']}"} for words, s in found.items()]
    return (
        Bars(f"The verdict can be turned, too: {max(bars, key=lambda b: b.value).label} most often", bars),
        Table("Counts", rows),
    )


LESSON = Lesson(
    "detection",
    "Detection, and the attacker who knows",
    "See a detector at work, and what is left of it once the attacker knows of it.",
    10,
    (
        Step("How good is the detector?", "Guess the area under its curve.", _area, _setup, _areas),
        Step("At a rate one can afford", "Guess a share.", _found, _setup, _rates),
        Step("The attacker learns of it", "Commit before you look.", _aware, _setup, _both),
        Step("The verdict as a target", "Pick one.", _verdict, after=_turned),
    ),
    "Many detectors were broken because they had been measured with attackers who did not know of them "
    "(Carlini and Wagner "
    "2017, arXiv 1705.07263; Tramèr et al. 2020, arXiv 2002.08347). Ask after step 2 what the defender could "
    "still claim, "
    "and again after step 3.",
    "the published comparison, retrieval",
)
