"""Speed of the image attacks, ours and a peer's in turn: python benchmarks/bench_attacks.py [--model tabletop]

A ratio above 1 means that ours is faster. "wrong" is the share of pictures each of the two leaves misclassified, so
that nobody is fast by doing less.
"""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Callable, Iterator

import torch
from workload import Workload, build, paired

from cmai_core.attacks import Attack, GradientSearch, ThreatModel
from cmai_core.attacks.objectives.classes import ClassLoss, Margin
from cmai_core.attacks.searches.apgd import APGD
from cmai_core.attacks.searches.carlini_wagner import CarliniWagner
from cmai_core.attacks.searches.deepfool import DeepFool
from cmai_core.attacks.searches.square import Square
from cmai_core.training.trainer import uses_bf16

EPSILON = 2 / 255
# Where only success counts: the budget at which the undefended model falls.
FALLEN = 4 / 255
Call = Callable[[], torch.Tensor]


def attack(work: Workload, search, objective=ClassLoss, norm: str = "linf", epsilon: float = EPSILON) -> Call:
    """Our attack as a call that returns pictures; of a minimum-norm search, the nearest ones found."""
    made = Attack(
        threat=ThreatModel(norm, epsilon),
        objective=objective(work.task, dataset=work.dataset),
        search=search,
        success=work.success,
    )

    def call() -> torch.Tensor:
        result = made(work.model, work.batch, seed=0)
        return result.pixels if result.minimum is None else result.minimum

    return call


def bare_loop(work: Workload, steps: int) -> Call:
    """What PGD costs at least: forward, backward, a signed step, the projection; and nothing recorded."""
    clean = work.batch.pixels
    lower, upper = (clean - EPSILON).clamp(min=0), (clean + EPSILON).clamp(max=1)

    def call() -> torch.Tensor:
        x = clean
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(work.classifier(x), work.labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            x = (x.detach() + EPSILON / 4 * gradient.sign()).clamp(lower, upper)
        return x

    return call


def torchattacks_peers(work: Workload, steps: int, queries: int) -> Iterator[tuple[str, Call, Call]]:
    import torchattacks

    def peer(made) -> Call:
        return lambda: made(work.batch.pixels, work.labels)

    model = work.classifier
    full = GradientSearch(steps=steps, step_size=EPSILON / 4, random_start=False, keep="last")
    plain = torchattacks.PGD(model, eps=EPSILON, alpha=EPSILON / 4, steps=steps, random_start=False)
    yield f"PGD-{steps} / torchattacks", attack(work, full), peer(plain)
    automatic = torchattacks.APGD(model, eps=EPSILON, steps=steps, n_restarts=1, loss="ce")
    yield f"APGD-{steps} / torchattacks", attack(work, APGD(steps=steps)), peer(automatic)
    square = torchattacks.Square(model, eps=EPSILON, n_queries=queries, n_restarts=1, p_init=0.8, loss="margin")
    ours = attack(work, Square(queries=queries, share=0.8), Margin)
    yield f"Square, {queries} queries / torchattacks", ours, peer(square)
    deepfool = torchattacks.DeepFool(model, steps=50, overshoot=0.02)
    ours = attack(work, DeepFool(steps=50, candidates=len(work.labels)), Margin, "l2", 100.0)
    yield "DeepFool / torchattacks", ours, peer(deepfool)


def foolbox_peers(work: Workload, steps: int) -> Iterator[tuple[str, Call, Call]]:
    import foolbox

    wrapped = foolbox.PyTorchModel(work.classifier, bounds=(0, 1), device=work.batch.pixels.device)

    def peer(made, epsilon) -> Call:
        return lambda: made(wrapped, work.batch.pixels, work.labels, epsilons=epsilon)[epsilon is not None]

    full = GradientSearch(steps=steps, step_size=EPSILON / 4, random_start=False, keep="last")
    plain = foolbox.attacks.LinfPGD(abs_stepsize=EPSILON / 4, steps=steps, random_start=False)
    yield f"PGD-{steps} / Foolbox", attack(work, full), peer(plain, EPSILON)
    deepfool = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
    yield "DeepFool / Foolbox", attack(work, DeepFool(steps=50), Margin, "l2", 100.0), peer(deepfool, None)
    settings = {"steps": 5 * steps, "stepsize": 0.01, "initial_const": 1.0, "abort_early": True}
    carlini = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=3, **settings)
    ours = CarliniWagner(steps=5 * steps, step_size=0.01, searches=3, initial=1.0)
    yield f"C&W, 3 × {5 * steps} / Foolbox", attack(work, ours, Margin, "l2", 100.0), peer(carlini, None)


