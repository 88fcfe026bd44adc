"""Lesson 4: words: which edit changes what is said, and which one the model falls for."""

from __future__ import annotations

from cmai_core.lab.exhibits import Bar, Bars, Exhibit, Picture, Pictures, Table, Words
from cmai_core.lab.lessons.bundle import Edited, Said, lesson_data
from cmai_core.lab.lessons.lesson import Choice, Lesson, Number, Setting, Step

_ROLES = ("A", "B")


def _edited() -> Edited:
    return lesson_data().edited


def _shown(setting: Setting) -> tuple[Exhibit, ...]:
    edited = _edited()
    return (
        Words(f"The caption is “{edited.caption}”."),
        Pictures([Picture(edited.clean, "the picture", edited.caption)]),
    )


def _four() -> list[Said]:
    """Return three true edits and, third, a false one."""
    edits = _edited().edits
    true, false = [e for e in edits if e.true][:3], next(e for e in edits if not e.true)
    return [*true[:2], false, *true[2:]]


def _meaning(setting: Setting) -> Choice:
    four = _four()
    right = next(k for k, edit in enumerate(four) if not edit.true)
    because = "The scene's ground truth decides: the others say the same of it in other words."
    return Choice("Which of these is no longer true of the picture?", [e.text for e in four], right, because)


def _lowest(setting: Setting) -> Choice:
    four = _four()
    right = min(range(len(four)), key=lambda k: four[k].s_c["A"])
    kind = "true" if four[right].true else "false"
    because = (
        f"S_c of A is {four[right].s_c['A']:.3f} with it, and {_edited().s_c['A']:.3f} with the caption; it is {kind}."
    )
    return Choice("Which of them has the lowest S_c on model A?", [e.text for e in four], right, because)


def _bars(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    made, edited = [Bar("the caption itself", _edited().s_c["A"], f"{_edited().s_c['A']:.3f}", "clean")], _four()
    made += [Bar(f"{e.text} ({_kind(e)})", e.s_c["A"], f"{e.s_c['A']:.3f}", "A") for e in edited]
    spread = max(bar.value for bar in made) - min(bar.value for bar in made)
    return (Bars(f"One word moves S_c by up to {spread:.2f}", made, -0.2, 1.0, (lesson_data().tau["A"], "τ")),)


def _kind(edit: Said) -> str:
    return "true" if edit.true else "false"


def wrong(role: str) -> tuple[list[Said], list[Said]]:
    """Return the true edits that a model flags (S_c below τ), and the false ones that it accepts."""
    tau, edits = lesson_data().tau[role], _edited().edits
    return [e for e in edits if e.true and e.s_c[role] < tau], [e for e in edits if not e.true and e.s_c[role] >= tau]


def _accepted(setting: Setting) -> Number:
    false = [e for e in _edited().edits if not e.true]
    tau, right = lesson_data().tau["A"], len(wrong("A")[1])
    because = f"Their S_c lies at or above τ = {tau:.3f}, although they are false of the picture."
    prompt = f"{len(false)} edits make the caption false. How many of them does model A accept?"
    return Number(prompt, 0, len(false), 1, right, 1, because, "edits")


def _all(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    tau = lesson_data().tau
    rows = [
        {"edit": e.text, "it is": _kind(e), **{f"S_c of {r}": round(e.s_c[r], 3) for r in _ROLES},
         **{f"{r} says": "accepted" if e.s_c[r] >= tau[r] else "flagged" for r in _ROLES}}
        for e in _edited().edits
    ]  # fmt: skip
    flagged, accepted = wrong("A")
    title = f"A accepts {len(accepted)} false edits and flags {len(flagged)} true ones, of {len(rows)}"
    return (Table(title, rows),)


def _fewer(setting: Setting) -> Choice:
    counts = {role: sum(map(len, wrong(role))) for role in _ROLES}
    right = 2 if counts["A"] == counts["B"] else 0 if counts["A"] < counts["B"] else 1
    because = f"Of {len(_edited().edits)} edits A judges {counts['A']} wrongly, B {counts['B']}."
    options = ("A, the undefended one", "B, the defended one", "both the same")
    return Choice("True edits flagged, false ones accepted: which model makes fewer mistakes?", options, right, because)


def _mistakes(setting: Setting, answer: str) -> tuple[Exhibit, ...]:
    most, made = len(_edited().edits), []
    for role in _ROLES:
        flagged, accepted = wrong(role)
        for words, found in (("true, but flagged", flagged), ("false, but accepted", accepted)):
            made.append(Bar(f"{role}: {words}", len(found) / most, f"{len(found)} of {most}", role))
    return (Bars("Two kinds of mistakes, and a threshold trades one for the other", made),)


LESSON = Lesson(
    "words",
    "Words",
    "Tell the edit that changes the meaning from the edit that only fools the model.",
    8,
    (
        Step("What is still true?", "Look at the picture, then choose.", _meaning, _shown),
        Step("What does the model mind?", "The same four sentences.", _lowest, _shown, _bars),
        Step("Accepted, though false", "Guess a number.", _accepted, _shown, _all),
        Step("Which model is better at it?", "Remember both kinds of mistakes.", _fewer, after=_mistakes),
    ),
    "A picture cannot be made false by small changes of pixels, a sentence can by one word. So an attack on "
    "words is one "
    "only if the sentence stays true; else the model is right to object. Ask the class to name, for each edit "
    "of step 3, "
    "which of the two it is. Tabletop knows the truth; for photographs a person must judge.",
    "one bundled scene and all its edits of one word",
)
