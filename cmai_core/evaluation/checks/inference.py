"""Checks of the model as it answers: same answers as plain inference, no randomness, no optimisation at inference."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.autograd.variable import Variable

from cmai_core.evaluation.checks.check import Check, share
from cmai_core.evaluation.checks.context import PASSES, SAME, Bench
from cmai_core.evaluation.runs.predictor import read_images
from cmai_core.models.evaluation_mode import evaluation_mode

# Two averaged gradients whose cosine is below one half hold more of the model's randomness than of its slope.
STEADY = 0.5
# Preprocessing may leave values between the 256 levels; rounding them may turn a borderline answer, not many.
ROUNDED_SHARE = 0.02
# Pictures that are asked about one by one, which takes longer than all else: a harness that shows something else is
# wrong about most of them.
ALONE = 16

CLEAN = "clean accuracy under the harness equals plain inference"
RANDOM = "the model is not random, or the attack averages over its randomness"
OPTIMISES = "the model does not optimise anything at inference"


def clean_accuracy(bench: Bench) -> Check:
    """Check that the harness (a batch, 8-bit pixels, the model at rest) answers as the model alone does.

    "Report clean model accuracy" (Carlini et al. 2019, §5): a harness that shows another model, or other pixels, than
    the one that is deployed measures something else.
    """
    plain, same_pixels = [], []
    for row, pair in enumerate(bench.everyone.pairs[:ALONE]):
        pixels = bench.model.preprocess([pair.image])
        same_pixels.append(bool((pixels[0] - bench.everyone.pixels[row].to(pixels)).abs().max() < 1e-6))
        with torch.no_grad():
            prepared = bench.task.prepare(bench.model, [pair], bench.dataset)
            plain.append(bench.task.predict(bench.model, bench.model.image_features(pixels), prepared)[0])
    read = bench.clean[: len(plain)]
    differ = [p.answer != h.answer or p.correct != h.correct for p, h in zip(plain, read, strict=True)]
    exact = sum(d for d, same in zip(differ, same_pixels, strict=True) if same)
    other = sum(differ) - exact
    known = [k for k, reading in enumerate(read) if reading.correct is not None]
    right = sum(read[k].correct for k in known), sum(bool(plain[k].correct) for k in known)
    numbers = {
        "samples": len(plain),
        "known": len(known),
        "right_harness": right[0],
        "right_plain": right[1],
        "answers_differ": sum(differ),
        "differ_on_same_pixels": exact,
    }
    evidence = (
        f"Right when clean: {share(right[0], len(known))} under the harness, {share(right[1], len(known))} when the "
        f"model is asked picture by picture; {share(sum(differ), len(plain))} of the answers differ."
    )
    if exact:
        return Check(CLEAN, "fail", f"{evidence} {exact} of them although the pixels are the same.", numbers)
    if other > ROUNDED_SHARE * len(plain):
        return Check(CLEAN, "warn", f"{evidence} All of them on pixels that were rounded to 8 bits.", numbers)
    return Check(CLEAN, "pass", evidence, numbers)


def randomised(bench: Bench) -> Check:
    """Check that the same picture gives the same loss and answer twice; else gradients must be averaged (EOT).

    AutoAttack's flag "randomized defense"; "properly ensemble over randomness" (Carlini et al. 2019, §5; Athalye et al.
    2018, arXiv 1802.00420, §3).
    """
    readings = read_images(
        bench.model, bench.task, bench.dataset, bench.everyone, [bench.everyone.pixels] * PASSES, answers=False
    )
    turned = sum(len({reading.answer for reading in row}) > 1 for row in zip(*readings, strict=True))
    averaged = bench.attacker.averaged * (getattr(bench.model, "passes", 1) if bench.white_box else 1)
    numbers: dict[str, Any] = {
        "passes": PASSES,
        "loss_difference": bench.random,
        "answers_turned": turned,
        "samples": len(bench.everyone.ids),
        "gradients_averaged": averaged,
    }
    if bench.random <= SAME and not turned:
        evidence = f"{PASSES} passes over the same pictures differ by {bench.random:.1g} in the loss, and in no answer."
        return Check(RANDOM, "pass", evidence, numbers)
    found = (
        f"The model is random: over {PASSES} passes the loss of one and the same picture differs by up to "
        f"{100 * bench.random:.3g} %, and {share(turned, len(bench.everyone.ids))} of the answers turn."
    )
    if bench.attacker.external:
        return Check(RANDOM, "warn", f"{found} Whether the outside attack averages cannot be seen.", numbers)
    if averaged == 1:
        advice = "The attack takes one gradient a step; average several (option eot)."
        return Check(RANDOM, "fail", f"{found} {advice}", numbers)
    numbers["cosine"] = cosine = _steadiness(bench)
    evidence = f"{found} The attack averages {averaged} passes a step; two such averages agree with cosine {cosine:.2f}"
    if not cosine >= STEADY:
        return Check(RANDOM, "warn", f"{evidence}, below {STEADY:g}: average more.", numbers)
    return Check(RANDOM, "pass", f"{evidence}.", numbers)


def _steadiness(bench: Bench) -> float:
    """Return median cosine between two of the attack's averaged gradients."""
    evaluator, parts = bench.evaluator(), []
    with evaluation_mode(bench.model):
        for _ in range(2):
            drawn = [evaluator.value_and_grad(bench.batch.pixels)[1] for _ in range(bench.attacker.averaged)]
            parts.append((sum(drawn[1:], drawn[0]) / len(drawn)).flatten(1))
    return float(torch.nn.functional.cosine_similarity(*parts).median())