def art_peers(work: Workload, steps: int) -> Iterator[tuple[str, Call, Call]]:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    pixels, labels = work.batch.pixels, work.labels
    estimator = PyTorchClassifier(
        work.classifier, torch.nn.CrossEntropyLoss(), tuple(pixels.shape[1:]), len(labels), clip_values=(0.0, 1.0)
    )
    options = {"eps": EPSILON, "eps_step": EPSILON / 4, "max_iter": steps, "num_random_init": 0, "verbose": False}
    made = ProjectedGradientDescentPyTorch(estimator, batch_size=len(labels), **options)
    full = GradientSearch(steps=steps, step_size=EPSILON / 4, random_start=False, keep="last")

    def theirs() -> torch.Tensor:
        return torch.from_numpy(made.generate(pixels.numpy(), labels.numpy()))

    yield f"PGD-{steps} / ART", attack(work, full), theirs


def wrong_share(work: Workload, pixels: torch.Tensor) -> float:
    """The share of pictures whose largest score is not their label's."""
    with torch.no_grad():
        return float((work.classifier(pixels).argmax(dim=1) != work.labels).float().mean())


def rows(work: Workload, steps: int, queries: int) -> Iterator[tuple[str, Call, Call]]:
    full = GradientSearch(steps=steps, step_size=EPSILON / 4, random_start=False, keep="last")
    yield f"PGD-{steps} / bare loop", attack(work, full), bare_loop(work, steps)
    if uses_bf16("auto", work.batch.pixels.device):
        half = GradientSearch(steps=steps, step_size=EPSILON / 4, random_start=False, keep="last", precision="bfloat16")
        yield f"PGD-{steps} in bfloat16 / in float32", attack(work, half), attack(work, full)
    else:
        print("| (no bfloat16: this device only emulates it, many times slower) | | | | | |")
    first = GradientSearch(steps=steps, step_size=FALLEN / 4, random_start=False, stop_on_success=True)
    best = GradientSearch(steps=steps, step_size=FALLEN / 4, random_start=False)
    label = f"PGD-{steps} at {FALLEN * 255:g}/255, success only / without compaction"
    yield label, attack(work, first, epsilon=FALLEN), attack(work, best, epsilon=FALLEN)
    for library, peers in (
        ("torchattacks", lambda: torchattacks_peers(work, steps, queries)),
        ("foolbox", lambda: foolbox_peers(work, steps)),
        ("art", lambda: art_peers(work, steps)),
    ):
        if importlib.util.find_spec(library) is None:
            print(f"| ({library} is not installed) | | | | | |")
            continue
        yield from peers()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="may be repeated (default: tabletop and tabletop-tecoa)")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="torchattacks|foolbox|art")
    for name in args.model or ["tabletop", "tabletop-tecoa"]:
        work = build(name, args.images)
        print(f"\n{name}: {args.images} images, {args.rounds} rounds, {torch.get_num_threads()} threads\n")
        print("| attack / against | ours, s | theirs, s | theirs / ours | least – most | wrong, ours – theirs |")
        print("|---|---|---|---|---|---|")
        for label, ours, theirs in rows(work, args.steps, args.queries):
            if args.only not in label:
                continue
            wrong = [wrong_share(work, call()) for call in (ours, theirs)]
            t = paired(ours, theirs, args.rounds)
            print(
                f"| {label} | {t.ours:.2f} | {t.theirs:.2f} | {t.ratio:.2f} | {t.low:.2f} – {t.high:.2f} |"
                f" {wrong[0]:.2f} – {wrong[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
