"""Lesson 1: what the consistency score S_c is, on a bundled picture and on the bundled attack."""

from __future__ import annotations

import math

from cmai_core.errors import DataError
from cmai_core.lab.exhibits import Bar, Bars, Curves, Exhibit, Picture, Pictures, Table, Words
from cmai_core.lab.lessons.bundle import Said, SceneShown, lesson_data
from cmai_core.lab.lessons.lesson import Choice, Knob, Lesson, Number, Setting, Step
from cmai_core.showcase import Showcase, load_showcase

_WHICH = 2  # the scene whose sentences are compared


def _scene() -> SceneShown:
    return lesson_data().scenes[_WHICH]


def _said() -> tuple[Said, ...]:
    """Return the scene's sentences, the true one not first."""
    first, *others = _scene().said
    return (others[0], first, *others[1:])


def _bundle() -> Showcase:
    bundle = load_showcase()
    if bundle is None:
        raise DataError("The bundled example is not here.", "Make it: python -m cmai_core.showcase")
    return bundle


def _angle(setting: Setting) -> Number:
    right = math.cos(math.radians(setting["angle"]))
    because = "S_c is the cosine of the angle: 1 when both arrows point the same way, 0 at a right angle."
    return Number("What is S_c at this angle?", -1, 1, 0.05, right, 0.1, because)


def _angles(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    angles = sorted({0, 30, 60, 90, 120, 180, round(setting["angle"])})
    rows = [{"angle": f"{a}°", "S_c": round(math.cos(math.radians(a)), 3) + 0.0} for a in angles]
    return (Table("The wider the angle, the lower S_c", rows),)


def _picture(setting: Setting) -> tuple[Exhibit, ...]:
    scene = _scene()
    return (Pictures([Picture(scene.clean, "the picture", scene.caption)]),)


def _best(setting: Setting) -> Choice:
    said = _said()
    right = max(range(len(said)), key=lambda k: said[k].s_c["A"])
    because = f"The highest S_c is {said[right].s_c['A']:.3f}, and this sentence is {_true(said[right].true)}."
    return Choice("Which sentence has the highest S_c with this picture?", [s.text for s in said], right, because)


def _true(is_true: bool) -> str:
    return "true of the picture" if is_true else "false of the picture: a high score is no proof"


def _sentences(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    said = _said()
    bars = [Bar(f"{s.text} ({'true' if s.true else 'false'})", s.s_c["A"], f"{s.s_c['A']:.3f}", "A") for s in said]
    gap = max(s.s_c["A"] for s in said) - min(s.s_c["A"] for s in said)
    return (Bars(f"From best to worst, S_c falls by {gap:.2f}", bars, -0.2, 1.0),)


def _before_attack(setting: Setting) -> tuple[Exhibit, ...]:
    shown = _bundle().result
    first, caption = shown.examples["A"], shown.experiment.caption
    clean = Picture(first.clean, f"clean: S_c {first.score_trace[0]:.3f}", caption)
    moved = Picture(first.adversarial, f"attacked at ε = {shown.experiment.budget.words}", f"attacked, {caption}")
    return (Words(f"The sentence is “{caption}”."), Pictures([clean, moved]))


_KEPT = ("it stays within 0.05", "it falls, but more than half is left", "less than half of it is left")


def _fall(setting: Setting) -> Choice:
    trace = _bundle().result.examples["A"].score_trace
    lost = trace[0] - trace[-1]
    right = 0 if lost <= 0.05 else 1 if trace[-1] > trace[0] / 2 else 2
    because = f"S_c went from {trace[0]:.3f} to {trace[-1]:.3f} in {len(trace) - 1} steps."
    return Choice("What has become of S_c on the undefended model A?", _KEPT, right, because)


def _trace(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    trace = _bundle().result.examples["A"].score_trace
    title = f"The attack takes {trace[0] - trace[-1]:.2f} of S_c from model A"
    return (Curves(title, "step", {"S_c of A": (trace, "A")}),)


def _losses() -> dict[str, float]:
    found = _bundle().result.examples
    return {role: found[role].score_trace[0] - found[role].score_trace[-1] for role in ("A", "B")}


def _more(setting: Setting) -> Choice:
    lost = _losses()
    because = f"A lost {lost['A']:.3f}, B lost {lost['B']:.3f}; each was attacked by itself, with the same ε."
    options = ("A, the undefended one", "B, the defended one")
    return Choice("Which model loses more of S_c?", options, 0 if lost["A"] > lost["B"] else 1, because)


def _both(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    found, lost = _bundle().result.examples, _losses()
    curves = {f"S_c of {role}": (found[role].score_trace, role) for role in ("A", "B")}
    return (Curves(f"B keeps {abs(lost['A'] - lost['B']):.2f} more of S_c than A", "step", curves),)


def _flagged(setting: Setting) -> Number:
    bundle = _bundle()
    right = 100 * bundle.flagged["A"]
    because = (
        f"τ = {bundle.tau['A']:.3f} was set to flag {bundle.false_positive_rate:.0%} of clean pairs; of these "
        f"{bundle.pairs} clean ones it flags {bundle.flagged_clean['A']:.0%}."
    )
    prompt = "How many of the attacked pairs lie below the threshold τ on model A?"
    return Number(prompt, 0, 100, 1, right, 10, because, "%")


def _rates(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    bundle, bars = _bundle(), []
    for role in bundle.flagged:
        for side, shares in (("clean", bundle.flagged_clean), ("adversarial", bundle.flagged)):
            bars.append(Bar(f"{role}, {side}", shares[role], f"{shares[role]:.1%}", side))
    title = "A threshold catches an attacker who does not know of it; the lesson on detection asks about one who does"
    return (Bars(title, bars),)


LESSON = Lesson(
    "s_c",
    "What S_c is",
    "Read the one number the lab turns on: how well a picture and a sentence agree.",
    8,
    (
        Step(
            "Two arrows", "Turn the angle, then guess before you look.", _angle, after=_angles,
            knobs=(Knob("angle", "Angle between the arrows, in degrees", 0, 180, 5, 60),),
        ),
        Step("A picture and its sentences", "Read the sentences and pick one.", _best, _picture, _sentences),
        Step("The same picture, attacked", "Compare the pictures, then commit.", _fall, _before_attack, _trace),
        Step("A defended model", "Both models faced their own attack.", _more, after=_both),
        Step("A threshold", "S_c below τ is flagged. Guess the share.", _flagged, after=_rates),
    ),
    "A model turns a picture and a sentence into arrows of one space; S_c is the cosine between them. Let the "
    "class guess "
    "the angle in step 1 together. In step 2 ask what the model would need to see to tell the sentences apart. Stress "
    "in step 5 that the attacker here does not know of τ.",
    "the bundled example and bundled scenes",
)  # fmt: skip
