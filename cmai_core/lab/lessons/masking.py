"""Lesson 7: gradient masking, live: a defence that only hides its gradients, and the attack that sees through it.

A linear classifier on 64 values is trained here in a few milliseconds. Its "defence" multiplies the logits before the
softmax, as defensive distillation in effect did; in single precision the probability of the answer is then exactly 1
and the gradient of the cross entropy exactly 0 (Carlini and Wagner 2017, arXiv 1608.04644, sec. VIII).
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from cmai_core.lab.exhibits import Bars, Exhibit, Table, Words, share_bar
from cmai_core.lab.lessons.lesson import Choice, Knob, Lesson, Number, Setting, Step

VALUES, COUNT = 64, 400
_SHARPER = np.float32(1e4)
_SEED, _ROUNDS, _RATE = 7, 200, 0.5


@cache
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pictures (float32 N×64 in [0, 1]), labels (0 or 1) and the trained weights (float32 64), b being 0."""
    rng = np.random.default_rng(_SEED)
    direction = rng.normal(size=VALUES) / np.sqrt(VALUES)
    labels = np.arange(COUNT) % 2
    pictures = 0.5 + 0.12 * rng.normal(size=(COUNT, VALUES)) + np.where(labels[:, None], 0.25, -0.25) * direction
    pictures = np.clip(pictures, 0, 1).astype(np.float32)
    weights = np.zeros(VALUES, np.float32)
    for _ in range(_ROUNDS):  # gradient ascent of the log likelihood
        p = 1 / (1 + np.exp(-(pictures - 0.5) @ weights))
        weights += _RATE * COUNT**-0.5 * (pictures - 0.5).T @ (labels - p).astype(np.float32)
    return pictures, labels, weights


def logits(pictures: np.ndarray, sharper: bool) -> np.ndarray:
    """Return the two-class logit (above 0: class 1), float32 N; `sharper` with the defence."""
    value = (pictures - np.float32(0.5)) @ world()[2]
    return value * _SHARPER if sharper else value


def gradient(pictures: np.ndarray, sharper: bool, loss: str) -> np.ndarray:
    """Return the gradient of a loss in the pictures, float32 N×64: "cross entropy", or "margin" (of the logits)."""
    labels, weights = world()[1], world()[2]
    scale = _SHARPER if sharper else np.float32(1)
    side = np.where(labels == 1, -1, 1).astype(np.float32)
    if loss == "cross entropy":
        z = np.clip(side * logits(pictures, sharper), -80, 80)
        side = side * (1 - 1 / (1 + np.exp(z, dtype=np.float32))).astype(np.float32)  # 0 where the answer is certain
    return side[:, None] * scale * weights


def attacked(epsilon: float, sharper: bool, loss: str, steps: int = 1) -> np.ndarray:
    """Return the pictures after `steps` steps of gradient sign ascent within ε."""
    clean = world()[0]
    found = clean.copy()
    for _ in range(steps):
        step = np.float32(epsilon / steps) * np.sign(gradient(found, sharper, loss))
        found = np.clip(np.clip(found + step, clean - epsilon, clean + epsilon), 0, 1).astype(np.float32)
    return found


def right(pictures: np.ndarray) -> dict[str, float]:
    """Return the share that is classified rightly, with its interval; the defence does not change any answer."""
    from cmai_core.evaluation.figures.intervals import share_interval

    hits = int(((logits(pictures, False) > 0) == (world()[1] == 1)).sum())
    low, high = share_interval(hits, COUNT)
    return {"value": hits / COUNT, "low": float(low), "high": float(high), "hits": hits, "total": COUNT}


def silent(sharper: bool) -> float:
    """Return the share of pictures whose gradient of the cross entropy is exactly 0."""
    return float((gradient(world()[0], sharper, "cross entropy") == 0).all(axis=1).mean())


def _plain(setting: Setting) -> tuple[Exhibit, ...]:
    words = (
        f"A classifier of {VALUES} values, right on {right(world()[0])['value']:.0%} of {COUNT} "
        "pictures. No defence yet."
    )
    return (Words(words),)


def _undefended(setting: Setting) -> Number:
    found = right(attacked(setting["epsilon"], False, "cross entropy"))
    prompt = "One FGSM step with this ε: on how many pictures is the classifier still right?"
    return Number(prompt, 0, 100, 1, 100 * found["value"], 12, f"{found['hits']} of {found['total']}.", "%")


@lru_cache(maxsize=64)
def _rows(epsilon: float) -> dict[str, dict[str, float]]:
    return {
        "clean": right(world()[0]),
        "no defence, FGSM": right(attacked(epsilon, False, "cross entropy")),
        "defended, FGSM": right(attacked(epsilon, True, "cross entropy")),
        "defended, 20 steps": right(attacked(epsilon, True, "cross entropy", 20)),
        "defended, examples of the undefended twin": right(attacked(epsilon, False, "margin")),
        "defended, gradient of the logits": right(attacked(epsilon, True, "margin")),
    }


