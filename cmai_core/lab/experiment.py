"""The specification of one attack in the lab: small, plain, replayable.

The same object is what a permalink carries, what an export holds and what a job runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cmai_core.attacks.attack_spec import AttackSpec
from cmai_core.attacks.objectives.registry import OBJECTIVES, present_name
from cmai_core.budget import NORMS, Budget
from cmai_core.data.plain import plain_line
from cmai_core.data.registry import COMPOSED, DATASETS, DEFAULT_DATASET, composing_dataset
from cmai_core.errors import CmaiError, OptionError
from cmai_core.lab.choices import (
    SEARCHES,
    THREATS,
    budget_norm,
    budget_of,
    free_step,
    of_detector,
    of_task,
    usual_epsilon,
    why_not,
)
from cmai_core.tasks import DEFAULT_TASK, TASKS

EPSILON_LADDER = NORMS["linf"].ladder
"""Budgets offered for many pairs, in units of 1/255."""
TRUTHS = ("kept", "free")
ROLES = ("A", "B", "C", "D")
"""The places of the models that are compared. Which of them is defended, its card says."""
EACH = "each"
CRAFT_ON = (*ROLES, EACH)
MAX_STEPS = 200
MAX_RESTARTS = 10
MIN_QUERIES, MAX_QUERIES = 10, 10_000
MAX_WORDS = 5
MAX_CAPTION = 300
MAX_NAME = 200
"""Characters of a pair's id or a model's specification."""
RANGES = {
    "step_size": (0.0, 64.0),
    "steps": (1, MAX_STEPS),
    "restarts": (1, MAX_RESTARTS),
    "queries": (MIN_QUERIES, MAX_QUERIES),
    "words": (1, MAX_WORDS),
    "seed": (0, 2**31 - 1),
    "alpha": (0.0, 100.0),
    "beta": (0.0, 100.0),
}
"""Least and largest value of every number but epsilon, whose range depends on the threat model (`epsilon_range`)."""
WHOLE = ("steps", "restarts", "queries", "words", "seed")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,12}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE][+-]?[0-9]{1,3})?")
_MODELS = tuple(role.lower() for role in ROLES)
FOREIGN = ("embed", "embed_options")
"""Names in an address that are Streamlit's own."""


UNDEFENDED, DEFENDED = "tabletop", "tabletop-cmai"
"""The bundled models that the lab begins with, as A and B."""
_EARLIER = {"undefended": "a", "defended": "b"}
_EARLIER_ROLES = {"undefended": "A", "defended": "B"}
"""What links and files of the first versions call them."""


