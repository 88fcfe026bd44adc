"""The training split as memory-mapped arrays: rendered once by all cores, resumable, shared by all trainings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cmai_core.children import end_with_parent
from cmai_core.data.tabletop.captions import captions
from cmai_core.data.tabletop.classes import class_prompt_ids, class_targets
from cmai_core.data.tabletop.dataset import CAPTIONS_PER_SCENE, IMAGE_SIZE, SEED, SPLIT_SIZES, scene_of
from cmai_core.data.tabletop.false_captions import stored_false_captions
from cmai_core.data.tabletop.language import FAMILIES
from cmai_core.data.tabletop.nlvr import items
from cmai_core.data.tabletop.question_things import stored_question_things
from cmai_core.data.tabletop.questions import questions
from cmai_core.data.tabletop.sampling import scene_rng
from cmai_core.data.tabletop.scene import MAX_OBJECTS
from cmai_core.data.tabletop.short_texts import short_text_ids, short_text_truth
from cmai_core.data.tabletop.statements import CODE_LENGTH, encode_pattern, encode_scenes, truth_of_codes
from cmai_core.data.text import question_with_answer, statement_with_truth
from cmai_core.errors import DataError
from cmai_core.files import atomic, explained, reserve, write_text
from cmai_core.paths import cache_dir

CONTEXT, QUESTION_CONTEXT, QUESTIONS_PER_SCENE = 48, 32, 12
PATCH = 16
NO_OBJECT = 255
_CHUNK = 500
_COVERED = 0.35
_GRID = IMAGE_SIZE // PATCH


def _layout(scenes: int) -> dict[str, tuple[tuple[int, ...], type]]:
    c, q = CAPTIONS_PER_SCENE, QUESTIONS_PER_SCENE
    return {
        "images": ((scenes, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        "patch_labels": ((scenes, _GRID, _GRID), np.uint8),
        "objects": ((scenes, MAX_OBJECTS, 4), np.int8),
        "frame": ((scenes, MAX_OBJECTS, 2), np.float32),
        "caption_ids": ((scenes, c, CONTEXT), np.uint16),
        "caption_codes": ((scenes, c, CODE_LENGTH), np.int8),
        "question_ids": ((scenes, q, QUESTION_CONTEXT), np.uint16),
        "question_answer_at": ((scenes, q), np.int8),
        "question_family": ((scenes, q), np.int8),
    }


@dataclass(frozen=True)
class TrainingArrays:
    """Memory-mapped arrays over N scenes.

    Attributes:
        images: uint8 N×128×128×3.
        patch_labels: uint8 N×8×8, the object that covers most of each 16×16 patch; 255 where less than 35 % is covered.
        objects, frame: the encoded scenes (see `statements.encode_scenes`).
        caption_ids: uint16 N×6×48, begin and end tokens included, padded with 0; caption_codes: the same as logic.
        question_ids: uint16 N×12×32, question and answer; question_answer_at: position of the answer's token;
            question_family: index into language.FAMILIES, −1 where there is no such question.
        nlvr_left, nlvr_right: int32 M, scenes; nlvr_ids: uint16 M×48; nlvr_answer_at: int16 M; nlvr_truth: bool M.
        false_ids: uint16 N×6×48, each caption with one fact changed so that it is false of its scene (zeros where there
            is no such change); false_codes: the same as logic. None unless asked for.
        class_ids: int64 C×L, the zero-shot classes' prompts. short_ids: int64 S×L, these and short statements.
        question_things: int8 N×12×2, the objects that a question names alone, in its order (−1: none). None unless
            asked for.
    """

    images: np.ndarray
    patch_labels: np.ndarray
    objects: np.ndarray
    frame: np.ndarray
    caption_ids: np.ndarray
    caption_codes: np.ndarray
    question_ids: np.ndarray
    question_answer_at: np.ndarray
    question_family: np.ndarray
    nlvr_left: np.ndarray
    nlvr_right: np.ndarray
    nlvr_ids: np.ndarray
    nlvr_answer_at: np.ndarray
    nlvr_truth: np.ndarray
    false_ids: np.ndarray | None = None
    false_codes: np.ndarray | None = None
    class_ids: np.ndarray | None = None
    short_ids: np.ndarray | None = None
    question_things: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def truth(self, scene_rows: np.ndarray, caption_rows: np.ndarray, caption_columns: np.ndarray) -> np.ndarray:
        """Return bool len(scene_rows)×len(caption_rows): is caption (row, column) true of the scene?"""
        codes = np.ascontiguousarray(self.caption_codes[caption_rows, caption_columns])
        return truth_of_codes(codes, self.objects[scene_rows], self.frame[scene_rows]).T

    def class_targets(self, scene_rows: np.ndarray) -> np.ndarray:
        """Return bool len(scene_rows)×C: which zero-shot classes the scenes hold."""
        return class_targets(self.objects[scene_rows])

    def short_truth(self, scene_rows: np.ndarray) -> np.ndarray:
        """Return bool len(scene_rows)×S: which short texts are true of the scenes."""
        return short_text_truth(self.objects[scene_rows])


def training_arrays(
    tokenizer_file: Path,
    split: str = "train",
    scenes: int | None = None,
    *,
    workers: int | None = None,
    folder: Path | None = None,
    report: Callable[[int, int], None] | None = None,
    false_captions: bool = False,
    things: bool = False,
) -> TrainingArrays:
    """Open the arrays, building what is missing.

    Args:
        tokenizer_file: the vocabulary (tokenizer.json).
        split, scenes: which scenes (all of the split if None).
        workers: processes (the number of cores if None); 1: this process. The arrays do not depend on it.
        folder: where they lie (the cache if None).
        report: called with (scenes done, scenes in all).
        false_captions: with false captions too; they lie in files of their own and are made when first asked for.
        things: with `question_things`, likewise.

    Raises:
        DataError: the folder cannot be written or has no space, or a process that renders was ended; a text does not
            fit, or an answer is not a single token of this vocabulary.
    """
    from cmai_core.data.tabletop.render import RENDERER_VERSION

    scenes = scenes or SPLIT_SIZES[split]
    folder = folder or cache_dir() / "tabletop" / f"v{RENDERER_VERSION}" / f"arrays-{split}-{scenes}"
    layout = _layout(scenes)
    done_file = folder / "done.json"
    done = _done(done_file) if all((folder / f"{name}.npy").is_file() for name in layout) else set()
    starts = [start for start in range(0, scenes, _CHUNK) if start not in done]
    if starts:
        _make_room(folder, layout, anew=not done)
        jobs = [(str(folder), str(tokenizer_file), split, start, min(start + _CHUNK, scenes)) for start in starts]
        for start in _built(jobs, workers or os.cpu_count() or 1):
            done.add(start)
            write_text(done_file, json.dumps(sorted(done)))
            if report:
                report(min(len(done) * _CHUNK, scenes), scenes)
    arrays = {name: _opened(folder / f"{name}.npy", shape) for name, (shape, _) in layout.items()}
    arrays["class_ids"], arrays["short_ids"] = class_prompt_ids(tokenizer_file), short_text_ids(tokenizer_file)
    if false_captions:
        given = (arrays["caption_ids"], arrays["objects"], arrays["frame"])
        arrays["false_ids"], arrays["false_codes"] = stored_false_captions(folder, tokenizer_file, split, *given)
    if things:
        asked = (arrays["question_ids"], arrays["question_answer_at"], arrays["question_family"], arrays["objects"])
        arrays["question_things"] = stored_question_things(folder, tokenizer_file, *asked)
    if not (folder / "nlvr.npz").is_file():
        _build_nlvr(folder, tokenizer_file, split, np.asarray(arrays["objects"]))
    with _readable(folder / "nlvr.npz"), np.load(folder / "nlvr.npz") as nlvr:
        return TrainingArrays(**arrays, **{name: nlvr[name] for name in nlvr.files})


def _opened(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    with _readable(path):
        found = np.load(path, mmap_mode="r")
        if found.shape != shape:
            raise ValueError(f"its shape is {found.shape}")
        return found


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, TypeError, BadZipFile) as error:
        hint = f"Delete the folder {path.parent}: it is made again."
        raise DataError(f"The training data in {path} cannot be read ({error}).", hint) from error


def _done(file: Path) -> set[int]:
    """Return the starts of the chunks that are there; none where the record is missing or damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {start for start in found if isinstance(start, int)} if isinstance(found, list) else set()


