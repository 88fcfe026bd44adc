"""Lesson 3: budgets and what eyes see: a blind test over the ladder of ε, and what the models make of the same."""

from __future__ import annotations

import numpy as np

from cmai_core.lab.exhibits import Bars, Exhibit, Picture, Pictures, Table, Words, share_bar
from cmai_core.lab.images import perturbation_gain
from cmai_core.lab.lessons.bundle import LADDER, lesson_data
from cmai_core.lab.lessons.lesson import Choice, Lesson, Number, Setting, Step, Trial, Trials

_EACH = 2  # trials of each ε
_SEED = 20
_AT, _LESS = 4.0, 2.0
_SCENE = 0


def _fraction(epsilon: float) -> str:
    return f"{'½' if epsilon == 0.5 else f'{epsilon:g}'}/255"


def _attacked(number: int, epsilon: float):
    return next(a for a in lesson_data().scenes[number].attacked if a.epsilon == epsilon)


def _pair(setting: Setting) -> tuple[Exhibit, ...]:
    scene = lesson_data().scenes[_SCENE]
    moved = _attacked(_SCENE, _AT).pixels
    return (Pictures([Picture(scene.clean, "clean", scene.caption), Picture(moved, "attacked", scene.caption)]),)


def _levels(setting: Setting) -> Number:
    scene = lesson_data().scenes[_SCENE]
    right = int(np.abs(_attacked(_SCENE, _AT).pixels.astype(int) - scene.clean).max())
    because = "ε in L∞ bounds every value of every pixel; most of them use all of it."
    prompt = f"The budget is {_fraction(_AT)}. By how many of the 255 grey levels does the most changed value differ?"
    return Number(prompt, 0, 64, 1, right, 1, because, "levels")


def _made_visible(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    scene, moved = lesson_data().scenes[_SCENE], _attacked(_SCENE, _AT).pixels
    change = moved.astype(int) - scene.clean
    gain = perturbation_gain(scene.clean, moved)
    grey = np.clip(128 + gain * change, 0, 255).astype(np.uint8)
    rows = [
        {"levels changed": k, "share of values": f"{(np.abs(change) == k).mean():.1%}"}
        for k in range(int(np.abs(change).max()) + 1)
    ]
    return (
        Pictures([Picture(grey, f"the change, ×{gain}, mid-grey = 0", "What was added to the picture, made visible")]),
        Table("How far the values moved", rows),
    )


def _blind(setting: Setting) -> Trials:
    rng = np.random.default_rng(_SEED)
    scenes, made = lesson_data().scenes, []
    for epsilon in sorted(LADDER * _EACH, reverse=True):
        number, attacked = int(rng.integers(len(scenes))), int(rng.integers(2))
        two = [scenes[number].clean, _attacked(number, epsilon).pixels]
        if attacked == 0:
            two.reverse()
        shown = [Picture(p, w, f"Picture on the {w}") for p, w in zip(two, ("left", "right"), strict=True)]
        made.append(Trial(Pictures(shown), attacked, _fraction(epsilon)))
    because = "The pictures had the budgets of the ladder, the largest first."
    return Trials("Which of the two is attacked?", made, because)


def _scores(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    test, names = _blind(setting), [_fraction(e) for e in LADDER]
    bars = [share_bar(f"ε = {name}", test.share(answer, name), "clean") for name in names]
    whole = share_bar("all trials", test.share(answer), "adversarial")
    title = f"{whole.said} told apart; with {_EACH} trials for each ε the intervals are wide"
    same = [_fraction(a.epsilon) for s in lesson_data().scenes[:1] for a in s.attacked if (a.pixels == s.clean).all()]
    note = f"At {', '.join(same)} nothing is left of the attack once a file has rounded it to 8 bits." if same else ""
    return (Bars(title, [*bars, whole], level=(0.5, "chance")), Words(note))


def _falls(setting: Setting) -> Choice:
    scene = lesson_data().scenes[_SCENE]
    lost = [k for k, a in enumerate(scene.attacked) if not a.right["A"]]
    right = lost[0] if lost else len(LADDER)
    because = "Below it A still retrieves a right one."
    options = (*(_fraction(e) for e in LADDER), "at none of them")
    return Choice("At which ε does the undefended model A first retrieve a wrong caption?", options, right, because)


def _by_epsilon(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    rows = [
        {"ε": _fraction(a.epsilon), **{f"S_c of {r}": round(a.s_c[r], 3) for r in a.s_c},
         **{f"{r} is right": "yes" if a.right[r] else "no" for r in a.right}}
        for a in lesson_data().scenes[_SCENE].attacked
    ]  # fmt: skip
    return (Table("The same picture over the ladder, each model under its own attack", rows),)


def _kept(role: str, epsilon: float) -> dict[str, float]:
    from cmai_core.evaluation.figures.intervals import share_interval

    right = [_attacked(k, epsilon).right[role] for k in range(len(lesson_data().scenes))]
    low, high = share_interval(sum(right), len(right))
    total = len(right)
    return {"value": sum(right) / total, "low": float(low), "high": float(high), "hits": sum(right), "total": total}


def _still(setting: Setting) -> Number:
    found = _kept("B", _LESS)
    because = f"Model A keeps {_kept('A', _LESS)['hits']}. Six pictures are few: the intervals say how few."
    prompt = f"All {found['total']} pictures at {_fraction(_LESS)}: of how many does the defended model B stay right?"
    return Number(prompt, 0, found["total"], 1, found["hits"], 0, because, "pictures")


def _both(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    bars = [share_bar(f"{r} at {_fraction(e)}", _kept(r, e), r) for e in LADDER for r in ("A", "B")]
    least = next((e for e in LADDER if _kept("B", e)["hits"] == 0), None)
    end = "B keeps some at every ε here" if least is None else f"from {_fraction(least)} on nothing is left of B either"
    return (Bars(f"Still right under the model's own attack: {end}", bars),)


LESSON = Lesson(
    "eyes",
    "Budgets, and what eyes see",
    "Test yourself blind over the ladder of ε, and compare yourself with the models.",
    12,
    (
        Step("What a budget is", "Look for the difference.", _levels, _pair, _made_visible),
        Step("Blind", "Point at the attacked picture in every trial.", _blind, after=_scores),
        Step("When does the model fall?", "You have seen the pictures.", _falls, _pair, _by_epsilon),
        Step("And the defended one?", "Guess a number.", _still, after=_both),
    ),
    "Run step 2 with the projector off and every learner at their own screen: what is visible depends on screen and "
    "distance. Collect the class's answers and ask from which ε the class as a whole beats chance. What matters for a "
    "model is not what people see, but the two should be compared on the same pictures.",
    "bundled pictures, attacked once; models attacked on their own",
)
