"""The figures of the dataset card, measured: `cmai data statistics` prints them as Markdown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from cmai_core.data.tabletop.captions import captions
from cmai_core.data.tabletop.dataset import CAPTIONS_PER_SCENE, SEED, SPLIT_SIZES, scene_of
from cmai_core.data.tabletop.language import FAMILIES, parse, parse_question
from cmai_core.data.tabletop.nlvr import items
from cmai_core.data.tabletop.questions import questions
from cmai_core.data.tabletop.sampling import scene_rng
from cmai_core.data.tabletop.scene import COLOURS, MATERIALS, SHAPES, SIZES
from cmai_core.data.tabletop.statements import encode_scenes, truth_matrix


def words_only_accuracy(
    seen: Sequence[tuple[Hashable, Hashable]], asked: Sequence[tuple[Hashable, Hashable]]
) -> tuple[float, int]:
    """How often the commonest answer to the same question (in its logical form) among `seen` is right on `asked`.

    Returns:
        Accuracy in [0, 1] over those questions of `asked` that were seen before, and their number.
    """
    table: dict[Hashable, Counter] = defaultdict(Counter)
    for key, value in seen:
        table[key][value] += 1
    right = [table[key].most_common(1)[0][0] == value for key, value in asked if key in table]
    return float(np.mean(right)), len(right)


def _chance(query) -> float:
    """One over the number of answers that the question admits."""
    if query.family == "attribute":
        return 1 / len({"shape": SHAPES, "colour": COLOURS, "material": MATERIALS, "size": SIZES}[query.detail])
    if query.family == "count":
        thing = query.things[0]
        return 1 / (3 if thing.shape or thing.colour else 4)
    return 1 / 2


def question_balance(seen_scenes: int = 6000, asked_scenes: int = 3000) -> dict[str, tuple[float, float, int]]:
    """Per family: accuracy from the words alone on unseen scenes, chance, and the number of questions."""
    rows: dict[tuple, tuple[list, list]] = defaultdict(lambda: ([], []))
    for k in range(seen_scenes + asked_scenes):
        for text, answer, family in questions(scene_of("train", k), scene_rng(SEED, "train", k, 2)):
            query = parse_question(text)
            rows[family, _chance(query)][k >= seen_scenes].append((query, answer))
    out: dict[str, list] = defaultdict(list)
    for (family, chance), (seen, asked) in rows.items():
        out[family].append((*words_only_accuracy(seen, asked), chance))
    result = {}
    for family in FAMILIES:
        total = sum(n for _, n, _ in out[family])
        accuracy = sum(a * n for a, n, _ in out[family]) / total
        result[family] = (accuracy, sum(c * n for _, n, c in out[family]) / total, total)
    return result


def statement_balance(scenes: int = 1500, number: int = 6000) -> tuple[float, int]:
    """Accuracy from the words alone on two-image statements (chance 1/2), and their number."""
    objects, _ = encode_scenes([scene_of("train", k) for k in range(scenes)])
    found = items(objects, number, scene_rng(SEED, "train", 0, 3))
    rows = [(item.statement, item.truth) for item in found]
    return words_only_accuracy(rows[: number // 2], rows[number // 2 :])


def caption_figures(scenes: int = 1000) -> dict[str, float]:
    """Length, chance and many-to-one of the first captions in a gallery of the test split."""
    all_captions = [
        captions(scene_of("test", k), scene_rng(SEED, "test", k, 1), CAPTIONS_PER_SCENE) for k in range(scenes)
    ]
    matrix = truth_matrix([parse(c[0][0]) for c in all_captions], [scene_of("test", k) for k in range(scenes)])
    lengths = [len(text.split()) for row in all_captions for text, _ in row]
    return {
        "captions a scene": CAPTIONS_PER_SCENE,
        "mean words": float(np.mean(lengths)),
        "longest, words": float(max(lengths)),
        "chance that a random caption of the gallery is true of a scene": float(matrix.mean()),
        "captions of the gallery true of more than one scene": float((matrix.sum(1) > 1).mean()),
        "largest share of scenes one caption fits": float(matrix.mean(1).max()),
    }


def markdown() -> str:
    """Measure all figures; return the tables of the dataset card."""
    lines = ["| split | scenes |", "|---|---|"]
    lines += [f"| {split} | {number:,} |" for split, number in SPLIT_SIZES.items()]
    lines += ["", "| captions (first 1,000 test scenes) | |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in caption_figures().items()]
    lines += ["", "| question family | questions | right from the words alone | chance |", "|---|---|---|---|"]
    for family, (accuracy, chance, number) in question_balance().items():
        lines.append(f"| {family} | {number:,} | {accuracy:.3f} | {chance:.3f} |")
    accuracy, number = statement_balance()
    lines.append(f"| two-image statements | {number:,} | {accuracy:.3f} | 0.500 |")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    from cmai_core.cli import main

    raise SystemExit(main(["data", "statistics", *sys.argv[1:]]))
