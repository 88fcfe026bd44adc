"""The one trainer: every recipe goes through `train`.

A step is decided by (recipe, seed, step number, weights) alone: batches, augmentation and random starts are drawn from
(seed, step). So a training that was killed and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cmai_core.errors import OptionError
from cmai_core.files import check_folder
from cmai_core.models.core import hash_of_weights
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.models.tokenizer import bundled_tokenizer_dir
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.training import adapters
from cmai_core.training.averaging import MovingAverage
from cmai_core.training.batches import Arrays, Prefetcher, TrainingBatch, to_pixels
from cmai_core.training.checkpoint import CHECKPOINT, Log, load_checkpoint, save_checkpoint
from cmai_core.training.distributed import ALONE, Processes
from cmai_core.training.edits import TrueEdits
from cmai_core.training.extra_losses import MaskedHead
from cmai_core.training.inner import InnerProblem, perturb
from cmai_core.training.loop import LOG_EVERY, Loop
from cmai_core.training.losses import Parts, PatchHead, PlaceHead
from cmai_core.training.projector import projector
from cmai_core.training.rivals import CaptionQueue, Rivals
from cmai_core.training.schedule import learning_rate
from cmai_core.training.settings import Recipe
from cmai_core.training.steering import Steering
from cmai_core.training.step import StepLoss
from cmai_core.training.text_inner import worst_question_words, worst_words
from cmai_core.training.validation import quick_validation, robust_validation

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class TrainingResult:
    """The saved model's folder, last validation figures, pairs seen, seconds of computing over all sessions."""

    model_dir: Path
    results: dict[str, float]
    pairs: int
    seconds: float


@dataclass(frozen=True)
class RunOptions:
    """How a training runs, without influence on what it computes (but for `minutes`, which decides its length).

    Attributes:
        pairs: length; None takes the recipe's. minutes: a time budget instead, made into pairs after the first steps.
        checkpoint_minutes: time between checkpoints; checkpoint_steps: or steps between them.
        validate_every: steps between quick validations, 0 for the end only.
        validation_scenes: gallery size of the quick validation.
        restart: ignore what the folder holds.
        command: what the card says the model was made with.
    """

    pairs: int | None = None
    minutes: float | None = None
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int | None = None
    validate_every: int = 1000
    validation_scenes: int = 500
    restart: bool = False
    command: str = ""


def _frozen(tower: nn.Module) -> nn.Module:
    return copy.deepcopy(tower).eval().requires_grad_(False)