def _shown(setting: Setting, names: tuple[str, ...], title: str) -> tuple[Exhibit, ...]:
    rows = _rows(setting.get("epsilon", _KNOB.start))
    bars = [share_bar(name, rows[name], "clean" if name == "clean" else "adversarial") for name in names]
    return (Bars(title, bars),)


def _gained(setting: Setting, name: str) -> str:
    rows = _rows(setting["epsilon"])
    lost = 100 * (rows["clean"]["value"] - rows[name]["value"])
    return f"{name[:1].upper()}{name[1:]}: the attack takes {lost:.0f} points"


def _after_plain(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    return _shown(setting, ("clean", "no defence, FGSM"), _gained(setting, "no defence, FGSM"))


_FATES = ("about as often right as without the defence", "clearly more often right", "clearly less often right")


def _defended(setting: Setting) -> Choice:
    rows = _rows(setting["epsilon"])
    gap = rows["defended, FGSM"]["value"] - rows["no defence, FGSM"]["value"]
    place = 0 if abs(gap) < 0.1 else 1 if gap > 0 else 2
    because = (
        f"It is right on {rows['defended, FGSM']['value']:.0%}, and without the defence on "
        f"{rows['no defence, FGSM']['value']:.0%}."
    )
    prompt = "The defence multiplies the logits before the softmax; no answer changes. How does it fare under FGSM?"
    return Choice(prompt, _FATES, place, because)


def _after_defended(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    names = ("clean", "no defence, FGSM", "defended, FGSM", "defended, 20 steps")
    return _shown(setting, names, _gained(setting, "defended, FGSM"))


_READINGS = ("It is robust.", "It hides its gradients, and is as weak as before.")


def _reading(setting: Setting) -> Choice:
    rows = _rows(_KNOB.start)
    hidden = rows["defended, examples of the undefended twin"]["value"] < rows["defended, FGSM"]["value"]
    because = (
        f"Examples made without looking at it succeed more often than its own gradients do, and {silent(True):.0%} of "
        "those gradients are exactly 0."
    )
    return Choice("Read the evidence. Which is it?", _READINGS, int(hidden), because)


def _evidence(setting: Setting) -> tuple[Exhibit, ...]:
    rows = _rows(_KNOB.start)
    more = rows["defended, 20 steps"]["value"] - rows["defended, FGSM"]["value"]
    twin = rows["defended, examples of the undefended twin"]["value"]
    table = [
        {"check": "gradients that are exactly 0", "found": f"{silent(True):.0%} (undefended: {silent(False):.0%})"},
        {"check": "right after 20 steps instead of one", "found": f"{100 * more:+.0f} points".replace("-", "−")},
        {"check": "right under its own FGSM", "found": f"{rows['defended, FGSM']['value']:.0%}"},
        {"check": "right under examples of another model", "found": f"{twin:.0%}"},
    ]
    return (Table(f"What a reviewer would measure, at ε = {_KNOB.start:g}", table),)


def _adaptive(setting: Setting) -> Number:
    found = _rows(setting["epsilon"])["defended, gradient of the logits"]
    because = "The attacker differentiates the logits instead of the softmax, and the defence is gone."
    prompt = "The attacker takes the gradient of the logits instead. On how many pictures is the model still right?"
    return Number(prompt, 0, 100, 1, 100 * found["value"], 12, because, "%")


def _after_adaptive(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    rows = _rows(setting["epsilon"])
    lost = 100 * (rows["defended, FGSM"]["value"] - rows["defended, gradient of the logits"]["value"])
    return _shown(setting, tuple(rows), f"The adaptive attack takes {lost:.0f} points that were never there")


_KNOB = Knob("epsilon", "ε of the attack, values lying between 0 and 1", 0.0, 0.2, 0.01, 0.08)
LESSON = Lesson(
    "masking",
    "A defence that only hides",
    "Meet a defence that beats every gradient attack and protects nobody, and learn the signs.",
    10,
    (
        Step("No defence", "Turn ε, then guess.", _undefended, _plain, _after_plain, (_KNOB,)),
        Step("The defence", "No answer changes. What happens?", _defended, _plain, _after_defended, (_KNOB,)),
        Step("Is it robust?", "Read the four lines.", _reading, _evidence),
        Step("The adaptive attack", "Guess once more.", _adaptive, after=_after_adaptive, knobs=(_KNOB,)),
    ),
    "The signs of masked gradients (Athalye, Carlini and Wagner 2018, arXiv 1802.00420): gradients that are 0, "
    "more steps "
    "that do not help, other models' examples that work better than its own. The benchmark's self-checks look "
    "for them in "
    "every run. Ask which of them would have been in the paper of such a defence.",
    "computed here, on a classifier of 64 values that is trained when the lesson opens",
)
