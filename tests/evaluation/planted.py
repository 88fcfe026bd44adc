"""Models, defences and attacks with a known flaw, for the tests of the self-checks."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from cmai_core.attacks.objectives.objective import Objective
from cmai_core.attacks.searches.gradient import GradientSearch
from cmai_core.data.pair import Pair

_KIT = Path(__file__).resolve().parent.parent / "attacks" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("cmai_test_attack_kit", _KIT)
kit = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = kit
_SPEC.loader.exec_module(kit)


class Task(kit.ScoredTask):
    """Classification that tells right from wrong on the device, which is quick."""

    def wrong(self, model, features, prepared):
        return features.embedding.argmax(dim=1) != prepared


class Pictures(list):
    """A dataset."""

    name, split, classes = "fake", "test", tuple(str(k) for k in range(kit.CLASSES))


def pictures(model, count=24, size=8):
    """Pictures labelled as the model sees them."""
    batch = kit.make_batch(model, count, size)
    images = (batch.pixels * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    return Pictures(Pair(p.id, image, p.captions, label=p.label) for p, image in zip(batch.pairs, images, strict=True))


class Wrapped:
    """A model with something around its image tower."""

    def __init__(self, model):
        self.model = self.clip = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def image_features(self, pixels):
        scores = self.scores(pixels)
        return kit.Features(scores, scores)

    def scores(self, pixels):
        return self.model.image_features(pixels).embedding


class Rounding(Wrapped):
    """Rounds its input, which has no gradient but zero."""

    def scores(self, pixels):
        return super().scores((pixels * 31).round() / 31)


class Saturated(Wrapped):
    """Scores so large that the softmax is exactly 0 or 1, and its gradient exactly zero."""

    def scores(self, pixels):
        return super().scores(pixels) * 1e6


class Detached(Wrapped):
    """Cuts the gradient off."""

    def scores(self, pixels):
        return super().scores(pixels).detach()


class Misleading(Wrapped):
    """Answers with the model's scores, and gives the gradient of others."""

    def scores(self, pixels):
        true = super().scores(pixels).detach()
        stand_in = torch.sin(1000 * pixels).flatten(1)[:, : true.shape[1]]
        return true + stand_in - stand_in.detach()


class NotANumber(Wrapped):
    """The gradient is not a number where a pixel is dark."""

    def scores(self, pixels):
        return super().scores(pixels) + 0 * torch.where(pixels > 0.5, (pixels - 0.5).sqrt(), 0.0).sum(
            dim=(1, 2, 3)
        ).unsqueeze(1)


class Coarse(Wrapped):
    """Gives only the signs of the gradient."""

    def scores(self, pixels):
        return super().scores(_Signs.apply(pixels))


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(context, pixels):
        return pixels.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient.sign()


class Random(Wrapped):
    """Adds noise to every picture it sees."""

    def __init__(self, model, sigma=0.1):
        super().__init__(model)
        self.sigma, self.generator = sigma, torch.Generator().manual_seed(1)

    def scores(self, pixels):
        noise = torch.randn(pixels.shape, generator=self.generator, dtype=pixels.dtype)
        return super().scores(pixels + self.sigma * noise)


class BatchDependent(Wrapped):
    """Centres the batch, so that an answer depends on who else is in it."""

    def scores(self, pixels):
        scores = super().scores(pixels)
        return scores - scores.mean(dim=0, keepdim=True) if len(pixels) > 1 else scores


class Adapting(Wrapped):
    """Takes a gradient step on its input before it answers.

    Args:
        followed: keep the step's graph, so that an attack can differentiate it.
    """

    def __init__(self, model, followed=False):
        super().__init__(model)
        self.followed = followed

    def scores(self, pixels):
        with torch.enable_grad():
            x = pixels if self.followed and pixels.requires_grad else pixels.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(super().scores(x).logsumexp(dim=1).sum(), x, create_graph=self.followed)
        return super().scores(pixels + 0.001 * slope)