def _make_room(folder: Path, layout: dict[str, tuple[tuple[int, ...], type]], *, anew: bool) -> None:
    """Make the arrays' files and take all of their space: a process that finds none as it writes would be killed.

    Raises:
        DataError: the folder cannot be written, or has no space.
    """
    paths = {name: folder / f"{name}.npy" for name in layout}
    try:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, (shape, kind) in layout.items():
                if anew:
                    np.lib.format.open_memmap(paths[name], "w+", kind, shape).flush()
                reserve(paths[name])
    except DataError:
        if anew:  # else they would keep the little space there is
            for path in paths.values():
                with suppress(OSError):
                    path.unlink()
        raise


def _built(jobs: list[tuple], workers: int) -> Iterator[int]:
    """Build the chunks; give the start of each that is done.

    Raises:
        DataError: a process was ended from outside.
    """
    if workers == 1 or len(jobs) == 1:  # one chunk gains nothing by a process of its own
        for job in jobs:
            yield _build_chunk(*job)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)
    try:
        for future in as_completed([pool.submit(_build_chunk, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        hint = "What is made is kept: run again, with fewer --workers if memory is short."
        raise DataError("A process that rendered scenes was ended.", hint) from error
    finally:
        pool.shutdown(cancel_futures=True)  # not the whole split where somebody interrupts


def _encoder(tokenizer_file: str | Path) -> Callable[[str, int], list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(text: str, longest: int) -> list[int]:
        ids = tokenizer.encode(text).ids
        if len(ids) > longest:
            raise DataError(f"{text!r} needs {len(ids)} tokens of {longest}.", "Rebuild the vocabulary.")
        return ids

    return encode


def _answered(encode: Callable[[str, int], list[int]], prompt: str, full: str, longest: int) -> tuple[list[int], int]:
    """Tokens of a prompt with its answer, and the answer's position (it must be one token)."""
    before, ids = encode(prompt, longest), encode(full, longest)
    if len(ids) != len(before) + 1:
        raise DataError(f"The answer in {full!r} is not one token.", "Rebuild the vocabulary.")
    return ids, len(ids) - 2


def _build_chunk(folder: str, tokenizer_file: str, split: str, start: int, stop: int) -> int:
    from cmai_core.data.tabletop.render import render_with_masks

    encode = _encoder(tokenizer_file)
    arrays = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r+") for name in _layout(1)}
    scenes = [scene_of(split, k) for k in range(start, stop)]
    rows = slice(start, stop)
    images, masks = render_with_masks(scenes, IMAGE_SIZE, threads=1)
    arrays["images"][rows] = images
    arrays["patch_labels"][rows] = patch_labels(masks)
    arrays["objects"][rows], arrays["frame"][rows] = encode_scenes(scenes)
    for k, scene in enumerate(scenes, start):
        for c, (text, pattern) in enumerate(captions(scene, scene_rng(SEED, split, k, 1), CAPTIONS_PER_SCENE)):
            ids = encode(text, CONTEXT)
            arrays["caption_ids"][k, c, : len(ids)] = ids
            arrays["caption_codes"][k, c] = encode_pattern(pattern)
        arrays["question_family"][k] = -1
        asked = questions(scene, scene_rng(SEED, split, k, 2))
        chosen = scene_rng(SEED, split, k, 4).permutation(len(asked))[:QUESTIONS_PER_SCENE]
        for q, (question, answer, family) in enumerate(asked[int(n)] for n in chosen):
            ids, at = _answered(encode, question, question_with_answer(question, answer), QUESTION_CONTEXT)
            arrays["question_ids"][k, q, : len(ids)] = ids
            arrays["question_answer_at"][k, q] = at
            arrays["question_family"][k, q] = FAMILIES.index(family)
    for array in arrays.values():
        array.flush()
    return start


def patch_labels(masks: np.ndarray, patch: int = PATCH) -> np.ndarray:
    """Return the object that covers most of each patch.

    uint8 N×S/patch×S/patch, 255 where less than 35 % is covered.
    """
    n, size, _ = masks.shape
    grid = size // patch
    blocks = masks.reshape(n, grid, patch, grid, patch)
    share = np.stack([(blocks == k).mean((2, 4)) for k in range(MAX_OBJECTS)], -1)
    return np.where(share.max(-1) >= _COVERED, share.argmax(-1), NO_OBJECT).astype(np.uint8)


def _build_nlvr(folder: Path, tokenizer_file: Path, split: str, objects: np.ndarray) -> None:
    encode = _encoder(tokenizer_file)
    found = items(objects, len(objects), scene_rng(SEED, split, 0, 3)) if len(objects) >= 32 else []
    ids = np.zeros((len(found), CONTEXT), np.uint16)
    at = np.zeros(len(found), np.int16)
    for m, item in enumerate(found):
        row, at[m] = _answered(encode, item.text, statement_with_truth(item.text, item.truth), CONTEXT)
        ids[m, : len(row)] = row
    with atomic(folder / "nlvr.npz") as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            nlvr_left=np.array([i.left for i in found], np.int32),
            nlvr_right=np.array([i.right for i in found], np.int32),
            nlvr_ids=ids,
            nlvr_answer_at=at,
            nlvr_truth=np.array([i.truth for i in found], bool),
        )
