"""What the page Immunize shows before anything is loaded: one inner loop, and one pair answered step by step.

    python -m cmai_core.lab.immunize.bundle       # makes assets/immunize from assets/models

Reading it needs neither torch nor a model. It carries the models' hashes; a test holds them against the bundled ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cmai_core.errors import DataError
from cmai_core.files import atomic, write_json
from cmai_core.lab.experiment import DEFENDED, UNDEFENDED
from cmai_core.lab.images import decode, encode
from cmai_core.lab.immunize import answering, inner_loop
from cmai_core.lab.immunize.answering import Answering, Option, Side
from cmai_core.lab.immunize.inner_loop import InnerLoop
from cmai_core.paths import assets_dir

CANDIDATES = 40
"""Test scenes among which the answered pair is looked for."""


def immunize_dir() -> Path:
    """Return where the bundled examples lie."""
    return assets_dir() / "immunize"


@cache
def bundled(folder: Path | None = None) -> tuple[InnerLoop, Answering]:
    """Return both examples.

    Raises:
        DataError: they are not there or cannot be read.
    """
    folder = folder or immunize_dir()
    try:
        raw = json.loads((folder / "immunize.json").read_text("utf-8"))
        return _loop(raw["loop"], folder), _answering(raw["answering"], folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "The bundled examples cannot be read.", "Make them again: python -m cmai_core.lab.immunize.bundle"
        ) from error


def save(loop: InnerLoop, answered: Answering, folder: Path) -> None:
    """Write immunize.json and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, picture in enumerate(loop.pictures):
        _save(folder / f"loop-{k}.png", picture)
    for k, side in enumerate(answered.sides):
        _save(folder / f"side-{k}.png", side.picture)
    told = _plain(loop, "pictures")
    sides = [
        _plain(side, "picture") | {"shortlist": [asdict(option) for option in side.shortlist]}
        for side in answered.sides
    ]
    document = {"loop": told, "answering": _plain(answered, "sides") | {"sides": sides}}
    write_json(folder / "immunize.json", document)


def build(folder: Path | None = None) -> Path:
    """Make both examples from the bundled models; returns their folder.

    The loop runs on the undefended model, which training begins with. The pair is chosen because it is clear, and says
    so: the first of 40 test scenes where an attacker of the model alone is put right by verification and one who knows
    it is not.
    """
    from cmai_core.data.registry import DATASETS, DEFAULT_DATASET, load_dataset
    from cmai_core.models import load_model

    info = DATASETS[DEFAULT_DATASET]
    loop = inner_loop.run_inner_loop(load_model(UNDEFENDED), inner_loop.Asked())
    model, test = load_model(DEFENDED), load_dataset(info.name, split=info.usual, limit=info.most)
    tried = (answering.answer_step_by_step(model, test[k], test, answering.Asked()) for k in range(CANDIDATES))
    answered = next((made for made in tried if _clear(made)), None)
    if answered is None:
        raise DataError("No pair shows all three sides.", "Look among more scenes.")
    out = folder or immunize_dir()
    save(loop, answered, out)
    return out


def _clear(made: Answering) -> bool:
    clean, unaware, aware = (side.answers for side in made.sides)
    return clean[1].true and not unaware[0].true and unaware[1].true and not aware[1].true


def _plain(made: Any, *without: str) -> dict[str, Any]:
    values = {f.name: getattr(made, f.name) for f in fields(made) if f.name not in without}
    return {name: asdict(value) if name == "asked" else value for name, value in values.items()}


def _loop(raw: dict[str, Any], folder: Path) -> InnerLoop:
    asked = inner_loop.Asked(**raw.pop("asked"))
    series = {name: tuple(raw.pop(name)) for name in ("task", "consistency", "value", "s_c", "size")}
    pictures = np.stack([decode((folder / f"loop-{k}.png").read_bytes()) for k in range(len(series["task"]))])
    return InnerLoop(asked=asked, pictures=pictures, **series, **raw)


def _answering(raw: dict[str, Any], folder: Path) -> Answering:
    asked, sides = answering.Asked(**raw.pop("asked")), []
    for k, side in enumerate(raw.pop("sides")):
        options = tuple(Option(**option) for option in side.pop("shortlist"))
        sides.append(Side(picture=decode((folder / f"side-{k}.png").read_bytes()), shortlist=options, **side))
    return Answering(asked=asked, sides=tuple(sides), **raw)


def _save(file: Path, picture: np.ndarray) -> None:
    with atomic(file) as temporary:
        temporary.write_bytes(encode(picture))


if __name__ == "__main__":
    print(f"Made {build()}")