@dataclass(frozen=True)
class Experiment:
    """One attack, fully specified.

    Attributes:
        pair: where the picture comes from: "tabletop/test/17", "photos/test/coffee", "upload/<sha256>" or "scene".
        scene: the scene as JSON where `pair` is "scene", else "".
        caption: the sentence of the pair, at most MAX_CAPTION characters.
        a, b, c, d: specifications of the models in the roles A to D; all but `a` may be "" (nobody there).
        craft_on: the role of the model that the perturbation is made on; the others are then shown the same picture
            ("transferred"); "each" makes one for each (white box each).
        norm: the threat model, one of `choices.THREATS`: a norm of the pixels; "text": the picture stays; "joint":
            pixels as in linf, and words.
        epsilon: as in `Budget` (of linf for "joint"). Files and links hold it as people read it, a patch in per cent
            of the area. step_size: in units of 1/255, for searches whose step is free.
        objective: what the attacker raises, a name of `attacks.objectives.registry`; of searches that bring an
            objective of their own, "task" or "aware" is that.
        recipe: the search, one of `choices.SEARCHES`, named by the recipe that is built from it.
        steps, queries, restarts: each for the searches that count in them.
        words: most words of the sentence that may change. truth: "kept": the edited sentence stays true of the scene
            (of pictures without one, and of sentences that are not true to begin with: close in the attacked model's
            embedding); "free": anything goes.
        target: what the model shall see, at most MAX_CAPTION characters (`lab.target`): it takes the place of objective
            and task; "": no target.
    """

    pair: str = f"{DEFAULT_DATASET}/{DATASETS[DEFAULT_DATASET].usual}/0"
    scene: str = ""
    caption: str = ""
    a: str = UNDEFENDED
    b: str = DEFENDED
    c: str = ""
    d: str = ""
    craft_on: str = "A"
    norm: str = "linf"
    epsilon: float = usual_epsilon("linf")
    steps: int = 20
    step_size: float = 1.0
    restarts: int = 1
    seed: int = 0
    objective: str = "both"
    task: str = DEFAULT_TASK
    alpha: float = 1.0
    beta: float = 1.0
    recipe: str = "pgd"
    queries: int = 1000
    words: int = 1
    truth: str = "kept"
    target: str = ""

    def __post_init__(self) -> None:
        # Whichever way a sentence comes in (a field, a link, a file), it becomes one line of visible text here.
        for name in ("caption", "target"):
            text = getattr(self, name)
            if isinstance(text, str) and len(text) <= 20 * MAX_CAPTION:
                object.__setattr__(self, name, plain_line(text))
        object.__setattr__(self, "objective", present_name(self.objective))

    def checked(self) -> Experiment:
        """Return itself, when every value is in range.

        Raises:
            OptionError: naming the first value that is not. DataError: the composed scene cannot be read.
        """
        for name in ("pair", "scene", "caption", "target", *_MODELS):
            if not isinstance(getattr(self, name), str):
                raise OptionError(f"{name} is {_shown(getattr(self, name))}, not text.")
        one_of = {
            "norm": tuple(THREATS),
            "objective": tuple(OBJECTIVES),
            "craft_on": CRAFT_ON,
            "task": tuple(TASKS),
            "recipe": tuple(SEARCHES),
            "truth": TRUTHS,
        }
        for name, allowed in one_of.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"{name} is {_shown(getattr(self, name))}.", f"It is one of: {', '.join(allowed)}.")
        for name, (low, high) in {"epsilon": epsilon_range(self.norm), **RANGES}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e300 <= value <= 1e300:
                raise OptionError(f"{name} is {_shown(value)}, not a number.")
            if not low <= value <= high:
                said = [self._as_shown(name, x) for x in (value, low, high)]
                raise OptionError(f"{name} is {said[0]:g}.", f"It lies between {said[1]:g} and {said[2]:g}.")
            if (name in WHOLE or (name == "epsilon" and self.norm == "l0")) and int(value) != value:
                raise OptionError(f"{name} is {value}.", "It is a whole number.")
        search = SEARCHES[self.recipe]
        if search.counts == "steps" and self.steps < search.least:
            raise OptionError(f"steps is {self.steps}.", f"{search.name} takes between {search.least} and {MAX_STEPS}.")
        reason = why_not(self.norm, self.objective, self.recipe, self.task, self.pair, target=self.target)
        if reason:
            raise OptionError("These three parts do not combine.", reason)
        if self.objective == "both" and not self.target and self.alpha == 0 and self.beta == 0:
            raise OptionError("alpha and beta are both 0.", "At least one part of the objective needs a weight.")
        if not self.caption.strip():
            raise OptionError("The sentence is empty.", "Type what the picture shows.")
        if len(self.caption) > MAX_CAPTION:
            raise OptionError(
                f"The sentence has {len(self.caption)} characters.", f"At most {MAX_CAPTION} are accepted."
            )
        if len(self.target) > MAX_CAPTION:
            raise OptionError(f"The target has {len(self.target)} characters.", f"At most {MAX_CAPTION} are accepted.")
        if not self.a.strip():
            raise OptionError("No model is chosen.", "Pick a bundled one or type an OpenCLIP specification.")
        for name in ("pair", *_MODELS):
            value = getattr(self, name)
            if len(value) > MAX_NAME or plain_line(value) != value:
                raise OptionError(f"{name} is {_shown(value)}.", f"At most {MAX_NAME} visible characters are accepted.")
        if self.craft_on != EACH and not self.models.get(self.craft_on):
            raise OptionError(f"The attack is crafted on model {self.craft_on}, but there is none.", "Choose one.")
        if self.pair == COMPOSED and not self.scene:
            raise OptionError("The composed scene is missing.", "Compose it again.")
        if self.scene:
            if self.pair != COMPOSED:
                raise OptionError("There is a composed scene, but the pair is another one.", "Leave one of them out.")
            composing = composing_dataset()
            if composing is None:
                raise OptionError("There is no dataset here whose scenes are composed.", "Choose another pair.")
            composing.make_composer().read(self.scene)
        return self

    @property
    def budget(self) -> Budget | None:
        """The budget on pixels; None where the picture stays."""
        return budget_of(self.norm, self.epsilon)

    @property
    def task_of_attack(self) -> str:
        """The task that the attack is about; "" where its objective needs none, or a target says which."""
        return self.task if not self.edits_words and not self.target and of_task(self.objective) else ""

    def spec(self, true_of_scene: bool = False, target: int | None = None) -> AttackSpec:
        """Return the attack that is asked for.

        Args:
            true_of_scene: whether the sentence is known to be true of the picture's scene (of attacks on words).
            target: the place of the target among the options of its task, where there is one.
        """
        search = SEARCHES[self.recipe]
        options: dict[str, Any] = {search.counts: getattr(self, search.counts)} if search.counts else {}
        if search.restarts:
            options["restarts"] = self.restarts
        if self.edits_words:
            truth = "none" if self.truth == "free" else "scene" if true_of_scene else "similarity"
            options |= {"words": self.words, "truth": truth}
        if self.norm == "joint":
            options["step_size"] = None  # 2.5·ε/steps: the published length at the published ε and steps
        judged = target is not None or OBJECTIVES[self.objective].judged
        if "stop_on_success" in search.options:
            # Queries are what black-box attacks are judged by; the others show how far they get.
            options["stop_on_success"] = search.counts == "queries" and judged
        if target is not None:
            options["target"] = target
        return AttackSpec(
            recipe=self.recipe,
            objective=None if self.edits_words or search.own_objective or target is not None else self.objective,
            alpha=self.alpha,
            beta=self.beta,
            budget=self.budget,
            step_size=self.step_size or None if free_step(search, self.norm) else None,
            options=options,
            seed=self.seed,
        )

    def _as_shown(self, name: str, value: float) -> float:
        """Return a value as people read it."""
        norm = budget_norm(self.norm) if name == "epsilon" else None
        return value if norm is None or norm not in NORMS or value < 0 else value * NORMS[norm].shown

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, ε as people read it (`Budget.shown`)."""
        return asdict(self) | ({"epsilon": self.budget.shown} if self.norm == "patch" else {})

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Experiment:
        """Read JSON values; unknown names are an error, so that a misspelt option is not silently ignored."""
        known = {f.name for f in fields(Experiment)}
        if not isinstance(values, Mapping):
            raise OptionError("An experiment is names with values.", f"Known: {', '.join(sorted(known))}.")
        values = _present(values)
        unknown = sorted(str(name) for name in set(values) - known)
        if unknown:
            raise OptionError(f"Unknown option {_shown(unknown[0])}.", f"Known: {', '.join(sorted(known))}.")
        return replace(Experiment(), **_kept_amount(values)).checked()

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_query(self) -> dict[str, str]:
        """Return URL query parameters: only what differs from the defaults, besides the pair and the sentence."""
        default, shown = Experiment(), self.to_dict()
        query = {}
        for field in fields(self):
            value = shown[field.name]
            if field.name in ("pair", "caption") or value != getattr(default, field.name):
                query[field.name] = _exactly(value) if isinstance(value, float) else str(value)
        return query

    @staticmethod
    def from_query(query: Mapping[str, str]) -> Experiment | None:
        """Read the experiment that a link describes; None where it describes none (no `pair`).

        Raises:
            OptionError: for a value that is not in range or not a number. CmaiError: for a pair that cannot be.
        """
        if "pair" not in query:
            return None
        default, query = Experiment(), _present(query)
        values: dict[str, Any] = {}
        for field in fields(Experiment):
            if field.name in query:
                values[field.name] = _read(field.name, query[field.name], type(getattr(default, field.name)))
        found = replace(default, **_kept_amount(values)).checked()
        parse_pair_id(found.pair)
        return found

    @staticmethod
    def unknown_in(query: Mapping[str, str], also: Collection[str] = ()) -> tuple[str, ...]:
        """Return names in a link that are no options of an experiment: they are left out, and that must be said.

        Args:
            also: further names that the lab knows.
        """
        known = {field.name for field in fields(Experiment)} | set(also)
        return tuple(sorted(str(name)[:40] for name in _present(query) if name not in known and name not in FOREIGN))

    @property
    def units(self) -> int:
        """What the search counts in: queries, or steps over all restarts; 1 where it counts in neither."""
        search = SEARCHES[self.recipe]
        if search.counts != "steps":
            return self.queries if search.counts else 1
        return self.steps * (self.restarts if search.restarts else 1)

    @property
    def edits_words(self) -> bool:
        """Whether the sentence is attacked."""
        return self.norm in ("text", "joint")

    @property
    def has_detector(self) -> bool:
        """Whether the models are attacked with a detector around them."""
        return of_detector(self.objective)

    @property
    def models(self) -> dict[str, str]:
        """Role → specification of the models that are there."""
        found = {role: getattr(self, role.lower()) for role in ROLES}
        return {role: spec for role, spec in found.items() if spec}

    def attacked_models(self) -> tuple[str, ...]:
        """Return the roles on whose models a perturbation is made."""
        return tuple(self.models) if self.craft_on == EACH else (self.craft_on,)


def epsilon_range(norm: str) -> tuple[float, float]:
    """Return the least and the largest ε of a threat model, in its own units."""
    return 0.0, {"l0": 1e6, "patch": 1.0}.get(norm, 64.0)


def present_role(role: str) -> str:
    """Return a role as it is called now; those of the first versions had words for names."""
    return _EARLIER_ROLES.get(role, role)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a file or link with the names that they have now."""
    out = {_EARLIER.get(name, name): value for name, value in values.items()}
    if isinstance(out.get("craft_on"), str):
        out["craft_on"] = present_role(out["craft_on"])
    return out