class Countering(Wrapped):
    """Perturbs its input in its own favour, in a worker thread that was there before anybody looked."""

    def __init__(self, model, epsilon=32 / 255, steps=8):
        super().__init__(model)
        self.epsilon, self.steps, self.worker = epsilon, steps, ThreadPoolExecutor(1)
        self.worker.submit(int).result()

    def counter(self, pixels):
        x = pixels
        with torch.enable_grad():
            seen = self.model.image_features(x).embedding.argmax(dim=1, keepdim=True)
            for _ in range(self.steps):
                x = x.detach().requires_grad_(True)
                log_p = self.model.image_features(x).embedding.log_softmax(dim=1)
                (slope,) = torch.autograd.grad(log_p.gather(1, seen).sum(), x)
                x = x + self.epsilon / self.steps * slope.sign()
        return x.detach() - pixels

    def scores(self, pixels):
        return super().scores(pixels + self.worker.submit(self.counter, pixels.detach()).result())


class Gated(Wrapped):
    """Blurs whatever is no picture of 8 bits, as the iterates of an attack are; what is written to a file passes."""

    def scores(self, pixels):
        levels = pixels * 255
        off = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        blurred = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        return super().scores(torch.where(off, blurred, pixels))


class Watching(Wrapped):
    """Answers otherwise where somebody takes gradients."""

    def scores(self, pixels):
        return super().scores(1 - pixels if pixels.requires_grad else pixels)


@dataclass(frozen=True, kw_only=True)
class Liar(GradientSearch):
    """Announces its steps and takes three."""

    def run(self, problem, *, seed, watch):
        short = {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "steps": 3}
        return GradientSearch(**short).run(problem, seed=seed, watch=watch)


@dataclass(frozen=True)
class WrongLoss(Objective):
    """The brightness of the first pixel: no loss of the model at all."""

    def bind(self, model, batch, shared=None):
        return self

    def select(self, rows):
        return self

    def __call__(self, model, pixels, features):
        return pixels[:, 0, 0, 0] + 0 * features.embedding.sum(dim=1)

    def describe(self):
        return "first pixel"


def _climb(model, batch, length, steps):
    """Signed gradient steps on the margin over the clean labels."""
    labels = torch.tensor([int(pair.label) for pair in batch.pairs])
    x = batch.pixels
    for _ in range(steps):
        point = x.detach().requires_grad_(True)
        scores = model.image_features(point).embedding
        right = F.one_hot(labels, scores.shape[1]).bool()
        loss = (scores.masked_fill(right, -torch.inf).amax(dim=1) - scores[right]).sum()
        x = (point + length * torch.autograd.grad(loss, point)[0].sign()).detach().clamp(0, 1)
    return x


def honest(model, batch, epsilon):
    x = batch.pixels
    for _ in range(10):
        moved = _climb(
            model, batch.__class__(batch.ids, x, batch.texts, batch.image_of_text, batch.pairs), epsilon / 4, 1
        )
        x = moved.clamp(batch.pixels - epsilon, batch.pixels + epsilon)
    return x


def timid(model, batch, epsilon):
    """Uses a tenth of its budget."""
    return _climb(model, batch, epsilon / 10, 1)


def half(model, batch, epsilon):
    """Gives back every second sample as it was."""
    x = honest(model, batch, epsilon).clone()
    x[::2] = batch.pixels[::2]
    return x


def noisy(model, batch, epsilon):
    """Returns noise, whatever the model says."""
    generator = torch.Generator().manual_seed(0)
    return (
        batch.pixels + epsilon * torch.randn(batch.pixels.shape, generator=generator, dtype=batch.pixels.dtype).sign()
    )


