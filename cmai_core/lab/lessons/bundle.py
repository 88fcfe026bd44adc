"""What the lessons show of the bundled models before any of them is loaded.

    python -m cmai_core.lab.lessons.bundle        # makes assets/lessons from assets/models

Reading it needs neither torch nor a model. It carries the hashes of the models it was made with; a test holds them
against the bundled ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cmai_core.errors import DataError
from cmai_core.files import atomic, write_json
from cmai_core.lab.experiment import DEFENDED, UNDEFENDED
from cmai_core.lab.images import decode, encode
from cmai_core.paths import assets_dir

FORMAT = "cmai-lessons/1"
LADDER = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""ε in 1/255 of the attacked pictures."""
SCENES = 6
STEPS = 40
LEAST_EDITS = 4
"""Of each kind, true and false, that a caption with edits has."""
MOST_EDITS = 8
_VOWELS = "aeiou"
LONGEST = 14
"""Words of that caption."""
FIRST_EDITED = 200
"""Test scene from which on the caption with edits is looked for."""


@dataclass(frozen=True)
class Said:
    """A sentence about a picture: whether it is true, and S_c by role ("A", "B")."""

    text: str
    true: bool
    s_c: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Attacked:
    """A picture at one ε: uint8 pixels, S_c and whether retrieval is still right, by role; each faces its own."""

    epsilon: float
    pixels: np.ndarray
    s_c: Mapping[str, float]
    right: Mapping[str, bool]


@dataclass(frozen=True, eq=False)
class SceneShown:
    """A scene: its picture, sentences about it, S_c and rightness when clean, and the pictures attacked on A."""

    pair: str
    caption: str
    clean: np.ndarray
    s_c: Mapping[str, float]
    right: Mapping[str, bool]
    said: tuple[Said, ...]
    attacked: tuple[Attacked, ...]


@dataclass(frozen=True, eq=False)
class Edited:
    """A caption with one word replaced in many ways."""

    pair: str
    caption: str
    clean: np.ndarray
    s_c: Mapping[str, float]
    edits: tuple[Said, ...]


@dataclass(frozen=True, eq=False)
class LessonData:
    """Everything bundled. models: role → (name, hash). tau: role → τ at the rate `fpr`, with its origin in words."""

    models: Mapping[str, tuple[str, str]]
    fpr: float
    tau: Mapping[str, float]
    origin: Mapping[str, str]
    scenes: tuple[SceneShown, ...]
    edited: Edited


def lessons_dir() -> Path:
    """Return where the lessons' data lies."""
    return assets_dir() / "lessons"


@cache
def lesson_data(folder: Path | None = None) -> LessonData:
    """Return the bundled data.

    Raises:
        DataError: it is not there or cannot be read.
    """
    folder = folder or lessons_dir()
    try:
        raw = json.loads((folder / "lessons.json").read_text("utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(raw["format"])
        scenes = tuple(_scene(folder, k, values) for k, values in enumerate(raw["scenes"]))
        e = raw["edited"]
        picture = decode((folder / "edited.png").read_bytes())
        edited = Edited(e["pair"], e["caption"], picture, e["s_c"], tuple(Said(**said) for said in e["edits"]))
        models = {role: (name, digest) for role, (name, digest) in raw["models"].items()}
        return LessonData(models, raw["fpr"], raw["tau"], raw["origin"], scenes, edited)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "The lessons' data cannot be read.", "Make it again: python -m cmai_core.lab.lessons.bundle"
        ) from error


def _scene(folder: Path, number: int, values: Mapping[str, Any]) -> SceneShown:
    attacked = tuple(
        Attacked(a["epsilon"], decode((folder / _file(number, a["epsilon"])).read_bytes()), a["s_c"], a["right"])
        for a in values["attacked"]
    )
    said = tuple(Said(**one) for one in values["said"])
    clean = decode((folder / _file(number)).read_bytes())
    return SceneShown(values["pair"], values["caption"], clean, values["s_c"], values["right"], said, attacked)


def _file(number: int, epsilon: float | None = None) -> str:
    return f"scene-{number}.png" if epsilon is None else f"scene-{number}-{epsilon:g}.png"


# --- making it --------------------------------------------------------------------------------------------------------


def build(out: Path | None = None) -> Path:
    """Make the data from the bundled models; returns its folder.

    The scenes are the first of the test split that both models retrieve rightly when clean, the edited caption the
    first after scene 200 with enough single-word edits that stay true and that do not.
    """
    from cmai_core.data.registry import DATASETS, DEFAULT_DATASET, load_dataset
    from cmai_core.evaluation.verification.calibration import calibration_for
    from cmai_core.lab.choices import CALIBRATION_PAIRS, FALSE_POSITIVE_RATE
    from cmai_core.models import load_model

    folder, info = Path(out) if out else lessons_dir(), DATASETS[DEFAULT_DATASET]
    models = {"A": load_model(UNDEFENDED), "B": load_model(DEFENDED)}
    test = load_dataset(info.name, split=info.usual, limit=info.most)
    validation = load_dataset(info.name, split=info.calibration, limit=CALIBRATION_PAIRS)
    bases = {role: calibration_for(model, info.kind, pairs=lambda: validation) for role, model in models.items()}
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "format": FORMAT,
        "models": {role: (model.name, model.hash) for role, model in models.items()},
        "fpr": FALSE_POSITIVE_RATE,
        "tau": {role: basis.tau(FALSE_POSITIVE_RATE) for role, basis in bases.items()},
        "origin": {role: basis.origin for role, basis in bases.items()},
        "scenes": _made_scenes(models, test, folder),
        "edited": _made_edits(models, test, folder),
    }
    write_json(folder / "lessons.json", document)
    return folder


