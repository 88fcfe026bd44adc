"""A run as one small file: arrays and JSON in a ZIP, read without pickle and bounded before anything is unpacked.

The arrays are `.npy` files whose type and shape follow from the JSON beside them; a file that says otherwise is
refused.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cmai_core.errors import CmaiError, DataError
from cmai_core.files import atomic, explained
from cmai_core.lab.experiment import MAX_CAPTION, MAX_NAME, ROLES, Experiment
from cmai_core.lab.explore.layout import LAYOUTS, TEXT, UMAP, attacked_group
from cmai_core.lab.explore.make import MOST_EPSILONS, MOST_PAIRS
from cmai_core.lab.explore.run import CLEAN, UNKNOWN, ExploreRun, ModelRun, Reading

FORMAT = "cmai-explore/1"
MOST_BYTES = 256 * 2**20
MOST_JSON = 32 * 2**20
MOST_WIDTH = 4096
_JSON = "run.json"
_HEADER = 4096


def save_run(run: ExploreRun, path: Path) -> None:
    """Write a run; the same run gives the same bytes.

    Raises:
        DataError: it cannot be written.
    """
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        _put(file, _JSON, json.dumps(_document(run), ensure_ascii=False, sort_keys=True).encode())
        for role, part in run.parts.items():
            for name, array in _arrays(part):
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
                _put(file, f"{role}/{name}.npy", buffer.getvalue())


def read_run(path: Path) -> ExploreRun:
    """Read a run.

    Raises:
        DataError: there is no such file, it is too large, or it is not a run.
    """
    try:
        with explained(path, "read"), path.open("rb") as opened, zipfile.ZipFile(opened) as file:
            if sum(item.file_size for item in file.infolist()) > MOST_BYTES or len(file.infolist()) > 400:
                raise DataError(f"{path.name} is too large for a run.", f"At most {MOST_BYTES >> 20} MB.")
            return _read(file)
    except DataError:
        raise
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError, CmaiError) as error:
        raise DataError(f"{path.name} is no run that can be read.", "Make it again.") from error


def _put(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    item = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    item.compress_type = zipfile.ZIP_DEFLATED
    file.writestr(item, data)


def _document(run: ExploreRun) -> dict[str, Any]:
    values = {name: {v: k for k, v in enumerate(_known(column))} for name, column in run.attributes.items()}
    return {
        "format": FORMAT,
        "experiment": run.experiment.to_dict(),
        "epsilons": list(run.epsilons),
        "ids": list(run.ids),
        "captions": list(run.captions),
        "rows": list(run.rows),
        "attributes": {
            name: {"values": list(values[name]), "of": [[values[name][v] for v in its] for its in column]}
            for name, column in run.attributes.items()
        },
        "answers": list(run.answers),
        "asked": run.asked,
        "seconds": run.seconds,
        "versions": dict(run.versions),
        "models": {
            role: {
                "spec": part.spec, "name": part.name, "hash": part.hash, "width": int(part.text.shape[1]),
                "notes": {layout: dict(note) for layout, note in part.notes.items()},
            }
            for role, part in run.parts.items()
        },
    }  # fmt: skip


def _known(column: tuple[tuple[str, ...], ...]) -> list[str]:
    return list(dict.fromkeys(value for its in column for value in its))


def _arrays(part: ModelRun) -> Iterator[tuple[str, np.ndarray]]:
    yield TEXT, part.text
    for name, reading in ((CLEAN, part.clean), *((attacked_group(k), r) for k, r in enumerate(part.attacked))):
        for kind in ("score", "right", "answer", "image"):
            yield f"{name}.{kind}", getattr(reading, kind)
    for layout, groups in sorted(part.maps.items()):
        for group, points in sorted(groups.items()):
            yield f"{layout}.{group}", points


def _read(file: zipfile.ZipFile) -> ExploreRun:
    document = json.loads(_bytes(file, _JSON, MOST_JSON))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("another format")
    ids, captions = _texts(document["ids"], MAX_NAME), _texts(document["captions"], 20 * MAX_CAPTION)
    epsilons = tuple(float(e) for e in document["epsilons"])
    rows = tuple(int(row) for row in document["rows"])
    if not 1 <= len(ids) <= MOST_PAIRS or {len(captions), len(rows)} != {len(ids)} or min(rows) < 0:
        raise ValueError("lists that do not go together")
    if not 1 <= len(epsilons) <= MOST_EPSILONS or list(epsilons) != sorted(set(epsilons)):
        raise ValueError("budgets")
    answers = _texts(document["answers"], 20 * MAX_CAPTION)
    models = document["models"]
    if not models or not set(models) <= set(ROLES):
        raise ValueError("models")
    experiment = Experiment.from_dict(document["experiment"])
    for epsilon in epsilons:
        replace(experiment, epsilon=epsilon).checked()
    if set(experiment.models) != set(models):
        raise ValueError("models")
    return ExploreRun(
        experiment=experiment,
        epsilons=epsilons,
        ids=ids,
        captions=captions,
        rows=rows,
        attributes={str(name)[:40]: _column(its, len(ids)) for name, its in document["attributes"].items()},
        answers=answers,
        parts={
            role: _part(file, role, models[role], len(ids), len(epsilons), len(answers))
            for role in ROLES
            if role in models
        },
        asked=int(document["asked"]),
        seconds=float(document["seconds"]),
        versions={str(k): str(v) for k, v in document["versions"].items()},
    )


def _part(
    file: zipfile.ZipFile, role: str, described: Mapping[str, Any], count: int, levels: int, answers: int
) -> ModelRun:
    width = int(described["width"])
    if not 2 <= width <= MOST_WIDTH:
        raise ValueError("width")

    def array(name: str, kind: Any, *shape: int) -> np.ndarray:
        return _array(file, f"{role}/{name}.npy", np.dtype(kind), shape)

    def reading(group: str) -> Reading:
        found = Reading(
            array(f"{group}.score", np.float32, count),
            array(f"{group}.right", np.int8, count),
            array(f"{group}.answer", np.int32, count),
            array(f"{group}.image", np.float16, count, width),
        )
        if not np.isin(found.right, (0, 1, UNKNOWN)).all():
            raise ValueError("answers")
        if found.answer.min() < UNKNOWN or found.answer.max() >= answers:
            raise ValueError("answers")
        return found

    groups = (CLEAN, *(attacked_group(level) for level in range(levels)))
    there, notes = set(file.namelist()), described["notes"]
    maps = {
        layout: {
            group: array(f"{layout}.{group}", np.float16, count, 2 if layout == UMAP else 3)
            for group in (*groups, TEXT)
        }
        for layout in LAYOUTS
        if f"{role}/{layout}.{CLEAN}.npy" in there
    }
    return ModelRun(
        str(described["spec"])[:MAX_NAME],
        str(described["name"])[:MAX_NAME],
        str(described["hash"])[:MAX_NAME],
        array(TEXT, np.float16, count, width),
        reading(CLEAN),
        tuple(reading(group) for group in groups[1:]),
        maps,
        {layout: dict(notes[layout]) for layout in maps},
    )


def _array(file: zipfile.ZipFile, name: str, kind: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Read an array of a known type and shape; its header is believed only where it says the same."""
    size = int(np.prod(shape)) * kind.itemsize
    data = io.BytesIO(_bytes(file, name, size + _HEADER))
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError("version")
    found = np.lib.format.read_array_header_1_0(data)
    if found != (shape, False, kind):
        raise ValueError("shape")
    array = np.frombuffer(data.read(), dtype=kind)
    if array.size * kind.itemsize != size or (kind.kind == "f" and not np.isfinite(array).all()):
        raise ValueError("values")
    return array.reshape(shape)


def _bytes(file: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Read a member of at most this size, whatever its directory says."""
    with file.open(name) as member:
        data = member.read(most + 1)
    if len(data) > most:
        raise ValueError("size")
    return data


def _texts(values: Any, most: int) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) and len(v) <= most for v in values):
        raise ValueError("texts")
    return tuple(values)


def _column(described: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], ...]:
    values, of = _texts(described["values"], MAX_NAME), described["of"]
    if len(of) != count or any(not 0 <= place < len(values) for its in of for place in its):
        raise ValueError("attributes")
    return tuple(tuple(values[place] for place in its) for its in of)