@dataclass(frozen=True, kw_only=True)
class Downhill(GradientSearch):
    """Goes down, and hands back where it ended."""

    def run(self, problem, *, seed, watch):
        down = dataclasses.replace(problem, evaluator=_Upside(problem.evaluator))
        return GradientSearch(steps=self.steps, random_start=False, keep="last").run(down, seed=seed, watch=watch)


class _Upside:
    """An evaluator with the gradient's sign turned."""

    def __init__(self, evaluator):
        self._evaluator = evaluator

    def __getattr__(self, name):
        return getattr(self._evaluator, name)

    def value_and_grad(self, *args, **options):
        evaluation, gradient = self._evaluator.value_and_grad(*args, **options)
        return evaluation, -gradient


@dataclass(frozen=True, kw_only=True)
class Shy(GradientSearch):
    """Moves less the more it may: nothing at all beyond 6/255."""

    def run(self, problem, *, seed, watch):
        bold = bool((problem.region.epsilon <= 6 / 255).all())
        length = None if bold else 1e-9
        honest = GradientSearch(steps=self.steps, step_size=length, random_start=False)
        return honest.run(problem, seed=seed, watch=watch)


class Purifying(Wrapped):
    """Moves the embedding's direction towards a template and hands on no gradient of it, after CLIPure-Cos.

    The template says nothing of any class, so that no answer changes: an attack that finds nothing here has only lost
    its gradient, of which the embedding's length is left.
    """

    steps, rate = 10, 0.1

    def scores(self, pixels):
        found = super().scores(pixels)
        direction = F.normalize(found.detach(), dim=1)
        template = F.normalize(torch.ones_like(direction), dim=1)
        for _ in range(self.steps):
            agreement = (direction * template).sum(dim=1, keepdim=True)
            direction = F.normalize(direction + self.rate * (template - agreement * direction), dim=1)
        return found.norm(dim=1, keepdim=True) * direction


class Returning(Wrapped):
    """Moves its input away from where it is seen, after TTC: what was pushed there is to come back.

    From a start of small noise, always the same, so that nothing here is random; gradients pass as if nothing moved.
    """

    def __init__(self, model, epsilon=8 / 255, steps=4):
        super().__init__(model)
        self.epsilon, self.steps = epsilon, steps

    def scores(self, pixels):
        seen = pixels.detach()
        with torch.enable_grad():
            noise = torch.rand(seen.shape[1:], generator=torch.Generator().manual_seed(0), dtype=seen.dtype) - 0.5
            x, own = seen + 2 / 255 * noise, super().scores(seen).detach()
            for _ in range(self.steps):
                x = x.detach().requires_grad_(True)
                (slope,) = torch.autograd.grad((super().scores(x) - own).square().sum(), x)
                x = x + self.epsilon / self.steps * slope.sign()
        return super().scores(pixels + (x - seen).detach())


class Resizing(Wrapped):
    """Shrinks every picture by a random amount and puts it at a random place on grey (Xie et al. 2018, 1711.01991).

    Args:
        fixed: draw both from the picture's own bytes: the same picture is always answered alike.
    """

    def __init__(self, model, fixed=False):
        super().__init__(model)
        self.fixed, self.generator = fixed, torch.Generator().manual_seed(1)

    def scores(self, pixels):
        return super().scores(torch.cat([self.resized(picture[None]) for picture in pixels]))

    def resized(self, picture):
        generator = self.generator
        if self.fixed:
            digest = hashlib.sha256(picture.detach().numpy().tobytes()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
        size = picture.shape[-1]
        side, top, left = (int(torch.randint(0, 3, (), generator=generator)) for _ in range(3))
        side = size - side
        small = F.interpolate(picture, size=(side, side), mode="bilinear", align_corners=False)
        top, left = min(top, size - side), min(left, size - side)
        return F.pad(small, (left, size - side - left, top, size - side - top), value=0.5)


def unaware(model, batch, epsilon):
    """Attacks the bare model, whatever stands around it."""
    return honest(model.model, batch, epsilon)
