"""Lesson 5: transfer: who falls to whose attack, from the published results."""

from __future__ import annotations

from collections.abc import Mapping

from cmai_core.lab.exhibits import Bars, Exhibit, Table, Words, share_bar
from cmai_core.lab.lessons.lesson import Choice, Lesson, Number, Setting, Step
from cmai_core.lab.published import published, short

_EPSILON = 2.0
_SOURCES = ("tabletop", "tabletop-tecoa-b")
_TARGETS = ("tabletop", "tabletop-pgd-at", "tabletop-tecoa", "tabletop-cmai")
_FOCUS = "tabletop-cmai"
OWN = "its own"


def rate(target: str, source: str) -> Mapping[str, float]:
    """Return the attack success rate on a target of examples made on a source (`OWN`: white box), with its interval."""
    from cmai_core.comparison.verdicts import success_rate

    result = published()[target]
    if source == OWN:
        return success_rate(result.verdict("main", _EPSILON))
    return success_rate(result.verdict("transfer", _EPSILON, source=source))


def sources(target: str) -> dict[str, Mapping[str, float]]:
    """Return source → success rate on a target; a model's examples on itself are no transfer and are left out."""
    return {source: rate(target, source) for source in (OWN, *_SOURCES) if source != target}


def _setup(setting: Setting) -> tuple[Exhibit, ...]:
    words = (
        f"Every attack here has ε = {_EPSILON:g}/255. “{short(_SOURCES[0])}” is undefended; “{short(_SOURCES[1])}” is "
        "another architecture, trained against attacks. A share is of the scenes that the target retrieves "
        "rightly when "
        "clean."
    )
    return (Words(words),)


def _strongest(setting: Setting) -> Choice:
    found = sources(_FOCUS)
    right = max(range(len(found)), key=lambda k: list(found.values())[k]["value"])
    options = [f"examples made on {OWN if s == OWN else short(s)}{' weights' if s == OWN else ''}" for s in found]
    because = "An attack that reads a model's own gradients is the hardest; transfer needs the models to be alike."
    return Choice(f"Which examples fool “{short(_FOCUS)}” most often?", options, right, because)


def _by_source(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    found = sources(_FOCUS)
    bars = [share_bar(f"made on {short(s)}", f, "adversarial" if s == OWN else "clean") for s, f in found.items()]
    most = max(found, key=lambda s: found[s]["value"])
    return (Bars(f"On “{short(_FOCUS)}”, examples made on {short(most)} succeed most often", bars),)


def _cell(setting: Setting) -> Number:
    found = rate(_FOCUS, _SOURCES[0])
    because = f"{found['hits']} of {found['total']} scenes, 95 % interval {found['low']:.0%} to {found['high']:.0%}."
    prompt = f"How often do examples made on “{short(_SOURCES[0])}” fool “{short(_FOCUS)}”?"
    return Number(prompt, 0, 100, 1, 100 * found["value"], 5, because, "%")


def _cells(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    rows = []
    for target in _TARGETS:
        found = sources(target)
        said = {f"made on {short(s)}": f"{100 * f['value']:.0f} % of {f['total']}" for s, f in found.items()}
        rows.append({"target": short(target), **said})
    return (Table("A row a target, a column where the examples were made", rows),)


def _which(setting: Setting) -> Choice:
    found = [rate(_FOCUS, source)["value"] for source in _SOURCES]
    options = (f"“{short(_SOURCES[0])}”, undefended", f"“{short(_SOURCES[1])}”, defended, another architecture")
    because = f"{100 * found[0]:.1f} % against {100 * found[1]:.1f} %: what fools a defended model is less tied to it."
    if found[0] >= found[1]:
        because = f"{100 * found[0]:.1f} % against {100 * found[1]:.1f} %."
    return Choice(
        f"Which is the better source for an attack on “{short(_FOCUS)}”?", options, int(found[1] > found[0]), because
    )


def _least(setting: Setting) -> Choice:
    source = _SOURCES[1]
    found = [rate(target, source)["value"] for target in _TARGETS]
    right = min(range(len(found)), key=found.__getitem__)
    because = (
        f"{100 * found[right]:.0f} % of its right answers are lost; the others lose up to {100 * max(found):.0f} %."
    )
    prompt = f"Which target falls least to examples made on “{short(source)}”?"
    return Choice(prompt, [short(target) for target in _TARGETS], right, because)


def _targets(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    source = _SOURCES[1]
    bars = [share_bar(short(target), rate(target, source), "adversarial") for target in _TARGETS]
    spread = max(b.value for b in bars) - min(b.value for b in bars)
    return (Bars(f"The same examples, {100 * spread:.0f} points between the targets", bars),)


LESSON = Lesson(
    "transfer",
    "Transfer",
    "Predict who falls to an attack that was made on somebody else's model.",
    8,
    (
        Step("The strongest attack", "Think of what the attacker can see.", _strongest, _setup, _by_source),
        Step("Predict the cell", "Commit to a number.", _cell, _setup, _cells),
        Step("A better source", "Defended or not, alike or not?", _which, _setup, _cells),
        Step("The hardest target", "Pick one.", _least, _setup, _targets),
    ),
    "A low transfer rate is no robustness: step 1 shows the same model under its own attack. Let the class "
    "fill the table "
    "of step 2 as a whole before it is shown. Denominators differ a little: each target is asked about the "
    "scenes that it "
    "has right.",
    "the published comparison, retrieval",
)