def _kept_amount(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file or link with ε as code has it: a patch is written in per cent of the area."""
    epsilon = values.get("epsilon")
    plain = isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool)
    if values.get("norm") != "patch" or not plain or not 0 <= epsilon <= 100:
        return dict(values)
    return {**values, "epsilon": Budget.of_shown("patch", epsilon).amount}


def _shown(value: Any) -> str:
    """Return a value as a message quotes it, however long or odd it is."""
    if isinstance(value, int) and abs(value) > 1e300:
        return "a very large number"
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}…"


def _exactly(value: float) -> str:
    """Return the shortest text that reads back as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def _read(name: str, text: str, kind: type) -> Any:
    """Return a value of a link.

    Raises:
        OptionError: not a number where one belongs, or longer than anything that may stand there.
    """
    if kind is str:
        if len(text) > 20 * MAX_CAPTION:
            raise OptionError(f"The link's {name} has {len(text)} characters.", "That is more than any can have.")
        return text
    if not (_WHOLE_NUMBER if kind is int else _NUMBER).fullmatch(text):
        what = "a whole number" if kind is int else "a number"
        raise OptionError(f"The link says {name}={_shown(text)}, not {what}.")
    return kind(text)


_ITEM = re.compile(r"([A-Za-z0-9_-]{1,80})/([A-Za-z0-9_-]{1,80})/([A-Za-z0-9_][A-Za-z0-9_.-]{0,79})")


def parse_pair_id(pair: str) -> tuple[str, str, str] | None:
    """Take a pair's id apart: (dataset, split, item) of an item that the lab offers; None for uploads and scenes.

    Raises:
        CmaiError: for anything else.
    """
    if pair == COMPOSED or pair.startswith("upload/"):
        return None
    found = _ITEM.fullmatch(pair)
    if found and found[1] in DATASETS and found[2] in DATASETS[found[1]].shown:
        return found[1], found[2], found[3]
    raise CmaiError(f"There is no pair {_shown(pair)}.", f"Pairs are named like {Experiment.pair}.")
