"""Typographic attack (Goh et al. 2021, "Multimodal neurons in artificial neural networks", §5): a word drawn in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cmai_core.attacks.engine.problem import Outcome, Problem
from cmai_core.attacks.engine.record import SearchRecord
from cmai_core.errors import OptionError
from cmai_core.options import flag, number, strict_options, whole
from cmai_core.reporting import Watch
from cmai_core.seeds import SampleNoise

# Ink and what surrounds it: white on black, black on white, white alone, black alone.
STYLES = ((1.0, 0.0), (0.0, 1.0), (1.0, None), (0.0, None))


@strict_options
@dataclass(frozen=True, kw_only=True)
class Typographic:
    """Words drawn with Pillow's own font; word, place, size and style are searched by scores alone.

    Under a patch threat the word stays within the patch's bounding box (`ThreatModel("patch", 1.0)`: anywhere).

    Attributes:
        words: what may be written. queries: drawings tried for each sample, spent exactly unless it succeeds before:
            the first half at random, the rest near the best so far.
        smallest, largest: height of the letters as a share of the picture's.
        stop_on_success, micro_batch: as in `GradientSearch`.
    """

    words: tuple[str, ...]
    queries: int = 100
    smallest: float = 0.1
    largest: float = 0.3
    stop_on_success: bool = True
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        words = self.words
        if isinstance(words, str) or not words or not all(isinstance(w, str) and w.strip() for w in words):
            raise OptionError(f"words={words!r} is not accepted.", "Accepted: a sequence of words, at least one.")
        whole("queries", self.queries, 1)
        number("smallest", self.smallest, 0.0, 1.0, above_low=True)
        number("largest", self.largest, self.smallest, 1.0)
        flag("stop_on_success", self.stop_on_success)
        if self.micro_batch is not None:
            whole("micro_batch", self.micro_batch, 1)

    def describe(self) -> dict:
        names = ("queries", "smallest", "largest", "stop_on_success")
        plain = {name: getattr(self, name) for name in names}
        return {"search": "typographic", "words": list(self.words)} | plain

    def run(self, problem: Problem, *, seed: int, watch: Watch) -> Outcome:
        """Attack all samples of the problem."""
        record = SearchRecord(problem, watch, self.queries)
        rows = record.unfooled() if self.stop_on_success else record.rows()
        region = problem.region
        noise = SampleNoise(seed, problem.ids, 0, 6, region.centre)
        boxes = _boxes(region)
        best: dict[int, tuple[float, np.ndarray]] = {}
        for step in range(self.queries):
            if len(rows) == 0 or record.stop():
                break
            drawn = noise.take(rows).cpu().double().numpy()
            drawings = []
            for number_, row in enumerate(rows.tolist()):
                if step >= (self.queries + 1) // 2 and row in best:
                    drawn[number_] = _near(best[row][1], drawn[number_])
                drawings.append(self._write(region.centre[row], drawn[number_], boxes[row]))
            x = region.select(rows).project(torch.stack(drawings))
            evaluation = record.score(x, rows, step + 1)
            for number_, (row, value) in enumerate(zip(rows.tolist(), evaluation.value.tolist(), strict=True)):
                if row not in best or value > best[row][0]:
                    best[row] = (value, drawn[number_].copy())
            record.steps_done = step + 1
            record.report(step + 1)
            if self.stop_on_success:
                rows = rows[~evaluation.success]
        return record.outcome()

    def _write(self, image: torch.Tensor, numbers: np.ndarray, box: tuple[int, int, int, int]) -> torch.Tensor:
        """Draw a word into a picture, chosen by six numbers in [0, 1): word, down, right, size, style."""
        word = self.words[min(int(numbers[0] * len(self.words)), len(self.words) - 1)]
        ink, around = STYLES[min(int(numbers[4] * len(STYLES)), len(STYLES) - 1)]
        height = image.shape[-2]
        size = max(6, round(height * (self.smallest + numbers[3] * (self.largest - self.smallest))))
        top, left, bottom, right = box
        mask = torch.from_numpy(letters(word, size)).to(image)
        mask = mask[: bottom - top, : right - left]
        down = top + int(numbers[1] * (bottom - top - mask.shape[0] + 1))
        across = left + int(numbers[2] * (right - left - mask.shape[1] + 1))
        written = image.clone()
        window = written[:, down : down + mask.shape[0], across : across + mask.shape[1]]
        ground = window if around is None else torch.full_like(window, around)
        window.copy_(ground * (1 - mask) + ink * mask)
        return written


def _near(best: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the best so far with one or two of its choices changed a little (the word and the style: anew)."""
    moved = best.copy()
    which = int(drawn[5] * 5)
    if which in (0, 4):
        moved[which] = drawn[which]
    moved[1:4] = np.clip(moved[1:4] + 0.3 * (drawn[1:4] - 0.5), 0.0, 1.0 - 1e-9)
    return moved


def _boxes(region) -> list[tuple[int, int, int, int]]:
    """Return top, left, bottom, right of where each sample's pixels may change."""
    free = (region.upper > region.lower).any(dim=1).cpu()
    boxes = []
    for sample in free:
        rows, columns = sample.any(dim=1).nonzero().flatten(), sample.any(dim=0).nonzero().flatten()
        if len(rows) == 0:
            boxes.append((0, 0, *sample.shape))
        else:
            boxes.append((int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
    return boxes


@functools.lru_cache(maxsize=512)
def letters(word: str, size: int) -> np.ndarray:
    """Draw a word in Pillow's own font, cropped to its letters with a margin of one pixel: float32 H×W in [0, 1]."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(word)
    image = Image.new("L", (max(1, round(right - left)) + 2, max(1, round(bottom - top)) + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), word, fill=255, font=font)
    return np.asarray(image, np.float32) / 255


def words_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Return distinct words of some texts, in order of appearance."""
    return tuple(dict.fromkeys(word.strip(".,;:!?\"'").lower() for text in texts for word in text.split()))
