"""What a result belongs to: the settings of its experiment that were in force, and how another experiment differs."""

from __future__ import annotations

from dataclasses import dataclass

from cmai_core.attacks.objectives.registry import OBJECTIVES
from cmai_core.errors import OptionError
from cmai_core.lab.choices import SEARCHES, THREATS, free_step, of_task
from cmai_core.lab.experiment import ROLES, Experiment


@dataclass(frozen=True)
class Difference:
    """One setting that two experiments do not share, in words. `what`: "pair", "sentence", "model" or "setting"."""

    what: str
    name: str
    shown: str
    wanted: str


def in_force(e: Experiment) -> dict[str, tuple[str, str]]:
    """Return name → (kind of setting, value in words) of all that decides what an experiment shows.

    What its search, objective and threat model do not use is left out, so that changing it makes no result stale. The
    experiment need not be valid: a form may be half filled in.
    """
    search = SEARCHES.get(e.recipe)
    found = {
        "pair": ("pair", pair_words(e)),
        "sentence": ("sentence", f"“{e.caption}”"),
        **{f"model {role}": ("model", e.models.get(role, "none")) for role in ROLES},
        "crafted on": ("setting", e.craft_on),
        "threat model": ("setting", THREATS.get(e.norm, e.norm)),
        "objective": ("setting", OBJECTIVES[e.objective].word if e.objective in OBJECTIVES else e.objective),
        "search": ("setting", search.word if search else e.recipe),
        "seed": ("setting", f"{e.seed}"),
    }
    if e.norm != "text":
        found["ε"] = ("setting", epsilon_words(e))
    if e.edits_words:
        found |= {"words": ("setting", f"{e.words}"), "truth": ("setting", e.truth)}
    if e.target:
        found["make it see"] = ("setting", f"“{e.target}”")
        del found["objective"]
        return found | _length_of(e)
    if of_task(e.objective):
        found["task"] = ("setting", e.task)
    if e.objective == "both":
        found |= {"α": ("setting", f"{e.alpha:g}"), "β": ("setting", f"{e.beta:g}")}
    return found | _length_of(e)


def _length_of(e: Experiment) -> dict[str, tuple[str, str]]:
    """Return how long the search goes on, as far as it is a person's to choose."""
    search, found = SEARCHES.get(e.recipe), {}
    if search and search.counts:
        found[search.counts] = ("setting", f"{getattr(e, search.counts)}")
    if search and search.restarts:
        found["restarts"] = ("setting", f"{e.restarts}")
    if search and free_step(search, e.norm):
        found["step size"] = ("setting", f"{e.step_size:g}/255")
    return found


def epsilon_words(e: Experiment) -> str:
    """Say an experiment's budget on pixels as people read it, in or out of range."""
    try:
        return e.budget.words if e.budget else ""
    except OptionError:
        return f"{e.epsilon:g}"


def differences(shown: Experiment, wanted: Experiment) -> tuple[Difference, ...]:
    """Say what must change for a result of `shown` to be one of `wanted`; empty where it is one."""
    before, after = in_force(shown), in_force(wanted)
    names = [*before, *(name for name in after if name not in before)]
    found = []
    for name in names:
        one, other = before.get(name), after.get(name)
        if one != other:
            kind = (one or other)[0]
            found.append(Difference(kind, name, one[1] if one else "–", other[1] if other else "–"))
    if shown.pair == wanted.pair == "scene" and shown.scene != wanted.scene:
        found.insert(0, Difference("pair", "pair", "a scene composed before", "the scene composed now"))
    return tuple(found)


def pair_words(e: Experiment) -> str:
    """Where the picture comes from, as people read it."""
    if e.pair == "scene":
        return "composed scene"
    if e.pair.startswith("upload/"):
        return f"your picture {e.pair[7:13]}"
    return e.pair.replace("/", " · ")


def belongs_to(e: Experiment) -> str:
    """Pair, sentence and settings of an experiment in a sentence without a full stop."""
    parts = in_force(e)
    models = list(e.models.values())
    setting = [parts[name][1] for name in ("search", "threat model", "ε") if name in parts]
    setting += [f"{parts[name][1]} {name}" for name in ("steps", "queries") if name in parts]
    return f"{parts['sentence'][1]} ({pair_words(e)}), {', '.join(setting)}, on {', '.join(models)}"