def optimises(bench: Bench) -> Check:
    """Check that nothing is optimised at inference (AutoAttack's flag "optimization at inference time").

    A model that changes its input or itself by gradients when it is asked can hide from an attack that does not follow
    these steps (Croce et al. 2022, arXiv 2202.13711). It is asked about a clean picture and about one between the
    levels of a file, with gradients switched off and on; it may take its own in any thread. Where it drops their graphs
    while an attack differentiates it, the attack by gradients takes what depends on the picture for a constant.
    """
    pixels = bench.everyone.pixels[:1]
    between = (pixels + 0.3 / 255).clamp(max=1.0)
    with evaluation_mode(bench.model):
        passes = [(picture, grad) for picture in (pixels, between) for grad in (False, True)]
        found: list[Call] = []
        cut = 0
        for picture, grad in passes:
            with counting_gradients() as calls, torch.set_grad_enabled(grad):
                bench.model.image_features(picture.detach().requires_grad_(grad))
            found += calls
            cut += sum(not call.kept for call in calls) if grad else 0
    threads = sorted({call.thread for call in found} - {threading.current_thread().name})
    numbers = {"gradient_calls": len(found), "passes": len(passes), "other_threads": len(threads), "cut": cut}
    if not found:
        return Check(OPTIMISES, "pass", "A forward pass takes no gradients by itself, in no thread.", numbers)
    where = " (in threads of its own)" if threads else ""
    evidence = (
        f"{len(passes)} forward passes took gradients {len(found)} times by themselves{where}: the model adapts to its "
        "input, and attacks through a fixed model may miss it."
    )
    by_gradient = bench.white_box and not (bench.count and bench.gradient_free)
    if cut and by_gradient:
        evidence += (
            f" {cut} of them dropped their graph while the model was differentiated: attacks take the adaptation for "
            "a constant: differentiate through it (create_graph=True), or attack by scores."
        )
        return Check(OPTIMISES, "fail", evidence, numbers)
    return Check(OPTIMISES, "warn", evidence, numbers)


class Call(NamedTuple):
    """One asking of PyTorch's engine for gradients: in which thread, and whether the gradients' own graph is kept."""

    thread: str
    kept: bool


@contextmanager
def counting_gradients() -> Iterator[list[Call]]:
    """Yield who asks PyTorch's engine for gradients while inside.

    Whatever asks from Python, `torch.autograd`, `Tensor.backward` or `torch.func`, in whichever thread and by whichever
    name it was imported, looks the engine up at one place. A profiler or a dispatch mode would see one thread alone.
    """
    calls: list[Call] = []
    engine = Variable._execution_engine
    Variable._execution_engine = _Heard(engine, calls)
    try:
        yield calls
    finally:
        Variable._execution_engine = engine


class _Heard:
    """The engine, with its calls noted."""

    def __init__(self, engine: Any, calls: list[Call]):
        self._engine, self._calls = engine, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run_backward(self, *args: Any, **options: Any) -> Any:
        kept = options.get("create_graph", args[3] if len(args) > 3 else False)  # tensors, gradients, retain, create
        self._calls.append(Call(threading.current_thread().name, bool(kept)))
        return self._engine.run_backward(*args, **options)
