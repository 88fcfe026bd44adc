"""Which words and which patches of a pair disagree.

With a verifier they are its own: how little it believes each word, and where those words looked. Without one, what
S_c gains when a word is left out of the text, or a patch of the picture is filled with the picture's mean colour
(occlusion: Zeiler and Fergus 2014, arXiv 1311.2901, sec. 4.2; for words, leave-one-out: Li et al. 2016, arXiv
1612.08220): what disagrees is what the score is better without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from cmai_core.data.words import Words
from cmai_core.explanations.fills import fill_image
from cmai_core.models.scoring import has_heads

if TYPE_CHECKING:
    from cmai_core.models.protocol import VisionLanguageModel

VERIFIER, LEAVE_ONE_OUT = "verifier", "leave-one-out"
LEAST_DISAGREEMENT = 0.1  # 1 − the probability of a word, for it to be named
MOST_CELLS = 8  # a side: what a person can tell apart, and passes of the model stay few


@dataclass(frozen=True, eq=False)
class Disagreement:
    """What of one pair disagrees; larger values disagree more.

    Attributes:
        words: W words of the text.
        word_values: float32 W. By the verifier: the probability that the picture does not bear the word out. Left out:
            S_c without the word − S_c.
        patches: float32 h×w. By the verifier: the share of the disagreement that looked there, sum 1. Left out: S_c
            (with a verifier whose tokens are no patches, log V_verify) without the patch − with it.
        words_by, patches_by: VERIFIER or LEAVE_ONE_OUT.
    """

    words: tuple[str, ...]
    word_values: np.ndarray
    patches: np.ndarray
    words_by: str
    patches_by: str

    @property
    def disagreeing(self) -> tuple[int, ...]:
        """Places of the words that disagree, those that disagree most first.

        Those that disagree at least half as much as the worst, and more than the least that counts (0.1 for the
        verifier; for words left out, anything above 0).
        """
        values, least = self.word_values, LEAST_DISAGREEMENT if self.words_by == VERIFIER else 0.0
        chosen = np.flatnonzero((values > least) & (values >= 0.5 * values.max(initial=0)))
        return tuple(int(k) for k in chosen[np.argsort(-values[chosen], kind="stable")])


@torch.no_grad()
def disagreement(model: VisionLanguageModel, pixels: torch.Tensor, text: str, *, size: int = 64) -> Disagreement:
    """Say what of one picture (1×3×S×S in [0, 1]) and one text disagrees.

    Args:
        size: pictures or texts in one pass, where they are left out.
    """
    if not has_heads(model):
        words, values = _words_left_out(model, pixels, text, size)
        patches = _patches_left_out(model, pixels, text, size)
        return Disagreement(words, values, patches, LEAVE_ONE_OUT, LEAVE_ONE_OUT)
    found = model.verify_words(pixels, [text])[0]
    against = 1 - found.probability
    grid = model.patch_grid
    if grid is None or grid[0] * grid[1] != found.attention.shape[1]:
        patches = _patches_left_out(model, pixels, text, size)
        return Disagreement(found.words, against.numpy(), patches, VERIFIER, LEAVE_ONE_OUT)
    looked = (against[:, None] * found.attention).sum(dim=0) / against.sum().clamp(min=1e-12)
    return Disagreement(found.words, against.numpy(), looked.view(grid).numpy(), VERIFIER, VERIFIER)


def _words_left_out(
    model: VisionLanguageModel, pixels: torch.Tensor, text: str, size: int
) -> tuple[tuple[str, ...], np.ndarray]:
    parts = Words.split(text)
    texts = [text, *(str(parts.delete(k)) for k in range(len(parts)))]
    features = model.image_features(pixels)
    scores = [model.consistency(features, texts[k : k + size]) for k in range(0, len(texts), size)]
    found = torch.cat(scores).float().cpu().numpy()
    return parts.words, found[1:] - found[0]


def _patches_left_out(model: VisionLanguageModel, pixels: torch.Tensor, text: str, size: int) -> np.ndarray:
    grid = tuple(min(side, MOST_CELLS) for side in model.patch_grid or (MOST_CELLS, MOST_CELLS))
    count = grid[0] * grid[1]
    cells = torch.eye(count, device=pixels.device).view(count, 1, *grid)
    filled = fill_image(pixels, "mean")
    if has_heads(model):
        read = model.verification_states([text])
        score = lambda x: model.verify(x, read, log=True)  # noqa: E731
    else:
        read = model.consistency_text([text])
        score = lambda x: model.consistency(x, read)  # noqa: E731
    found = [score(pixels)]
    for start in range(0, count, size):
        mask = F.interpolate(cells[start : start + size], pixels.shape[-2:], mode="nearest-exact")
        found.append(score(torch.where(mask > 0.5, filled, pixels)))
    values = torch.cat(found).float().cpu().numpy()
    return (values[1:] - values[0]).reshape(grid)
