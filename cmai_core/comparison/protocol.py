"""The terms of the comparison, fixed and hashed before the test split is looked at.

    cmai compare protocol > docs/protocol.md

The hash covers every setting below: recipes, lengths, seeds, splits, attacks, budgets. Results carry it; results
under one hash are made once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from cmai_core.comparison.cascade import Round
from cmai_core.templates import render_markdown
from cmai_core.training.recipes import PAIRS, RECIPES
from cmai_core.training.settings import terms

CONTROLS = ("continued", "classifier")
PUBLISHED = (
    "pgd-at",
    "tecoa-classes",
    "tecoa",
    "fare",
    "mat",
    "consistency",
    "hard-negative",
    "ssl",
    "ssl-adversarial",
)
RIVALS = ("hard-negative-mat", "leaf", "proeat")
"""Published rivals that came after the protocol was fixed: no part of it."""
OURS = ("cmcv", "mbat", "cmcv-mbat", "cmai")
ABLATIONS = ("mbat-beta0", "cmai-replay", "cmai-lora")
SURROGATES = ("tecoa-b",)
REPLAYED = "cmai-replay"
FAMILIES = "families"
HALF = "precision=bfloat16"
"""Gradients in half precision; whatever they find counts only where a pass in single precision confirms it."""
TARGETED = "apgd-t:steps=25"
"""Towards the nine false options that the clean picture scores highest, one after another, in single precision."""
DRIFTING = f"pgd:steps=10,objective=consistency,{HALF}"
"""The attack of the part FAMILIES that lowers S_c."""


@dataclass(frozen=True)
class Part:
    """One kind of question that every model is asked: a grid of the evaluation.

    Attributes:
        name: of the part; what: for people.
        recipes: as a grid writes them.
        cascade: they run one after another, cheap ones first, on the scenes that still stand: the figure is the worst
            case over them. False: each on every scene.
        epsilons: in units of 1/255 (l2: root mean square). tasks; limit: first test scenes.
        sources: models whose examples are shown to all, in the place of each model's own.
    """

    name: str
    what: str
    recipes: tuple[str, ...]
    epsilons: tuple[float, ...]
    tasks: tuple[str, ...]
    limit: int
    sources: tuple[str, ...] = ()
    cascade: bool = True


_EVERY_SCENE = (
    f"fgsm:{HALF}",
    f"pgd:steps=10,{HALF}",
    f"apgd:steps=20,objective=margin,{HALF}",
    DRIFTING,
    f"pgd:steps=10,objective=embedding,{HALF}",
    f"pgd:steps=10,objective=kl,{HALF}",
)
_LOSSES = tuple(f"{r},stop_on_success=true" if r.startswith("pgd") else r for r in _EVERY_SCENE)
_L2 = tuple(r.replace("steps=", "norm=l2,steps=") for r in _LOSSES if not r.startswith("fgsm"))
_CAPTIONS = (_EVERY_SCENE[0], _EVERY_SCENE[1], _EVERY_SCENE[4])  # success is seen at the end: it takes a caption
# The stronger ones in single precision: they also show whether half precision hides anything.
_STRONGER = (*_LOSSES, "pgd:steps=100,restarts=2,stop_on_success=true", "apgd:steps=100", "square:queries=500")
_OUTSIDE = (
    "torchattacks@cmai_core.comparison.outsiders:torchattacks_pgd",
    "foolbox@cmai_core.comparison.outsiders:foolbox_pgd",
)
_PARTS = (
    Part("main", "L∞, worst case over every loss", _LOSSES, (2.0, 4.0), ("retrieval",), 1000),
    Part(FAMILIES, "what detectors are shown", _EVERY_SCENE, (2.0, 4.0), ("retrieval",), 200, cascade=False),
    Part("tasks", "L∞, the other tasks", _LOSSES[:3], (2.0, 4.0), ("zero-shot", "vqa", "nlvr"), 120),
    Part("captions", "L∞, the caption it writes", _CAPTIONS, (2.0, 4.0), ("captioning",), 60),
    Part("l2", "L2, worst case over every loss", _L2, (0.5, 1.0), ("retrieval",), 120),
    Part("large", "ε → large: nothing should be left", _LOSSES[:2], (64.0,), ("retrieval",), 100),
    Part("stronger", "more steps, restarts, black box on the survivors", _STRONGER, (2.0,), ("retrieval",), 60),
    Part("outside", "PGD of other libraries on the shipped file", _OUTSIDE, (2.0,), ("zero-shot",), 120),
    Part(
        "transfer",
        "examples made on other models",
        (f"pgd:steps=10,{HALF}", f"mi-fgsm:steps=10,{HALF}"),
        (2.0, 4.0),
        ("retrieval",),
        500,
        ("tabletop", "tabletop-tecoa-b"),
        cascade=False,
    ),
)


@dataclass(frozen=True)
class Joint:
    """Picture and one word at once.

    A pair is lost where its picture retrieves a false caption, or its caption, as it then reads, a picture that it is
    false of.

    Attributes:
        epsilon: in units of 1/255. words: that may change in each caption. limit: first test scenes, attacked together:
            the others' clean captions and pictures are what may be retrieved instead.
        passes: gradients of the picture. free: how many of the scenes are also attacked without the condition that the
            caption stays true.
    """

    epsilon: float = 2.0
    words: int = 1
    limit: int = 60
    passes: int = 20
    free: int = 24


@dataclass(frozen=True)
class Aimed:
    """Attacks that know more or want more than a wrong answer.

    Attributes:
        epsilon: in units of 1/255. steps: of each search; precision: of their gradients.
        targeted: first test scenes of the targeted attack.
        limit: first test scenes of the attacks on detectors, which are set to the false-positive rate `rate`.
        smoothed: first test scenes of the attacks on ARM's pathways: features averaged over `copies` with Gaussian
            noise of `sigma` (units of 1/255), and weights shifted by `shift` of the way towards a robust tower's.
    """

    epsilon: float = 2.0
    steps: int = 20
    precision: str = "bfloat16"
    targeted: int = 200
    limit: int = 80
    rate: float = 0.05
    smoothed: int = 30
    copies: int = 8
    sigma: float = 4.0
    shift: float = 0.5


_KNOWING = (
    Round("model's own score", f"pgd:steps=20,objective=margin,{HALF}", bare=True),
    Round("V alone", f"verifier-pgd:steps=20,{HALF}", verified=True),
    Round("both stages", f"verified-pgd:steps=20,{HALF}", verified=True),
    Round("shortlist, then V", f"shortlist-verifier:steps=20,{HALF}", verified=True),
    Round("APGD on the margin", f"apgd:steps=50,objective=margin,{HALF}"),
    Round("APGD-T", f"apgd-t:steps=25,{HALF}"),
    Round("Square", "square:queries=200"),
)


@dataclass(frozen=True)
class Answered:
    """Models inside verified answering, under attacks that know of it, one after another on the scenes that stand.

    Attributes:
        tasks: asked of, as far as verification answers them better on clean validation pairs. epsilons: in units of
            1/255.
        rounds: the attacks.
        full, few: first test scenes of retrieval, of the models named in `entire` and of the others. others: of the
            other tasks.
        entire: recipes of CMAI, its ablations and the best rivals on validation.
        fitted: validation pairs that the rules are fitted on, half of them, and tried on.
        noise: draws of random signs, a check that they take far less than any attack.
    """

    tasks: tuple[str, ...] = ("retrieval", "zero-shot")
    epsilons: tuple[float, ...] = (2.0, 4.0)
    rounds: tuple[Round, ...] = _KNOWING
    full: int = 300
    few: int = 150
    others: int = 200
    entire: tuple[str, ...] = ()
    fitted: int = 800
    noise: int = 10


@dataclass(frozen=True)
class Instruments:
    """What the measuring itself uses.

    Attributes:
        bank: clean validation pictures that detectors measure distances from, after those that thresholds are set on;
            neighbour: which of the nearest; bits: of feature squeezing.
        robust_tower: the model whose image tower weights are shifted to.
        outside_steps: of the other libraries' PGD. seed: of false captions and bootstraps.
    """

    bank: int = 1000
    neighbour: int = 10
    bits: int = 5
    robust_tower: str = "tabletop-fare"
    outside_steps: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Protocol:
    """Everything that decides the comparison's figures.

    Attributes:
        base, surrogate: bundled undefended models that are fine-tuned, and attacked from.
        recipes: names; each is trained with `pairs` pairs and `seed`. more_seeds: of the two best on validation.
        replay_seed: of the replay of ARM's schedule, which with the same seed would be the same training.
        trials: validation trials of each recipe's settings: 0, all take the settings that `base` was trained with
            and those written in `training.recipes`.
        clean: test scenes of the clean figures; written: how many of them are captioned.
        parts: attacks in grids. joint: pictures and words. aimed: targeted and adaptive attacks.
        answered: the models inside verified answering; None: they are not asked.
        instruments: what measuring itself uses.
        gallery: captions that are retrieved from.
        thresholds: clean validation pairs on which τ is set; rates: the false-positive rates.
    """

    base: str = "tabletop"
    surrogate: str = "tabletop-b"
    recipes: tuple[str, ...] = CONTROLS + PUBLISHED + OURS + ABLATIONS + SURROGATES
    pairs: int = PAIRS
    seed: int = 0
    more_seeds: tuple[int, ...] = (1, 2)
    replay_seed: int = 1
    trials: int = 0
    split: str = "test"
    clean: int = 4000
    written: int = 1000
    parts: tuple[Part, ...] = _PARTS
    joint: Joint = Joint()
    aimed: Aimed = Aimed()
    answered: Answered | None = None
    instruments: Instruments = Instruments()
    gallery: int = 1000
    thresholds: int = 1000
    rates: tuple[float, ...] = (0.01, 0.05)

    @property
    def models(self) -> tuple[str, ...]:
        """The bundled models that are compared: the base, then one a recipe."""
        return (self.base, *(RECIPES[name].model_name for name in self.recipes))

    def part(self, name: str) -> Part:
        """Return a part by name; KeyError where there is none."""
        return {part.name: part for part in self.parts}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the recipes' settings included."""
        rows = {name: terms(RECIPES[name].to_dict()) for name in (*self.recipes, "base", "base-b")}
        words = ("summary", "source", "model_name")
        rows = {name: {k: v for k, v in row.items() if k not in words} for name, row in rows.items()}
        plain = asdict(self)
        if self.answered is None:  # as protocols were before there was such a part
            del plain["answered"]
        return {**plain, "settings": rows}

    @property
    def hash(self) -> str:
        """SHA-256 over `to_dict`, the first 16 digits."""
        text = json.dumps(self.to_dict(), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


PROTOCOL = Protocol()
"""What the published results answer to. Its worst cases lack targeted attacks; `correction` says what they miss."""


def _aimed_at_options(part: Part) -> Part:
    """Add the targeted attack to a part's worst case; captions are written, not chosen, and keep theirs."""
    if not part.cascade or part.name not in ("main", "tasks", "l2", "stronger"):
        return part
    recipe = f"{TARGETED},norm=l2" if part.name == "l2" else TARGETED
    longer = (TARGETED.replace("steps=25", "steps=100"),) if part.name == "stronger" else ()
    return replace(part, recipes=(*part.recipes, recipe, *longer))


NEXT = replace(PROTOCOL, parts=tuple(map(_aimed_at_options, PROTOCOL.parts)))
"""The same with the targeted attack in every worst case over options: what the next comparison answers to."""
PROTOCOLS = {"published": PROTOCOL, "next": NEXT}


def markdown(protocol: Protocol = PROTOCOL) -> str:
    """Write docs/protocol.md."""
    return render_markdown(
        "cmai_core.comparison",
        "protocol.md.j2",
        protocol=protocol,
        joint=protocol.joint,
        aimed=protocol.aimed,
        arm=RECIPES["cmai"].controller,
        steps=-(-protocol.pairs // RECIPES["cmai"].batch),
        rates=" and ".join(f"{100 * rate:g} %" for rate in protocol.rates),
        trainings=[_training_row(name) for name in protocol.recipes],
        attacks=[_attack_row(part) for part in protocol.parts],
        replayed=REPLAYED,
        half=HALF,
        targeted=TARGETED,
        next_hash=NEXT.hash,
        with_heads=RECIPES["cmcv"].model_name,
    )


def _training_row(name: str) -> str:
    recipe = RECIPES[name]
    inner = recipe.inner
    losses = "none" if inner is None else ", ".join(f"{k} {v:g}" for k, v in inner.losses.items())
    beta = "" if inner is None else f"{inner.beta:g}"
    outer = ", ".join(f"{k} {v:g}" for k, v in asdict(recipe.weights).items() if v)
    return (
        f"| `{name}` | {', '.join(recipe.trained) or 'heads'} | {losses} | {beta} | {recipe.adversarial_share:g} |"
        f" {outer} | {recipe.source or 'this project'} |"
    )


def _attack_row(part: Part) -> str:
    how = "" if part.cascade else ", each on every scene"
    epsilons = ", ".join(f"{e:g}/255" for e in part.epsilons)
    names = "; ".join(f"`{r.partition('@')[0]}`" for r in part.recipes)
    made = f" (made on {', '.join(f'`{s}`' for s in part.sources)})" if part.sources else ""
    return f"| {part.what}{made}{how} | {names} | {epsilons} | {', '.join(part.tasks)} | {part.limit} |"


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["compare", "protocol", *sys.argv[1:]]))