def take_apart(model: VisionLanguageModel) -> Parts:
    """Return the towers of a CoCa and what its losses need to know.

    Raises:
        ModelError: the model is no CoCa with open_clip's own image tower.
    """
    towers = model.trainable()
    return Parts(
        visual=towers.visual,
        text=towers.text,
        decoder=towers.decoder,
        logit_scale=towers.logit_scale,
        mean=towers.mean,
        std=towers.std,
        two_images=model.two_image_tokens,
        **dict(zip(("pad", "bos", "eos"), model.token_ids(), strict=True)),
        punctuation=model.punctuation.to(model.device),
    )


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Say whether matrix products run in bf16: as told, or for "auto" where the processor multiplies bf16 natively."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Make AdamW without decay of vectors, embeddings and the temperature; heads learn faster by `heads_rate`."""
    plain = ("embedding", "cls_emb", "logit_scale", ".query")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kept = parameter.ndim < 2 or any(p in name for p in plain)
            key = (0.0 if kept else recipe.weight_decay, recipe.heads_rate if name.startswith("heads.") else 1.0)
            groups.setdefault(key, []).append(parameter)
    settings = [{"params": found, "weight_decay": decay, "scale": scale} for (decay, scale), found in groups.items()]
    return torch.optim.AdamW(settings, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


class Training:
    """A training in progress: modules, optimiser, averages, and one step.

    Args:
        reference: validation data, for ARM. arrays: what the batches are drawn from, for recipes with a queue.

    Raises:
        OptionError: ARM without reference, or a queue without arrays.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        recipe: Recipe,
        seed: int,
        reference: Arrays | None = None,
        processes: Processes = ALONE,
        arrays: Arrays | None = None,
    ):
        self.model, self.recipe, self.seed, self.processes = model, recipe, seed, processes
        self.parts = take_apart(model)
        self.network = model.trainable().network
        self.start = _frozen(self.parts.visual) if recipe.reads_start else None
        self.start_text = _frozen(self.parts.text) if recipe.reads_start_texts else None
        self.network.train().requires_grad_(False)
        for name in recipe.trained:
            getattr(self.parts, name).requires_grad_(True)
        self.parts.logit_scale.requires_grad_(bool(recipe.trained) and recipe.trained != ("visual",))
        self.plain = copy.deepcopy(self.network) if recipe.adapters else None
        if recipe.adapters:
            adapters.attach(self.network, recipe.adapters, torch.Generator().manual_seed(seed + 3))
        self.heads = self._heads()
        generator = torch.Generator().manual_seed(seed + 1)
        width, text = self.parts.visual.transformer.width, model.embed_dim
        self.head = PatchHead(width, generator).to(model.device) if recipe.weights.patch else None
        self.masked = MaskedHead(width, text, generator).to(model.device) if recipe.weights.masked else None
        self.place = None
        if recipe.reads_things:
            self.place = PlaceHead(width, torch.Generator().manual_seed(seed + 4)).to(model.device)
        modules = {
            "clip": self.network, "heads": self.heads, "head": self.head, "masked": self.masked, "place": self.place,
        }  # fmt: skip
        self.module = nn.ModuleDict({name: module for name, module in modules.items() if module is not None})
        self.loss = processes.wrap(StepLoss(self.module, self.parts, recipe, self.start, self.start_text))
        self.optimizer = _optimizer(self.module, recipe)
        self.average = MovingAverage(self.module, recipe.ema)
        self.bf16 = uses_bf16(recipe.precision, model.device)
        self.edits = TrueEdits.tabletop(bundled_tokenizer_dir() / "tokenizer.json").to(model.device)
        self.steering = Steering.of(recipe, self.parts, self.heads, reference)
        self.previous: Tensor | None = None
        self.means: Tensor | None = None
        if recipe.queue and arrays is None:
            raise OptionError("A queue of captions asks the data what is true.", "Give the training's arrays.")
        self.queue = CaptionQueue(recipe.queue, arrays) if recipe.queue else None
        self.step, self.total_steps, self.seconds = 0, None, 0.0

    @property
    def number(self) -> int:
        """Of this process's share of the step: what its random numbers are drawn from."""
        return self.step * self.processes.count + self.processes.rank

    @property
    def finished(self) -> bool:
        """Whether all steps are taken; False while their number is not known."""
        return self.total_steps is not None and self.step >= self.total_steps

    def _heads(self) -> ConsistencyHeads | None:
        """Return the model's consistency heads, new ones where it has none and the recipe trains them."""
        model, recipe = self.model, self.recipe
        if recipe.has_heads and model.heads is None:
            generator = torch.Generator().manual_seed(self.seed + 2)
            model.heads = ConsistencyHeads(model.head_sizes(), generator).to(model.device)
        elif not recipe.has_heads:
            model.heads = None  # heads that the towers move away from would measure nothing
        return None if model.heads is None else model.heads.train().requires_grad_(True)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _generator(self, purpose: str) -> torch.Generator:
        """Return random numbers of this step alone, so that a resumed training draws the same ones."""
        digest = hashlib.sha256(f"{self.seed}/{self.number}{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))

    def perturbed(
        self, batch: TrainingBatch, pixels: Tensor, rivals: Rivals | None = None
    ) -> tuple[TrainingBatch, Tensor]:
        """Return the batch with the share λ of its images (and their captions) perturbed.

        Every 1/λ-th, so that both kinds are in each half. The batch's captions join the queue.
        """
        inner, share = self.steering.inner, self.steering.share
        if inner is None or not share:
            return batch, pixels
        if self._starting(self.recipe.projector_share):
            inner = replace(inner, losses={"drift": 1.0}, alpha=1.0, beta=0.0, words=0, question_words=0)
        scale = 1.0
        if inner.warmup > 0:
            progress = self.step / self.total_steps if self.total_steps else 0.0
            scale = min(1.0, (progress + 1 / max(self.total_steps or 1000, 1)) / inner.warmup)
        index = torch.arange(len(pixels), device=pixels.device)
        rows = (((index + 1) * share).floor() > (index * share).floor()).nonzero()[:, 0]
        problem = InnerProblem(inner, self.parts, batch, rows, self.heads, self.start, pixels[rows], rivals)
        out = pixels.clone()
        out[rows] = perturb(
            pixels[rows],
            problem.objective,
            inner,
            scale=scale,
            generator=self._generator(""),
            previous=self.previous,
        )
        if self.queue is not None:
            self.queue.push(*map(self.processes.gathered, (problem.texts.float(), batch.rows, batch.columns)))
        if inner.start == "previous":
            self.previous = (out[rows] - pixels[rows]).half()  # as a checkpoint keeps it
        if inner.words or inner.question_words:
            with torch.no_grad():
                image = self.parts.vision(out)
        if inner.words:
            more = {"start": self.start_text, "generator": self._generator("/words")}
            ids = worst_words(self.parts, self.heads, batch, image, rows, inner, self.edits, **more)
            batch = replace(batch, caption_ids=ids)
        if inner.question_words and len(batch.question_ids):
            ids = worst_question_words(self.parts, batch, image, rows, self.edits)
            batch = replace(batch, question_ids=ids)
        return batch, out

    def _starting(self, share: float) -> bool:
        """Return whether the training is within this share of its steps."""
        return self.step < share * (self.total_steps or 0)

    def _balanced(self, losses: Tensor) -> Tensor:
        """Return the clean and the perturbed loss weighted by their moving averages (ProEAT, arXiv 2503.04833)."""
        found, momentum = losses.detach(), self.recipe.balance
        self.means = found if self.means is None else momentum * self.means.to(found) + (1 - momentum) * found
        return (self.means / self.means.sum() * losses).sum()

    def advance(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Take one optimiser step; return what to log."""
        recipe = self.recipe
        clean = to_pixels(batch.images, recipe, self.seed, self.number)
        with self.autocast():
            self.steering.measure(self.step)
            rivals = None if self.queue is None else self.queue.beside(batch)
            changed, pixels = self.perturbed(batch, clean, rivals)
            patches, projecting = self._starting(recipe.vision_share), self._starting(recipe.projector_share)
            only = "vision" if patches and self.head is not None else "drift" if projecting else ""
            apart = recipe.balance > 0 and not only
            more = {"plain": batch, "only": only, "apart": apart, "rivals": rivals}
            loss, seen = self.loss(changed, pixels, clean, self._generator("/hidden"), **more)
            loss = self._balanced(loss) if apart else loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if only == "drift":
            kept = {id(parameter) for parameter in projector(self.parts.visual)}
            for parameter in self.module.parameters():
                if id(parameter) not in kept:
                    parameter.grad = None
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip_norm)
        rate = learning_rate(recipe, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.step()
        with torch.no_grad():
            self.parts.logit_scale.clamp_(max=MAX_LOG_SCALE)
        self.average.update()
        self.step += 1
        return {"loss": loss.detach(), "gradient_norm": norm, **{k: v.detach() for k, v in seen.items()}}

    def validate(self, arrays: Arrays | None, scenes: int) -> dict[str, float]:
        """Return figures of the averaged weights."""
        if arrays is None:
            return {}
        self.module.eval()
        try:
            with self.average.applied(), self.autocast():
                figures = quick_validation(self.parts, arrays, scenes=scenes)
                figures |= robust_validation(self.parts, arrays, self.recipe, self.heads)
        finally:
            self.module.train()
        return {name: round(value, 4) for name, value in figures.items()}

    def state(self, identity: dict[str, Any]) -> dict[str, Any]:
        return {
            "identity": json.dumps(identity),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "steering": self.steering.state(),
            "previous": self.previous,
            "queue": self.queue and self.queue.state(),
            "means": self.means,
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.steering.restore(state["steering"])
        self.previous, self.means = state["previous"], state.get("means")
        if self.queue is not None:
            self.queue.restore(state["queue"], self.model.device)
        self.step, self.total_steps, self.seconds = state["step"], state["total_steps"], state["seconds"]


def train(
    recipe: Recipe,
    *,
    out_dir: str | Path,
    model: VisionLanguageModel,
    arrays: Arrays,
    validation: Arrays | None = None,
    seed: int = 0,
    options: RunOptions | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    processes: Processes = ALONE,
) -> TrainingResult:
    """Train, or go on where the folder's checkpoint stands, and save the averaged weights as a `local-dir` model.

    Args:
        recipe: what to compute.
        out_dir: gets checkpoint.pt, log.jsonl (and, where TensorBoard is installed, its event files in
            tensorboard/) and, at the end, model/.
        model: where the training starts; its weights are changed. (See `runs.start_model`.)
        arrays, validation: data; without validation arrays there are no validation figures.
        seed: of batches, augmentation and random starts.
        options: length, checkpoints, validation.
        progress: told after every logged interval. cancel: looked at once a step; a checkpoint is written first.
        on_log: gets each record of log.jsonl.
        processes: that share the work (see `distributed`); only the first writes.

    Raises:
        CmaiError: the folder cannot be written or holds another training, or the loss is no longer finite.
        Cancelled: after the checkpoint.
    """
    options = options or RunOptions()
    folder = Path(out_dir)
    check_folder(folder)
    if options.restart and processes.first:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    processes.wait()
    identity = _identity(recipe, seed, len(arrays), _fingerprint(model), options, processes)
    training = Training(model, recipe, seed, validation, processes, arrays)
    saved = load_checkpoint(folder, identity)
    if saved is not None:
        training.restore(saved)
    elif options.minutes is None:
        training.total_steps = max(1, math.ceil(identity["pairs"] / recipe.batch))
    processes.wait()  # all have read the checkpoint before one is written
    log = Log(folder, training.step) if processes.first else None

    def record(entry: dict[str, Any]) -> None:
        if log is not None:
            log.write(entry)
        if on_log is not None:
            on_log(entry)

    _run(training, arrays, validation, options, folder, identity, record, progress, cancel)
    results = training.validate(validation, options.validation_scenes)
    pairs = training.step * recipe.batch
    record({"step": training.step, "pairs": pairs, "final": True, "seconds": round(training.seconds, 1), **results})
    model_dir = folder / "model"
    if processes.first:
        save_checkpoint(folder, training.state(identity))
        _save(training, folder, identity, results, pairs, options.command)
        log.close()
    processes.wait()
    return TrainingResult(model_dir, results, pairs, training.seconds)


def _fingerprint(model: VisionLanguageModel) -> str:
    """Return a short hash of the starting weights."""
    return hash_of_weights(model.state())[:16]


def _identity(
    recipe: Recipe, seed: int, scenes: int, start: str, options: RunOptions, processes: Processes
) -> dict[str, Any]:
    """Say what decides a training's weights; a checkpoint goes on only under the same.

    Raises:
        OptionError: a time budget, or a balance of clean and perturbed loss, for several processes.
    """
    identity: dict[str, Any] = {"recipe": recipe.to_dict(), "seed": seed, "scenes": scenes, "start": start}
    if options.minutes is None:
        identity["pairs"] = options.pairs or recipe.pairs
    else:
        identity["minutes"] = options.minutes
    if processes.count > 1:
        identity["processes"] = processes.count
        if options.minutes is not None:
            raise OptionError("A time budget is for one process.", "Give --pairs.")
        if recipe.balance:
            raise OptionError("The balance of two losses is for one process.", "Start one, or set balance=0.")
    return identity


def _run(
    training: Training,
    arrays: Arrays,
    validation: Arrays | None,
    options: RunOptions,
    folder: Path,
    identity: dict[str, Any],
    record: Callable[[dict[str, Any]], None],
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> None:
    """Take the steps that are left."""
    if training.finished:
        return
    processes = training.processes
    own = replace(training.recipe, batch=processes.share(training.recipe.batch))
    source = Prefetcher(arrays, own, training.seed, training.number, stride=processes.count, edits=training.edits)

    def save() -> None:
        if processes.first:
            save_checkpoint(folder, training.state(identity))

    loop = Loop(training, options, validation, save, record, progress)
    try:
        for number, batch in source:
            loop.fix_length(number // processes.count)
            loop.advance(batch)
            if training.step % LOG_EVERY == 0 or training.finished:
                loop.log()
            loop.validate_where_due()
            loop.save_where_due()
            if training.finished:
                return
            if cancel is not None and cancel.cancelled:
                save()
                cancel.check()
    finally:  # a step that was cut off is not saved: half of it would be taken twice
        source.close()


def _save(
    training: Training, folder: Path, identity: dict[str, Any], results: dict[str, float], pairs: int, command: str
) -> Path:
    from cmai_core.models.save import save_local_dir

    recipe, model = training.recipe, training.model
    card = {
        "name": recipe.model_name,
        "defended": recipe.defended,
        "domain": "tabletop",
        "architecture": recipe.architecture,
        "description": recipe.summary,
        "training": {
            "command": command,
            "recipe": recipe.to_dict(),
            "source": recipe.source,
            "seed": training.seed,
            "pairs": pairs,
            "scenes": identity["scenes"],
            "seconds": round(training.seconds, 1),
            **({"processes": training.processes.count} if training.processes.count > 1 else {}),
            "device": _device_name(model.device),
            "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
            "precision": "bf16" if training.bf16 else "fp32",
            **({"steering": training.steering.history} if training.steering.history else {}),
            "torch": torch.__version__,
            **({"start": start} if (start := _start_of(model)) else {}),
        },
        "results": {"validation": results},
    }
    with training.average.applied():
        path = save_local_dir(_finished(training), folder / "model", card)
    training.network.eval()
    return path


def _finished(training: Training) -> VisionLanguageModel:
    """Return the model as it is saved: low-rank updates are part of the matrices."""
    if training.plain is None:
        return training.model
    training.plain.load_state_dict(adapters.merged(training.network))
    return training.model.with_network(training.plain)


def _start_of(model: VisionLanguageModel) -> dict[str, Any]:
    """Return what the model was before this training, as its card says; empty for a new model."""
    before = model.card.get("training") or {}
    kept = ("command", "seed", "pairs", "seconds", "device", "precision", "start")
    return {name: before[name] for name in kept if name in before}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {os.cpu_count()} cores"
