"""A made-up run on Tabletop's test pairs: B's answers are right more often, cubes fool A, and nothing else does."""

from __future__ import annotations

import numpy as np

from cmai_core.data import load_dataset
from cmai_core.data.pair import item_captions, item_id, item_scene
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.explore.run import ExploreRun, ModelRun, Reading

WIDTH = 8


def made_run(count: int = 60, levels: tuple[float, ...] = (2.0, 4.0), seed: int = 0) -> ExploreRun:
    """Return a run of `count` pairs; "luck" is an attribute that has to do with nothing."""
    rng = np.random.default_rng(seed)
    items = load_dataset("tabletop", split="test", limit=min(count, 1000))
    rows = [k % len(items) for k in range(count)]
    things = [item_scene(items, k).ground_truth.things(item_scene(items, k)) for k in rows]
    cubes = np.array([any(thing["shape"] == "cube" for thing in its) for its in things])
    attributes = {
        name: tuple(tuple(dict.fromkeys(thing[name] for thing in its)) for its in things) for name in ("shape", "size")
    } | {"luck": tuple((str(value),) for value in rng.integers(0, 3, count))}

    def unit(places: np.ndarray) -> np.ndarray:
        return (places / np.linalg.norm(places, axis=1, keepdims=True)).astype(np.float16)

    def reading(score: np.ndarray, right: np.ndarray, image: np.ndarray) -> Reading:
        answer = np.where(right, 0, 1).astype(np.int32)
        return Reading(score.astype(np.float32), right.astype(np.int8), answer, unit(image))

    def part(spec: str, lost: float, chance: np.ndarray) -> ModelRun:
        image, right = rng.standard_normal((count, WIDTH)), rng.random(count) < 0.9
        score, luck = 0.6 + 0.1 * rng.random(count), rng.random(count)
        attacked = []
        for place, _ in enumerate(levels):
            share = (place + 1) / len(levels)
            after = right & (luck > chance * share)
            image_after = image + share * rng.standard_normal((count, WIDTH))
            attacked.append(reading(score - lost * share - 0.05 * rng.random(count), after, image_after))
        text = unit(rng.standard_normal((count, WIDTH)))
        return ModelRun(spec, spec, f"hash of {spec}", text, reading(score, right, image), tuple(attacked))

    return ExploreRun(
        experiment=Experiment(steps=10, craft_on="each", caption="any", epsilon=levels[-1]),
        epsilons=levels,
        ids=tuple(item_id(items, k) for k in rows),
        captions=tuple(item_captions(items, k)[0] for k in rows),
        rows=tuple(rows),
        attributes=attributes,
        answers=("right", "wrong"),
        parts={
            "A": part("tabletop", 0.4, np.where(cubes, 0.9, 0.4)),
            "B": part("tabletop-cmai", 0.1, np.full(count, 0.2)),
        },
        asked=count,
        versions={"python": "3"},
    )
