"""From a finished training to a bundled model with a card.

cmai bundle runs/base/model tabletop --measure    # with figures on the test split
cmai bundle runs/tecoa/model tabletop-tecoa --heads runs/tecoa-heads/model
cmai bundle --cards                     # print the cards of all bundled models as Markdown
cmai bundle --hashes                    # of the bundled models as they are, written anew
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.budget import Budget
from cmai_core.data.registry import DEFAULT_DATASET
from cmai_core.errors import ModelError
from cmai_core.progress import Progress
from cmai_core.tasks import TASKS
from cmai_core.templates import render_markdown

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

SIZE_LIMIT = 8_000_000
"""Bytes of a bundled model's weights; consistency heads and tokenizer lie beside them."""
SHIFTED = 400
"""Pairs of each held-out or shifted split on which a bundled model's thresholds are tried."""
EPSILONS = (1, 2, 4, 8)
STEPS = 20


def bundle(
    source: Path,
    name: str,
    *,
    heads: Path | None = None,
    limit: int = 1000,
    attacked: int = 200,
    measured: bool = False,
    calibration: int = 1000,
) -> dict[str, Any]:
    """Copy a trained `local-dir` model into the assets with its files' hashes, calibrates it, and writes its figures.

    Args:
        source: the training's model folder. name: what the bundled model is called.
        heads: folder of a model with the same towers whose consistency heads the bundled one gets.
        limit: test scenes for the clean figures (also the gallery). attacked: how many of them are attacked.
        measured: on the test split, now. False: the card gets no figures (those of the compared models come from
            `cmai_core.comparison.cards`, once the protocol has been run).
        calibration: clean validation pairs that the thresholds of consistency verification are set on; 0: none.

    Returns:
        The card.

    Raises:
        ModelError: no model there, one over the size limit, or heads of other towers.
    """
    from cmai_core.models import load_model
    from cmai_core.models.integrity import record
    from cmai_core.models.save import write_card

    target = _copied(source, name, heads)
    record(target)
    if calibration:
        _calibrate(load_model(name), target, calibration)
    model = load_model(name)
    card = dict(model.card)
    if measured:
        card["results"] = {**card.get("results", {}), **measure(model, limit, attacked)}
        write_card(target, card)
    return card


