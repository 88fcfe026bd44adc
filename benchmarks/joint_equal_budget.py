"""Strength of joint attacks at equal cost: python benchmarks/joint_equal_budget.py [--models tabletop] [--limit 50]

SGA, Co-Attack and our best-response search attack the same pairs with the same pixel budget, the same one-word text
budget and the same substitutes, and spend at most `--passes` image gradients and a few more image passes; what each
really spent is printed. All raise −S_c and keep the best pair they meet. SGA and Co-Attack search their texts among all
substitutes ("beam", the default: then they differ from ours in the schedule alone), or as published ("importance").
Success: retrieval among the pairs' clean items fails (`Misretrieved`); of pairs that fail when clean nothing is said.
Intervals: 95 % percentile bootstrap over images; differences to ours are paired (positive: ours is stronger).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cmai_core.attacks import ThreatModel
from cmai_core.attacks.joint_attack import JointAttack
from cmai_core.attacks.joint_schedules.best_response import BestResponse
from cmai_core.attacks.joint_schedules.schedules import SGA, Scales, Sequential
from cmai_core.attacks.objectives.text import Divergence, Misretrieved
from cmai_core.attacks.result import round_to_8bit
from cmai_core.attacks.text_result import JointResult
from cmai_core.attacks.text_searches.masked_lm import MaskedLMProposer
from cmai_core.attacks.text_searches.proposers import Vocabulary
from cmai_core.attacks.text_searches.search import BeamSearch, ImportanceSearch
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.bootstrap import Interval, bootstrap_interval
from cmai_core.data import load_dataset
from cmai_core.data.pair import Batch
from cmai_core.models import load_model

OURS = "best-response"
# Where there is no masked language model: words that say something else about a scene.
WORDS = ("red", "green", "blue", "cube", "ball", "cone", "large", "small", "metal", "rubber", "left", "right", "two")
# Image passes without gradients that our schedule needs more than SGA's, made up for by fewer steps.
OVERHEAD = 2


class Counted:
    """A model with the texts it encodes counted."""

    def __init__(self, model: Any):
        self._model, self.texts = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_text(self, texts: Any, **options: Any) -> torch.Tensor:
        self.texts += len(texts)
        return self._model.encode_text(texts, **options)


def attacks(epsilon: float, options: argparse.Namespace) -> Iterator[tuple[str, JointAttack]]:
    """The three, each with its own schedule of pixels and the same rest."""
    views, passes = len(Scales().ratios), options.passes
    proposer = MaskedLMProposer() if options.substitutes == "masked-lm" else Vocabulary(words=WORDS)
    text = {"beam": BeamSearch, "importance": ImportanceSearch}[options.text_search](proposer=proposer)
    kl = Divergence("image", "clean") + 3.0 * Divergence("image", "other")
    schedules = {
        "sga": SGA(text=text, steps=passes // views),
        "co-attack": Sequential(text=text, steps=passes, image_objective=kl),
        OURS: BestResponse(text=text, steps=passes - OVERHEAD),
    }
    for name, schedule in schedules.items():
        yield (
            name,
            JointAttack(
                threat=ThreatModel("linf", epsilon),
                text_threat=TextThreat(words=1),
                schedule=schedule,
                success=Misretrieved(options.direction),
                name=name,
            ),
        )


def batch_of(model: Any, limit: int, captions: int) -> Batch:
    """The first test pairs with some of their captions each."""
    dataset = load_dataset("tabletop", split="test", limit=limit)
    pairs = tuple(dataset[k] for k in range(len(dataset)))
    texts = tuple(text for pair in pairs for text in pair.captions[:captions])
    owners = tuple(row for row, pair in enumerate(pairs) for _ in pair.captions[:captions])
    pixels = round_to_8bit(model.preprocess([pair.image for pair in pairs]))
    return Batch(tuple(pair.id for pair in pairs), pixels, texts, owners, pairs)


def by_image(values: torch.Tensor, counted: torch.Tensor, owners: torch.Tensor) -> np.ndarray:
    """(sum over an image's counted pairs, their number) for each image: captions of one image are not independent."""
    count = int(owners.max()) + 1
    sums = torch.zeros(count, 2, dtype=torch.float64)
    sums.index_add_(0, owners, torch.stack([values.double() * counted, counted.double()], dim=1))
    return sums.numpy()


def ratio(rows: np.ndarray) -> float:
    """Share from rows of (sum, number)."""
    total = rows[:, 1].sum()
    return float(rows[:, 0].sum() / total) if total else float("nan")


def written(interval: Interval) -> str:
    return f"{interval.value:6.1%} [{interval.low:6.1%}, {interval.high:6.1%}]"


def compare(model: Any, batch: Batch, epsilon: float, options: argparse.Namespace) -> list[str]:
    """Rows of the table for one model and one ε."""
    owners = torch.tensor(batch.image_of_text)
    results: dict[str, tuple[JointResult, int]] = {}
    for name, attack in attacks(epsilon, options):
        counted = Counted(model)
        results[name] = attack(counted, batch, seed=options.seed), counted.texts
    ours = results[OURS][0]
    intact = ~ours.clean_success
    rows = []
    for name, (result, texts) in results.items():
        won = by_image(result.success_8bit, intact, owners)
        difference = by_image(ours.success_8bit.double() - result.success_8bit.double(), intact, owners)
        share, paired = (bootstrap_interval(values, ratio, seed=0) for values in (won, difference))
        gap = "" if name == OURS else f"{paired.value:+7.1%} [{paired.low:+7.1%}, {paired.high:+7.1%}]"
        score = result.consistency_8bit[intact].mean().item()
        lower = by_image((result.consistency_8bit - ours.consistency_8bit).double(), intact, owners)
        below = bootstrap_interval(lower, ratio, seed=0)
        depth = "" if name == OURS else f"{below.value:+.4f} [{below.low:+.4f}, {below.high:+.4f}]"
        forwards, backwards = (n.double().mean().item() for n in (result.forwards, result.backwards_image))
        rows.append(
            f"{epsilon * 255:>5.3g}/255  {name:14} {written(share):26} {int(intact.sum()):>5}  {gap:27} "
            f"{score:>7.4f} {depth:26} {forwards:>6.0f} {backwards:>6.0f} {texts:>7} {result.seconds:>8.1f}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tabletop"], help="specifications of models")
    parser.add_argument("--limit", type=int, default=50, help="test pairs")
    parser.add_argument("--captions", type=int, default=5, help="captions a picture (SGA's sets)")
    parser.add_argument("--epsilon", nargs="+", type=float, default=[0.5, 1.0], help="in units of 1/255")
    parser.add_argument("--passes", type=int, default=50, help="image gradients; SGA takes 5 a step")
    parser.add_argument("--direction", choices=("image", "text"), default="image", help="what is retrieved")
    parser.add_argument("--substitutes", choices=("masked-lm", "words"), default="masked-lm", help="for a word")
    parser.add_argument("--text-search", choices=("beam", "importance"), default="beam", help="of SGA and Co-Attack")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    head = f"{'epsilon':>9}  {'attack':14} {'success':26} {'pairs':>5}  {'best-response minus this':27} {'S_c':>7} "
    head += f"{'this S_c minus ours':26} {'fwd':>6} {'bwd':>6} {'texts':>7} {'seconds':>8}"
    for spec in options.models:
        model = load_model(spec)
        batch = batch_of(model, options.limit, options.captions)
        print(f"{spec}: {len(batch.ids)} pictures, {len(batch.texts)} pairs, {options.direction} retrieval\n{head}")
        for epsilon in options.epsilon:
            for row in compare(model, batch, epsilon / 255, options):
                print(row, flush=True)


if __name__ == "__main__":
    main()
