"""Lesson 2: the fast gradient sign method by hand, on a linear model of three pixels (Goodfellow et al. 2015)."""

from __future__ import annotations

import numpy as np

from cmai_core.lab.exhibits import Bar, Bars, Exhibit, Table, Words
from cmai_core.lab.lessons.lesson import Choice, Knob, Lesson, Number, Setting, Step

WEIGHTS = np.array([2.0, -1.0, 0.5])
PIXELS = np.array([0.6, 0.4, 0.5])
BIAS = -0.4
SIZES = (100, 10_000, 49_152)
"""Numbers of values of the pictures of the last step; the last is that of a Tabletop picture, 128 × 128 × 3."""
_SEED = 0


def score(pixels: np.ndarray) -> float:
    """Return the linear model's score w·x + b; above 0 it says "cat"."""
    return float(WEIGHTS @ pixels + BIAS)


def fgsm(pixels: np.ndarray, epsilon: float) -> np.ndarray:
    """Return the pixels after one step of size ε against the sign of the gradient (arXiv 1412.6572, sec. 3)."""
    return pixels - epsilon * np.sign(WEIGHTS)


def falls(size: int, epsilon: float) -> tuple[float, float]:
    """Return by how much the score of a model of `size` weights falls: under FGSM, and (spread) under random signs.

    The weights are drawn from a normal distribution; the fall under FGSM is ε·‖w‖₁, that under random signs of the same
    size has the standard deviation ε·‖w‖₂.
    """
    weights = np.random.default_rng(_SEED).normal(size=size)
    return float(epsilon * np.abs(weights).sum()), float(epsilon * np.linalg.norm(weights))


def _table(title: str, pixels: np.ndarray) -> Table:
    rows = [
        {"pixel": k + 1, "weight": float(w), "value": round(float(x), 3), "weight × value": round(float(w * x), 3)}
        for k, (w, x) in enumerate(zip(WEIGHTS, pixels, strict=True))
    ]
    return Table(title, rows)


def _model(setting: Setting) -> tuple[Exhibit, ...]:
    start = score(PIXELS)
    words = (
        f"The model adds weight × value over its pixels and {BIAS:g}. Above 0 it says “cat”, else “no cat”.".replace(
            "-", "−"
        )
    )
    return (Words(words), _table(f"The score is {start:.2f}: “cat”", PIXELS))


def _moved(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    moved = fgsm(PIXELS, setting.get("epsilon", 0.1))
    word = "cat" if score(moved) > 0 else "no cat"
    return (_table(f"After the step the score is {score(moved):.2f}: “{word}”", moved),)


def _direction(setting: Setting) -> Choice:
    right = 0 if fgsm(PIXELS, 0.1)[1] > PIXELS[1] else 1
    because = f"Its weight is {WEIGHTS[1]:g}".replace("-", "−") + ": against the sign of the weight the score falls."
    return Choice("The attacker wants “no cat”. Which way goes pixel 2?", ("up", "down", "it stays"), right, because)


def _by_how_much(setting: Setting) -> Number:
    epsilon = setting["epsilon"]
    right = score(fgsm(PIXELS, epsilon))
    because = f"Each pixel moves by ε, so the score falls by ε × (sum of |weights|) = {epsilon:g} × {_length():g}."
    return Number("Every pixel moves by ε. What is the score then?", -1, 1, 0.05, right, 0.06, because)


def _length() -> float:
    return float(np.abs(WEIGHTS).sum())


def _smallest(setting: Setting) -> Number:
    right = score(PIXELS) / _length()
    because = f"The score {score(PIXELS):.2f} is used up at ε = {score(PIXELS):.2f} ÷ {_length():g}."
    return Number("What is the smallest ε that changes the answer?", 0, 0.5, 0.01, right, 0.02, because)


def _ladder(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    needed = score(PIXELS) / _length()
    rows = [{"ε": round(e, 3), "score": round(score(fgsm(PIXELS, e)), 3)} for e in (0, needed / 2, needed, 2 * needed)]
    return (Table(f"The answer changes at ε = {needed:.3f}", rows),)


def _lengths() -> tuple[float, float]:
    """Return by how much a step of L2 length 1 lowers the score: along signs, along the gradient."""
    signs = np.sign(WEIGHTS) / np.linalg.norm(np.sign(WEIGHTS))
    gradient = WEIGHTS / np.linalg.norm(WEIGHTS)
    return float(WEIGHTS @ signs), float(WEIGHTS @ gradient)


def _which_step(setting: Setting) -> Choice:
    signs, gradient = _lengths()
    because = (
        f"A step of length 1 lowers the score by {signs:.2f} along the signs, by {gradient:.2f} along the gradient."
    )
    options = ("the step along the signs", "the step along the gradient itself")
    prompt = "Now the L2 length of the step is bounded instead of each pixel. Which step lowers the score more?"
    return Choice(prompt, options, 0 if signs > gradient else 1, because)


def _two_steps(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    signs, gradient = _lengths()
    bars = [Bar("along the signs", signs, f"{signs:.3f}"), Bar("along the gradient", gradient, f"{gradient:.3f}", "A")]
    return (Bars("Which step is the best depends on how it is measured", bars, 0, 1.2 * max(signs, gradient)),)


_GROWTH = ("by as much", "about 10 times as much", "about 100 times as much")


def _growth(setting: Setting) -> Choice:
    grown = falls(SIZES[1], setting["epsilon"])[0] / falls(SIZES[0], setting["epsilon"])[0]
    right = min(range(3), key=lambda k: abs(np.log10(grown) - k))
    because = f"The fall grows with the number of values ({grown:.0f} times); random changes grow with its root."
    prompt = f"Same ε, but {SIZES[1]} values instead of {SIZES[0]}: by how much does FGSM lower the score?"
    return Choice(prompt, _GROWTH, right, because)


def _sizes(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    found = {size: falls(size, setting["epsilon"]) for size in SIZES}
    rows = [
        {"values": size, "FGSM": round(fall, 3), "random signs (typical)": round(spread, 3),
         "FGSM ÷ random": round(fall / spread, 1)}
        for size, (fall, spread) in found.items()
    ]  # fmt: skip
    return (Table(f"FGSM gains {rows[-1]['FGSM ÷ random'] / rows[0]['FGSM ÷ random']:.0f} times on chance", rows),)


_EPSILON = Knob("epsilon", "ε, the most by which a value changes", 0.02, 0.4, 0.02, 0.1)
LESSON = Lesson(
    "fgsm",
    "FGSM by hand",
    "Attack a model of three pixels with a pencil, and see why pictures with many pixels are easier.",
    10,
    (
        Step("Which way?", "Look at the weights.", _direction, _model, _moved),
        Step("How far?", "Turn ε and work the score out.", _by_how_much, _model, _moved, (_EPSILON,)),
        Step("How little is enough?", "Solve for ε.", _smallest, _model, _ladder),
        Step("Another ruler", "Think of the length of a step.", _which_step, _model, _two_steps),
        Step("Many pixels", "Guess before you multiply.", _growth, after=_sizes, knobs=(_EPSILON,)),
    ),
    "Hand out the weights and let the class do steps 1 to 3 on paper. The point of step 5: nothing is special "
    "about the "
    "model, small changes add up over many values (Goodfellow, Shlens and Szegedy 2015, arXiv 1412.6572).",
    "computed here, on a model of three weights",
)
