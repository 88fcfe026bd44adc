"""Lesson 8: what adversarial training costs, from the published results and the models' cards."""

from __future__ import annotations

from cmai_core.lab.exhibits import Bar, Bars, Exhibit, Words, share_bar
from cmai_core.lab.lessons.lesson import Choice, Lesson, Number, Setting, Step
from cmai_core.lab.published import clean_share, published, robust_share, short

_BASE, _CONTINUED = "tabletop", "tabletop-continued"
_FOCUS = "tabletop-cmai"
_RIVALS = ("tabletop-hard-negative", "tabletop-tecoa", "tabletop-cmai", "tabletop-mat")
_EPSILON, _LARGER = 2.0, 4.0


def hours() -> dict[str, float]:
    """Return how often longer each model was trained than the base's plain continuation, by the cards; same pairs."""
    from cmai_core.models import bundled_models

    seconds = {card.name: float(card.training.get("seconds", 0)) for card in bundled_models()}
    names = (_CONTINUED, *_RIVALS)
    return {name: seconds[name] / seconds[_CONTINUED] for name in names if seconds.get(name) and seconds[_CONTINUED]}


def _setup(setting: Setting) -> tuple[Exhibit, ...]:
    found = robust_share(_BASE, _EPSILON)
    words = (
        f"Image→text retrieval on {found['total']} test scenes. “Robust” is right under every attack of the worst case."
    )
    return (Words(words),)


def _base(setting: Setting) -> Number:
    found = robust_share(_BASE, _EPSILON)
    because = f"{found['hits']} of {found['total']} scenes; clean it is {100 * clean_share(_BASE)['value']:.1f} %."
    prompt = f"The undefended model at ε = {_EPSILON:g}/255: on how many scenes is it robust?"
    return Number(prompt, 0, 100, 1, 100 * found["value"], 5, because, "%")


def _base_shown(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    bars = [
        _clean_bar(_BASE),
        share_bar(f"{short(_BASE)}, {_EPSILON:g}/255", robust_share(_BASE, _EPSILON), "adversarial"),
    ]
    return (Bars("What training without attacks leaves", bars),)


def _clean_bar(name: str) -> Bar:
    found = clean_share(name)
    return Bar(
        f"{short(name)}, clean", found["value"], f"{100 * found['value']:.1f} %", "clean", found["low"], found["high"]
    )


def _gain(setting: Setting) -> Number:
    found = robust_share(_FOCUS, _EPSILON)
    because = f"95 % interval {found['low']:.1%} to {found['high']:.1%}."
    prompt = f"“{short(_FOCUS)}” was trained against attacks of this size. On how many scenes is it robust?"
    return Number(prompt, 0, 100, 1, 100 * found["value"], 8, because, "%")


def _gains(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    bars = []
    for epsilon in (_EPSILON, _LARGER):
        for name in (_BASE, _FOCUS):
            role = "undefended" if name == _BASE else "defended"
            bars.append(share_bar(f"{short(name)}, {epsilon:g}/255", robust_share(name, epsilon), role))
    left = 100 * robust_share(_FOCUS, _LARGER)["value"]
    return (Bars(f"At twice the ε of its training, {left:.0f} % are left of the defended model", bars),)


_COSTS = ("it gains clean accuracy", "up to 3 points", "3 to 10 points", "more than 10 points")


def _lost() -> float:
    return 100 * (clean_share(_CONTINUED)["value"] - clean_share(_FOCUS)["value"])


def _clean(setting: Setting) -> Choice:
    lost = _lost()
    place = 0 if lost <= 0 else 1 if lost <= 3 else 2 if lost <= 10 else 3
    because = f"{100 * clean_share(_FOCUS)['value']:.1f} % against {100 * clean_share(_CONTINUED)['value']:.1f} %."
    prompt = "How much clean retrieval does it pay, against the same training without attacks?"
    return Choice(prompt, _COSTS, place, because)


def _cleans(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    bars = [_clean_bar(name) for name in (_CONTINUED, *_RIVALS)]
    return (Bars(f"Robustness costs “{short(_FOCUS)}” {_lost():.1f} points of clean retrieval", bars, 0.5, 1.0),)


def _best(setting: Setting) -> Choice:
    found = [robust_share(name, _EPSILON)["value"] for name in _RIVALS]
    place = max(range(len(found)), key=found.__getitem__)
    because = f"It is robust on {found[place]:.1%}, “{short(_FOCUS)}” on {found[_RIVALS.index(_FOCUS)]:.1%}."
    prompt = f"Same pairs, same ε: which of these is most robust at {_EPSILON:g}/255?"
    return Choice(prompt, [short(name) for name in _RIVALS], place, because)


def _rivals(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    from cmai_core.comparison.tables import points
    from cmai_core.comparison.verdicts import difference

    bars = [share_bar(short(name), robust_share(name, _EPSILON), "defended") for name in _RIVALS]
    best = max(_RIVALS, key=lambda name: robust_share(name, _EPSILON)["value"])
    held = (published()[name].verdict("main", _EPSILON).held for name in (best, _FOCUS))
    return (Bars(f"“{short(best)}” keeps most: {points(difference(*held))} points over “{short(_FOCUS)}”", bars),)


def _time(setting: Setting) -> Number:
    because = "Every step of training first makes an attack, and each step of that attack is another pass."
    prompt = f"How many times longer did the training of “{short(_FOCUS)}” take than the same one without attacks?"
    return Number(prompt, 1, 10, 0.1, hours()[_FOCUS], 0.8, because, "times")


def _times(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    found = hours()
    bars = [Bar(short(name), ratio, f"{ratio:.1f} times", "clean") for name, ratio in found.items()]
    models = len(published())
    least, most = min(v for n, v in found.items() if n != _CONTINUED), max(found.values())
    title = f"{least:.1f} to {most:.1f} times the work; {models} such trainings stand behind the comparison"
    return (Bars(title, bars, 0, 1.1 * max(found.values()), (1.0, "without attacks")),)


LESSON = Lesson(
    "price",
    "What robustness costs",
    "Weigh what adversarial training gains against what it takes: clean accuracy and time.",
    8,
    (
        Step("Nothing spent", "Guess a share.", _base, _setup, _base_shown),
        Step("What it buys", "Guess again.", _gain, _setup, _gains),
        Step("Clean accuracy", "Pick one.", _clean, after=_cleans),
        Step("Which training?", "Pick the most robust.", _best, after=_rivals),
        Step("Time", "Guess a factor.", _time, after=_times),
    ),
    "Nobody gets robustness for nothing. All trainings saw the same pairs and the same ε. The answers come from the "
    "comparison as published, with a written protocol; CMAI does not win it, and the page says where. Ask the "
    "class what "
    "they would pay for which use.",
    "the published comparison and the models' cards",
)