def _copied(source: Path, name: str, heads: Path | None) -> Path:
    """Copy a model into the assets, whole or not at all; return its folder there.

    Raises:
        ModelError: no model there, one over the size limit, or heads of other towers.
    """
    from cmai_core.models.families.bundled import bundled_dir
    from cmai_core.models.save import CARD_FILE, WEIGHTS_FILE, swap, write_card

    if not (source / "open_clip_config.json").is_file():
        raise ModelError(f"{source} holds no model.", "Give the folder `model` of a finished training.")
    size = (source / WEIGHTS_FILE).stat().st_size
    if size > SIZE_LIMIT:
        raise ModelError(
            f"The weights in {source} have {size:,} bytes; a bundled model has at most {SIZE_LIMIT:,}.",
            "Make it smaller.",
        )
    target = bundled_dir() / name
    building = target.with_name(f".{name}.{os.getpid()}")
    try:
        shutil.copytree(source, building)
        card = json.loads((building / CARD_FILE).read_text(encoding="utf-8")) | {"name": name}
        if heads is not None:
            card = _with_heads(card, building, heads)
        write_card(building, card)
        swap(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    for path in target.iterdir():
        path.chmod(0o644)
    return target


def _with_heads(card: dict[str, Any], building: Path, heads: Path) -> dict[str, Any]:
    """Put another training's consistency heads beside a model; return the card with that training in it.

    Raises:
        ModelError: there are none, or they were trained on other towers.
    """
    import torch
    from safetensors.torch import load_file

    from cmai_core.models.save import CARD_FILE, WEIGHTS_FILE
    from cmai_core.models.weights import HEADS_FILE

    if not (heads / HEADS_FILE).is_file():
        raise ModelError(f"{heads} holds no consistency heads.", "Train them: `cmai train --recipe cmcv --base …`.")
    own, theirs = (load_file(folder / WEIGHTS_FILE) for folder in (building, heads))
    if own.keys() != theirs.keys() or not all(
        torch.allclose(own[key].float(), theirs[key].float(), rtol=2e-3, atol=1e-6) for key in own
    ):
        raise ModelError(f"The heads in {heads} were trained on other towers.", "Give those trained on this model.")
    shutil.copy(heads / HEADS_FILE, building / HEADS_FILE)
    trained = json.loads((heads / CARD_FILE).read_text(encoding="utf-8"))["training"]
    kept = ("command", "seed", "pairs", "seconds", "device", "precision")
    training = {**card["training"], "heads": {key: trained[key] for key in kept if key in trained}}
    return card | {"training": training}


def _calibrate(model: VisionLanguageModel, target: Path, count: int) -> None:
    """Set thresholds on the first validation pairs, and measure what they flag of fresh, held-out and shifted ones."""
    from cmai_core.commands.cmcv import calibrated, other_splits
    from cmai_core.data import load_dataset
    from cmai_core.defenses.calibration import store_calibration

    tried = min(count, SHIFTED)
    others = [load_dataset(DEFAULT_DATASET, split=split, limit=tried) for split in other_splits(DEFAULT_DATASET)]
    validation = load_dataset(DEFAULT_DATASET, split="validation")
    store_calibration(calibrated(model, validation, others, limit=count), target)


def record_all() -> None:
    """Write down the hashes of every bundled model's files, the masked language model's included, as they are now."""
    from cmai_core.attacks.text_searches import masked_lm
    from cmai_core.models.families.bundled import bundled_dir
    from cmai_core.models.integrity import record

    for folder in sorted(bundled_dir().iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            record(folder)
    record(masked_lm.folder())


def measure(model: VisionLanguageModel, limit: int, attacked: int) -> dict[str, Any]:
    """Return the card's figures: every task on clean test scenes, and image→text R@1 under PGD, both with intervals.

    `robust`: PGD on the retrieval loss (L∞, 20 steps, random start), the pictures rounded to 8 bits; the gallery is the
    first `limit` captions.
    """
    import torch

    from cmai_core.attacks import task_pgd
    from cmai_core.attacks.result import AttackResult
    from cmai_core.bootstrap import bootstrap_interval
    from cmai_core.data import load_dataset
    from cmai_core.data.pair import Batch
    from cmai_core.tasks import evaluate_clean
    from cmai_core.tasks.retrieval import Retrieval

    dataset = load_dataset(DEFAULT_DATASET, split="test", limit=limit)
    clean = evaluate_clean(model, dataset, progress=_tell("clean"))
    task = Retrieval(gallery=limit)
    robust: dict[str, Any] = {}
    for epsilon in EPSILONS:
        budget = Budget("linf", epsilon)
        attack = task_pgd(task, dataset=dataset, epsilon=budget, steps=STEPS)
        results = []
        for start in range(0, min(attacked, limit), 50):
            pairs = [dataset[k] for k in range(start, min(start + 50, attacked, limit))]
            pixels = model.preprocess([pair.image for pair in pairs])
            texts = tuple(pair.captions[0] for pair in pairs)
            batch = Batch(tuple(p.id for p in pairs), pixels, texts, tuple(range(len(pairs))), tuple(pairs))
            results.append(attack(model, batch, seed=0))
            _tell(f"ε = {budget.words}")(Progress(start + len(pairs), attacked))
        joined = AttackResult.concatenate(results)
        held = (~(joined.success_8bit | joined.clean_success)).float().numpy()
        robust[str(epsilon)] = {
            **bootstrap_interval(held, seed=0).to_dict(),
            "clean": float((~joined.clean_success).float().mean()),
            "s_c_clean": float(torch.as_tensor(joined.clean_consistency).mean()),
            "s_c_attacked": float(torch.as_tensor(joined.consistency_8bit).mean()),
        }
    return {"test": {"scenes": limit, "tasks": clean["tasks"]}, "robust_image_to_text_r1": robust}


def _tell(stage: str):
    def show(progress: Progress) -> None:
        print(f"\r{stage}: {progress.done}/{progress.total}   ", end="", file=sys.stderr, flush=True)
        if progress.done >= progress.total:
            print(file=sys.stderr)

    return show


def _interval(entry: dict[str, Any]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _stages(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trainings that led to a model, the first one first."""
    return [*(_stages(training["start"]) if training.get("start") else ()), training]


def _minutes(seconds: float | None) -> str:
    return f"{(seconds or 0) / 60:.0f}"


def _clean_rows(tasks: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name the clean figures that a card shows, as far as they were measured."""
    shown = [(task, measure) for task, info in TASKS.items() for measure in info.headline]
    found = [(f"{task}, {measure.replace('_', ' ')}", tasks.get(task, {}).get(measure)) for task, measure in shown]
    return [(name, {"chance": None} | entry) for name, entry in found if entry]


def cards_markdown() -> str:
    """Write docs/models.md: the cards of all bundled models."""
    from cmai_core.models import bundled_models

    return render_markdown(
        "cmai_core.training",
        "models.md.j2",
        cards=bundled_models(),
        steps=STEPS,
        stages=_stages,
        minutes=_minutes,
        interval=_interval,
        clean_rows=_clean_rows,
    )


if __name__ == "__main__":
    from cmai_core.cli import main

    raise SystemExit(main(["bundle", *sys.argv[1:]]))
