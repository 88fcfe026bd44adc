"""The terms of the comparison, fixed and hashed before the test split is looked at.

    python -m cmai_core.comparison.protocol > docs/protocol.md

The hash covers every setting below: recipes, lengths, seeds, splits, attacks, budgets. Results carry it; results
under one hash are made once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from cmai_core.training.recipes import PAIRS, RECIPES

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
OURS = ("cmcv", "mbat", "cmcv-mbat", "cmai")
ABLATIONS = ("mbat-beta0", "cmai-replay", "cmai-lora")
SURROGATES = ("tecoa-b",)


@dataclass(frozen=True)
class Attacked:
    """Attacks of one threat: recipes in the grid's own writing, run as a cascade, and the budgets.

    Attributes:
        recipes: cheap ones first. epsilons: in units of 1/255 (l2: root mean square). tasks; limit: first test scenes.
    """

    recipes: tuple[str, ...]
    epsilons: tuple[float, ...]
    tasks: tuple[str, ...]
    limit: int


_LOSSES = (
    "fgsm",
    "pgd:steps=10,stop_on_success=true",
    "apgd:steps=20,objective=margin",
    "pgd:steps=10,objective=consistency,stop_on_success=true",
    "pgd:steps=10,objective=embedding,stop_on_success=true",
    "pgd:steps=10,objective=kl,stop_on_success=true",
)
_L2 = ("pgd:steps=10,norm=l2,stop_on_success=true", "apgd:steps=20,norm=l2,objective=margin")


@dataclass(frozen=True)
class Protocol:
    """Everything that decides the comparison's figures.

    Attributes:
        base, surrogate: bundled undefended models that are fine-tuned, and attacked from.
        recipes: names; each is trained with `pairs` pairs and `seed`. more_seeds: of the two best on validation.
        trials: validation trials of each recipe's settings: 0, all take the settings that `base` was trained with
            and those written in `training.recipes`.
        clean: test scenes of the clean figures. main, hard, others, l2: attacks (see `Attacked`).
        large: ε so large that nothing should be left. joint, black_box: as their names say.
        thresholds: clean validation pairs on which τ is set; rates: the false-positive rates.
    """

    base: str = "tabletop"
    surrogate: str = "tabletop-b"
    recipes: tuple[str, ...] = CONTROLS + PUBLISHED + OURS + ABLATIONS + SURROGATES
    pairs: int = PAIRS
    seed: int = 0
    more_seeds: tuple[int, ...] = (1, 2)
    trials: int = 0
    split: str = "test"
    clean: int = 4000
    main: Attacked = field(default_factory=lambda: Attacked(_LOSSES, (2.0, 4.0), ("retrieval",), 1000))
    others: Attacked = field(
        default_factory=lambda: Attacked(_LOSSES[:3], (2.0, 4.0), ("zero-shot", "vqa", "nlvr"), 300)
    )
    l2: Attacked = field(default_factory=lambda: Attacked(_L2, (2.0,), ("retrieval",), 300))
    large: Attacked = field(
        default_factory=lambda: Attacked(("pgd:steps=20,stop_on_success=true",), (64.0,), ("retrieval",), 100)
    )
    joint: Attacked = field(default_factory=lambda: Attacked(("sga", "joint-cmai"), (2.0,), ("retrieval",), 200))
    black_box: Attacked = field(
        default_factory=lambda: Attacked(("square:queries=1000",), (2.0, 4.0), ("retrieval",), 300)
    )
    thresholds: int = 1000
    rates: tuple[float, ...] = (0.01, 0.05)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the recipes' settings included."""
        rows = {name: RECIPES[name].to_dict() for name in (*self.recipes, "base", "base-b")}
        words = ("summary", "source", "model_name")
        rows = {name: {k: v for k, v in row.items() if k not in words} for name, row in rows.items()}
        return {**asdict(self), "settings": rows}

    @property
    def hash(self) -> str:
        """SHA-256 over `to_dict`, the first 16 digits."""
        text = json.dumps(self.to_dict(), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


PROTOCOL = Protocol()


def markdown(protocol: Protocol = PROTOCOL) -> str:
    """docs/protocol.md."""
    rows = []
    for name in protocol.recipes:
        recipe = RECIPES[name]
        inner = recipe.inner
        losses = "none" if inner is None else ", ".join(f"{k} {v:g}" for k, v in inner.losses.items())
        beta = "" if inner is None else f"{inner.beta:g}"
        outer = ", ".join(f"{k} {v:g}" for k, v in asdict(recipe.weights).items() if v)
        rows.append(
            f"| `{name}` | {', '.join(recipe.trained) or 'heads'} | {losses} | {beta} | {recipe.adversarial_share:g} |"
            f" {outer} | {recipe.source or 'this project'} |"
        )
    attacks = []
    for what, attacked in (
        ("main and hard", protocol.main),
        ("other tasks", protocol.others),
        ("L2", protocol.l2),
        ("ε → large", protocol.large),
        ("joint, one word that keeps the caption true", protocol.joint),
        ("black box on the survivors", protocol.black_box),
    ):
        epsilons = ", ".join(f"{e:g}/255" for e in attacked.epsilons)
        names = "; ".join(f"`{r}`" for r in attacked.recipes)
        attacks.append(f"| {what} | {names} | {epsilons} | {', '.join(attacked.tasks)} | {attacked.limit} |")
    p, seeds = protocol, " and ".join(map(str, protocol.more_seeds))
    rates = " and ".join(f"{100 * r:g} %" for r in protocol.rates)
    return f"""# Protocol of the comparison

Hash `{p.hash}`. `python -m cmai_core.comparison.protocol` prints this page; the hash covers every setting of it.
It was fixed before any compared model was shown the test split. Results carry the hash and are made once under it.

## Terms that are the same for all

- Every defence starts from `{p.base}` (the robust surrogate from `{p.surrogate}`) and sees {p.pairs:,} image-caption
  pairs of the same training split with seed {p.seed}: same batches, augmentation, learning-rate schedule and weight
  averaging.
- The inner problem has ε = 2/255 (L∞) and two steps for all; no recipe trains with a larger ε, ARM included.
- The losses of the tasks (captions, questions, statements, patches) stay in every recipe that trains the whole model,
  so that a defence is not blamed for a decoder that nobody kept in tune.
- What helped one is given to all: a share λ of each batch perturbed and the rest clean, ε growing over the first tenth
  of the training, averaged weights.
- No recipe's settings were tuned: {p.trials} validation trials each. ARM's threshold τ_c is read off the reference
  attack on *validation* pairs at the end of `cmcv-mbat`'s own training.
- The two recipes that are best on validation are trained with the seeds {seeds} too; these models are not shipped.

## The trainings

| recipe | learns | inner losses (share of the perturbed images) | β | λ | outer losses (weight) | after |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

## What is measured

Clean figures: all tasks on the first {p.clean:,} test scenes. Thresholds: the first {p.thresholds:,} validation scenes,
at false-positive rates of {rates}. Attacks run as cascades, every model facing every loss; the figure is the worst case
over them.

| threat | attacks | ε | tasks | first test scenes |
|---|---|---|---|---|
{chr(10).join(attacks)}

Besides: every model's own adaptive attack (wrong and accepted under its calibrated detector), transfer from
`{p.base}` and from the robust surrogate on items that all models get right, detection of successful attacks with the
attacker unaware and aware of the detector. Differences between models are paired bootstrap over scenes.
"""


def main() -> None:
    print(markdown(), end="")


if __name__ == "__main__":
    main()
