"""A training by names: which model it starts from, which data it reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cmai_core.data.tabletop.dataset import IMAGE_SIZE
from cmai_core.errors import OptionError
from cmai_core.files import check_folder
from cmai_core.progress import CancelToken, ProgressCallback
from cmai_core.training.distributed import processes
from cmai_core.training.settings import Recipe
from cmai_core.training.trainer import RunOptions, TrainingResult, train

if TYPE_CHECKING:
    from collections.abc import Callable

    from cmai_core.models.protocol import VisionLanguageModel


def start_model(
    recipe: Recipe, *, seed: int = 0, base: str | None = None, device: str | None = None
) -> VisionLanguageModel:
    """Return the model a recipe starts from: a new one, or `base` (a model spec; the recipe's own start where None).

    Raises:
        OptionError: a base for a recipe that starts anew, or one that reads other tokens or pictures of another size
            than the training data have.
        ModelError: the base cannot be loaded.
    """
    from cmai_core.models import load_model, new_model

    if not recipe.start:
        if base is not None:
            raise OptionError(f"The recipe {recipe.name} starts from nothing, not from {base}.", "Leave --base out.")
        return new_model(recipe.architecture, torch.Generator().manual_seed(seed), device)
    model = load_model(base or recipe.start, device)
    if (size := model.image_size) != IMAGE_SIZE or not _reads_the_vocabulary(model):
        raise OptionError(
            f"{model.name} cannot be trained on Tabletop: it reads other tokens, or pictures of {size} pixels.",
            f"Give a model with the bundled vocabulary and {IMAGE_SIZE} pixels, such as tabletop.",
        )
    return model


def _reads_the_vocabulary(model: VisionLanguageModel) -> bool:
    """Say whether the model's tokens are those that the training data hold."""
    from tokenizers import Tokenizer

    from cmai_core.models.tokenizer import CONTEXT_LENGTH, VOCABULARY_SIZE, bundled_tokenizer_dir

    if (model.vocabulary_size, model.context_length) != (VOCABULARY_SIZE, CONTEXT_LENGTH):
        return False
    text = "A small red metal cube is left of the sphere?"
    ids = Tokenizer.from_file(str(bundled_tokenizer_dir() / "tokenizer.json")).encode(text).ids
    return model.tokenize([text])[0, : len(ids)].tolist() == ids[:CONTEXT_LENGTH]


def build_training_data(
    scenes: int | None = None, *, workers: int | None = None, report: Callable[[int, int], None] | None = None
) -> int:
    """Render and cache Tabletop's training split, going on where it was stopped.

    Args:
        scenes: only the first so many. workers: processes; None: as many as there are cores.
        report: told (scenes rendered, scenes in all).

    Returns:
        how many scenes are in the cache.
    """
    from cmai_core.data.tabletop.arrays import training_arrays
    from cmai_core.models.tokenizer import bundled_tokenizer_dir

    vocabulary = bundled_tokenizer_dir() / "tokenizer.json"
    return len(training_arrays(vocabulary, "train", scenes, workers=workers, report=report))


def store_test_pairs(path: Path | None, count: int) -> Path:
    """Render the first scenes of Tabletop's test split into one file, which is bundled; returns where it lies."""
    from cmai_core.data.tabletop.dataset import write_stored

    return write_stored(path, count)


def run(
    recipe: Recipe,
    *,
    out_dir: str | Path,
    base: str | None = None,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = None,
    scenes: int | None = None,
    options: RunOptions | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    on_log: Callable[[dict], None] | None = None,
    on_data: Callable[[int, int], None] | None = None,
) -> TrainingResult:
    """Train a recipe on Tabletop; build the data first where it is missing.

    Args:
        base: spec of the model to fine-tune; device: None takes CUDA if there is one; threads: of the CPU.
        scenes: use only the first so many training scenes.
        on_data: told (scenes rendered, scenes in all) while the data is being built.
        The others: see `trainer.train`.
    """
    from cmai_core.data.tabletop.arrays import training_arrays
    from cmai_core.models.tokenizer import bundled_tokenizer_dir

    if threads is not None:
        torch.set_num_threads(threads)
    shared = processes(device)
    device = shared.device(device)
    options = options or RunOptions()
    vocabulary = bundled_tokenizer_dir() / "tokenizer.json"
    model = start_model(recipe, seed=seed, base=base, device=device)
    check_folder(Path(out_dir))  # before data is made for it
    beside = {"false_captions": recipe.reads_false_captions, "things": recipe.reads_things, "report": on_data}

    def opened() -> tuple[Any, Any]:
        return (
            training_arrays(vocabulary, "train", scenes, **beside),
            training_arrays(
                vocabulary, "validation", max(options.validation_scenes, recipe.validation_pairs), **beside
            ),
        )

    if shared.first:  # what is missing is built by one process
        opened()
    shared.wait()
    arrays, validation = opened()
    return train(
        recipe,
        out_dir=out_dir,
        model=model,
        arrays=arrays,
        validation=validation,
        seed=seed,
        options=options,
        progress=progress,
        cancel=cancel,
        on_log=on_log,
        processes=shared,
    )
