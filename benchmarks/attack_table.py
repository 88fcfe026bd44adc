"""How strong our attacks are beside a peer's of the same name: python benchmarks/attack_table.py > table.md

Same model, pictures, ε and budget, in one run. Both libraries' pictures are judged by the same classifier, after
rounding to 8 bits where the attack has an ε; a peer's picture outside the ball counts as harmless. Minimum-norm attacks
are judged by the median norm over the pictures that are right when clean (what fails counts as infinitely far).
"equal": the 95 % interval of the paired difference holds 0, or the mean difference is under 1 % of the median distance.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from workload import Workload, build

from cmai_core.attacks import Attack, GradientSearch, ThreatModel
from cmai_core.attacks.engine.transforms import Diversity
from cmai_core.attacks.objectives.classes import DLR, ClassLoss, Margin
from cmai_core.attacks.result import round_to_8bit
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.searches.carlini_wagner import CarliniWagner
from cmai_core.attacks.searches.deepfool import DeepFool
from cmai_core.attacks.searches.ensemble import Cascade, Member
from cmai_core.attacks.searches.fab import FAB
from cmai_core.attacks.searches.hopskipjump import HopSkipJump
from cmai_core.attacks.searches.square import Square
from cmai_core.bootstrap import bootstrap_interval
from cmai_core.evaluation.figures.intervals import median_interval

Call = Callable[[], torch.Tensor]
FAR = 100.0
# Of the median distance: less than that is how a library stops at the boundary, not how strong it is.
NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Row:
    """Attributes: recipe, peer, budget: for people. epsilon: None for minimum-norm attacks. norm: "linf" or "l2"."""

    recipe: str
    peer: str
    budget: str
    ours: Call
    theirs: Call
    epsilon: float | None
    norm: str = "linf"


class Ours:
    """Our attacks on a workload."""

    def __init__(self, work: Workload, seed: int):
        self.work, self.seed = work, seed

    def objective(self, kind, **options):
        return kind(self.work.task, dataset=self.work.dataset, **options)

    def __call__(self, search, kind=ClassLoss, norm: str = "linf", epsilon: float = FAR, **options) -> Call:
        work = self.work
        threat = ThreatModel(norm, epsilon)
        objective = self.objective(kind, **options)
        attack = Attack(threat=threat, objective=objective, search=search, success=work.success)

        def call() -> torch.Tensor:
            result = attack(work.model, work.batch, seed=self.seed)
            return result.pixels if result.minimum is None else result.minimum

        return call


def torchattacks_rows(work: Workload, ours: Ours, steps: int, queries: int, epsilon: float) -> Iterator[Row]:
    import torchattacks as peers

    model, size = work.classifier, epsilon / 4

    def peer(made) -> Call:
        return lambda: made(work.batch.pixels, work.labels).detach()

    def row(recipe, budget, mine, made, norm="linf", radius=epsilon) -> Row:
        return Row(recipe, f"torchattacks {type(made).__name__}", budget, mine, peer(made), radius, norm)

    one = GradientSearch(steps=1, step_size=epsilon, random_start=False, keep="last")
    yield row("fgsm", "1 step", ours(one, epsilon=epsilon), peers.FGSM(model, eps=epsilon))
    search = GradientSearch(steps=steps, step_size=size)
    yield row("pgd", f"{steps} steps", ours(search, epsilon=epsilon), peers.PGD(model, epsilon, size, steps))
    radius = 0.5
    flat = GradientSearch(steps=steps, step_size=radius / 4)
    made = peers.PGDL2(model, eps=radius, alpha=radius / 4, steps=steps)
    yield row("pgd, L2", f"{steps} steps", ours(flat, norm="l2", epsilon=radius), made, "l2", radius)
    search = GradientSearch(steps=steps, step_size=size, random_start=False, momentum=1.0)
    made = peers.MIFGSM(model, eps=epsilon, alpha=size, steps=steps, decay=1.0)
    yield row("mi-fgsm", f"{steps} steps", ours(search, epsilon=epsilon), made)
    search = GradientSearch(
        steps=steps, step_size=size, random_start=False, momentum=1.0, transform=Diversity(probability=0.5)
    )
    made = peers.DIFGSM(model, eps=epsilon, alpha=size, steps=steps, decay=1.0, diversity_prob=0.5)
    yield row("di-fgsm", f"{steps} steps", ours(search, epsilon=epsilon), made)
    made = peers.APGD(model, eps=epsilon, steps=steps, n_restarts=1, loss="ce")
    yield row("apgd", f"{steps} steps", ours(APGD(steps=steps), epsilon=epsilon), made)
    made = peers.APGD(model, eps=epsilon, steps=steps, n_restarts=1, loss="dlr")
    yield row("apgd-dlr", f"{steps} steps", ours(APGD(steps=steps), DLR, epsilon=epsilon), made)
    targets = min(9, len(work.labels) - 1)
    made = peers.APGDT(model, eps=epsilon, steps=steps, n_restarts=1, n_classes=targets + 1)
    members = tuple(
        Member(name=f"rank {rank}", search=APGD(steps=steps), objective=ours.objective(DLR, rank=rank))
        for rank in range(1, targets + 1)
    )
    mine = ours(Cascade(members=members), DLR, epsilon=epsilon)
    yield row("apgd-t", f"{targets} × {steps} steps", mine, made)
    made = peers.Square(model, eps=epsilon, n_queries=queries, n_restarts=1, p_init=0.8, loss="margin")
    mine = ours(Square(queries=queries, share=0.8), Margin, epsilon=epsilon)
    yield row("square", f"{queries} queries", mine, made)
    made = peers.FAB(model, eps=epsilon, steps=steps, n_restarts=1, n_classes=len(work.labels))
    yield row("fab", f"{steps} steps", ours(FAB(steps=steps), Margin, epsilon=epsilon), made)
    made = peers.DeepFool(model, steps=50, overshoot=0.02)
    mine = ours(DeepFool(steps=50, candidates=len(work.labels)), Margin, "l2")
    yield row("deepfool", "50 steps", mine, made, "l2", None)
    made = peers.CW(model, c=1.0, kappa=0.0, steps=5 * steps, lr=0.01)
    mine = ours(CarliniWagner(steps=5 * steps, searches=1, initial=1.0), Margin, "l2")
    yield row("cw, c = 1", f"{5 * steps} steps", mine, made, "l2", None)


def foolbox_rows(work: Workload, ours: Ours, steps: int, queries: int, epsilon: float) -> Iterator[Row]:
    import foolbox

    wrapped = foolbox.PyTorchModel(work.classifier, bounds=(0, 1), device=work.batch.pixels.device)

    def row(recipe, budget, mine, made, norm="linf", radius=None) -> Row:
        def call() -> torch.Tensor:
            _, found, wrong = made(wrapped, work.batch.pixels, work.labels, epsilons=[radius])
            clean = work.batch.pixels
            return found[0] if radius is not None else torch.where(wrong[0].view(-1, 1, 1, 1), found[0], clean)

        return Row(recipe, f"Foolbox {type(made).__name__}", budget, mine, call, radius, norm)

    size = epsilon / 4
    made = foolbox.attacks.LinfPGD(abs_stepsize=size, steps=steps)
    mine = ours(GradientSearch(steps=steps, step_size=size), epsilon=epsilon)
    yield row("pgd", f"{steps} steps", mine, made, radius=epsilon)
    made = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
    yield row("deepfool", "50 steps", ours(DeepFool(steps=50), Margin, "l2"), made, "l2")
    settings = {"steps": 5 * steps, "stepsize": 0.01, "initial_const": 1.0}
    made = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=4, **settings)
    mine = ours(CarliniWagner(steps=5 * steps, searches=4, initial=1.0), Margin, "l2")
    yield row("cw", f"4 × {5 * steps} steps", mine, made, "l2")
    rounds = 10
    made = foolbox.attacks.HopSkipJumpAttack(steps=rounds, initial_gradient_eval_steps=50, constraint="l2")
    spent = sum(int(50 * math.sqrt(k + 1)) for k in range(rounds)) + 60 * rounds
    mine = ours(HopSkipJump(queries=spent, first=50), Margin, "l2")
    yield row("hopskipjump", f"about {spent} queries", mine, made, "l2")


def judge(work: Workload, row: Row, pixels: torch.Tensor) -> np.ndarray:
    """With an ε: 1 where the picture is still classified rightly; without: the distance (inf where it is)."""
    clean = work.batch.pixels
    length = torch.linalg.vector_norm((pixels - clean).flatten(1), ord=math.inf if row.norm == "linf" else 2, dim=1)
    if row.epsilon is not None:
        outside = length > row.epsilon * (1 + 1e-4)
        pixels = torch.where(outside.view(-1, 1, 1, 1), clean, round_to_8bit(pixels))
    with torch.no_grad():
        right = work.classifier(pixels).argmax(dim=1) == work.labels
    return right.double().numpy() if row.epsilon is not None else length.masked_fill(right, math.inf).double().numpy()


def verdict(ours: np.ndarray, theirs: np.ndarray, minimum_norm: bool) -> str:
    """By the paired difference: ours minus theirs, lower is stronger."""
    if minimum_norm:
        both = np.isfinite(ours) & np.isfinite(theirs)
        gap = np.where(both, ours - theirs, np.nan_to_num(np.sign(ours - theirs), nan=0.0))
    else:
        gap = ours - theirs
    found = bootstrap_interval(gap, seed=0)
    if found.low <= 0 <= found.high:
        return "equal"
    if minimum_norm and abs(found.value) < NEGLIGIBLE * np.median(theirs):
        return "equal"
    return "stronger" if found.high < 0 else "weaker"


def report(work: Workload, row: Row) -> str:
    ours, theirs = (judge(work, row, call()) for call in (row.ours, row.theirs))
    with torch.no_grad():
        right = (work.classifier(work.batch.pixels).argmax(dim=1) == work.labels).numpy()
    if row.epsilon is None:
        ours, theirs = ours[right], theirs[right]
        cells = [f"median L2 {m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in map(median_interval, (ours, theirs))]
    else:
        found = [bootstrap_interval(values, seed=0) for values in (ours, theirs)]
        cells = [f"{f.value:.2f} [{f.low:.2f}, {f.high:.2f}]" for f in found]
    budget = row.budget if row.epsilon is None else f"{row.budget}, {_epsilon(row)}"
    return (
        f"| {row.recipe} | {budget} | {cells[0]} | {cells[1]} | {row.peer} |"
        f" {verdict(ours, theirs, row.epsilon is None)} |"
    )


def _epsilon(row: Row) -> str:
    return f"L∞ {row.epsilon * 255:g}/255" if row.norm == "linf" else f"L2 {row.epsilon:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="may be repeated (default: tabletop and tabletop-tecoa)")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--epsilon", type=float, action="append", help="in 1/255, one a model (default: 1 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="rows of recipes whose name starts with this")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="torchattacks|foolbox")
    models = args.model or ["tabletop", "tabletop-tecoa"]
    ladder = args.epsilon or [1.0, 2.0]
    for k, name in enumerate(models):
        work = build(name, args.images)
        epsilon = ladder[k % len(ladder)] / 255
        print(f"\n### {name}\n\n{args.images} pictures, {args.images} classes, seed {args.seed}.\n")
        print("| recipe | budget | ours | theirs | peer | ours is |\n|---|---|---|---|---|---|")
        for rows in (torchattacks_rows, foolbox_rows):
            for row in rows(work, Ours(work, args.seed), args.steps, args.queries, epsilon):
                if row.recipe.startswith(args.only):
                    print(report(work, row), flush=True)


if __name__ == "__main__":
    main()