def _made_scenes(models: Mapping[str, Any], test: Any, folder: Path) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for index in range(len(test)):
        if len(made) == SCENES:
            break
        pair = test[index]
        right = {role: _right(model, test, pair, [pair.image])[0] for role, model in models.items()}
        if not all(right.values()):
            continue
        number, other = len(made), test[(index + 7) % len(test)]
        _save(folder / _file(number), pair.image)
        false = pair.scene.ground_truth.false_captions([pair.captions[0]], [pair.scene], [np.random.default_rng(index)])
        texts = [pair.captions[0], *(text for text in (*false, other.captions[0]) if text)]
        scores = {role: _scores(model, pair.image, texts) for role, model in models.items()}
        truth = [bool(pair.scene.ground_truth.holds(text, pair.scene)) for text in texts]
        said = _said(texts, truth, scores)
        attacked = [_attacked(models, test, pair, epsilon, folder / _file(number, epsilon)) for epsilon in LADDER]
        made.append({
            "pair": pair.id, "caption": pair.captions[0], "s_c": said[0]["s_c"], "right": right, "said": said,
            "attacked": attacked,
        })  # fmt: skip
    return made


def _attacked(models: Mapping[str, Any], test: Any, pair: Any, epsilon: float, file: Path) -> dict[str, Any]:
    """Attack a pair on each model; the picture that is kept is the one made on A."""
    s_c, right = {}, {}
    for role, model in models.items():
        picture = _example(model, test, pair, epsilon)
        s_c[role] = _scores(model, picture, pair.captions[:1])[0]
        right[role] = _right(model, test, pair, [picture])[0]
        if role == "A":
            _save(file, picture)
    return {"epsilon": epsilon, "s_c": s_c, "right": right}


def _example(model: Any, test: Any, pair: Any, epsilon: float) -> np.ndarray:
    from cmai_core.attacks.recipes.registry import get_recipe
    from cmai_core.budget import Budget
    from cmai_core.data.pair import Batch
    from cmai_core.evaluation.runs.attacked import attack_batch
    from cmai_core.tasks import get_task

    options = {"task": get_task("retrieval"), "dataset": test, "epsilon": Budget("linf", epsilon), "steps": STEPS}
    batch = Batch((pair.id,), model.preprocess([pair.image]), pair.captions[:1], (0,), (pair,))
    _, examples = attack_batch(get_recipe("pgd").build(**options), model, batch, seed=0)
    return examples.images[0]


def _right(model: Any, test: Any, pair: Any, pictures: Sequence[np.ndarray]) -> list[bool]:
    import torch

    from cmai_core.tasks import get_task

    task = get_task("retrieval")
    with torch.no_grad():
        prepared = task.prepare(model, [pair] * len(pictures), test)
        found = task.predict(model, model.image_features(model.preprocess(pictures)), prepared)
    return [bool(prediction.correct) for prediction in found]


def _scores(model: Any, picture: np.ndarray, texts: Sequence[str]) -> list[float]:
    import torch

    with torch.no_grad():
        scores = model.consistency(model.preprocess([picture]), list(texts), [0] * len(texts))
    return [round(float(score), 6) for score in scores]


def _made_edits(models: Mapping[str, Any], test: Any, folder: Path) -> dict[str, Any]:
    for index in range(FIRST_EDITED, len(test)):
        pair = test[index]
        if len(pair.captions[0].split()) > LONGEST:
            continue
        texts = _single_edits(pair.captions[0], pair.scene)
        truth = [bool(pair.scene.ground_truth.holds(text, pair.scene)) for text in texts]
        if min(sum(truth), len(truth) - sum(truth)) < LEAST_EDITS:
            continue
        _save(folder / "edited.png", pair.image)
        scores = {role: _scores(model, pair.image, [pair.captions[0], *texts]) for role, model in models.items()}
        first = {role: found[0] for role, found in scores.items()}
        edits = _said(texts, truth, {role: found[1:] for role, found in scores.items()})
        return {"pair": pair.id, "caption": pair.captions[0], "s_c": first, "edits": edits}
    raise DataError("No test caption has enough edits.")


def _single_edits(caption: str, scene: Any) -> list[str]:
    """Return the caption with one word replaced by a synonym or by another value of its attribute: 8 of each at most.

    Which they are is drawn with a fixed seed, true and false ones apart.
    """
    truth, words = scene.ground_truth, caption.split()
    groups = [*truth.synonyms(), *truth.attributes().values()]
    found: dict[bool, list[str]] = {True: [], False: []}
    for place, word in enumerate(words):
        bare = word.strip(",.")
        same = next((group for group in truth.synonyms() if bare in group), (bare,))
        for group in groups:
            for other in group if set(group) & set(same) else ():
                text = " ".join([*words[:place], word.replace(bare, other), *words[place + 1 :]])
                article = place and words[place - 1] in ("a", "an")
                if article and (bare[0] in _VOWELS) != (other[0] in _VOWELS):
                    continue  # "a orange can": nobody writes so
                holds = truth.holds(text, scene)
                if text != caption and holds is not None and text not in found[holds]:
                    found[holds].append(text)
    rng = np.random.default_rng(0)
    drawn = [[texts[k] for k in sorted(rng.permutation(len(texts))[:MOST_EDITS])] for texts in found.values()]
    return [text for texts in drawn for text in texts]


def _said(texts: Sequence[str], truth: Sequence[bool], scores: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    rows = enumerate(zip(texts, truth, strict=True))
    return [{"text": t, "true": true, "s_c": {role: s[k] for role, s in scores.items()}} for k, (t, true) in rows]


def _save(file: Path, picture: np.ndarray) -> None:
    with atomic(file) as temporary:
        temporary.write_bytes(encode(picture))


if __name__ == "__main__":
    print(f"Made {build()}")
