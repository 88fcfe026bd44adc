"""A run's file: it reads back, and what is no run, or a hostile one, is refused before it does harm."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

from cmai_core.errors import DataError
from cmai_core.lab.explore import storage
from cmai_core.lab.explore.layout import with_maps
from tests.app.explored import made_run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    run, path = with_maps(made_run(20), ("pca",)), tmp_path_factory.mktemp("run") / "run.zip"
    storage.save_run(run, path)
    return run, path


def changed(path, out, member: str, data: bytes):
    """The file with one member replaced."""
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as after:
        for name in before.namelist():
            after.writestr(name, data if name == member else before.read(name))
    return out


def test_it_reads_back(saved, tmp_path):
    run, path = saved
    read = storage.read_run(path)
    assert read.key == run.key and read.ids == run.ids and read.attributes == run.attributes
    assert read.experiment == run.experiment and read.versions == run.versions
    for role, part in run.parts.items():
        other = read.parts[role]
        assert (part.text == other.text).all() and (part.maps["pca"]["text"] == other.maps["pca"]["text"]).all()
        assert part.notes["pca"] == other.notes["pca"]
        for one, two in zip((part.clean, *part.attacked), (other.clean, *other.attacked), strict=True):
            assert all(
                (getattr(one, name) == getattr(two, name)).all() for name in ("score", "right", "answer", "image")
            )
    storage.save_run(read, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()


def test_no_pickle_is_opened(saved, tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Trap()] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        storage.read_run(changed(saved[1], tmp_path / "trap.zip", "A/clean.score.npy", buffer.getvalue()))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"nothing", npy(np.zeros(19, np.float32)), npy(np.zeros(20, np.float64)), npy(np.full(20, np.nan, "f4")),
        npy(np.zeros(20, np.float32))[:-4], npy(np.zeros(20, np.float32)) + b"more",
        npy(np.zeros(20, np.float32)).replace(b"(20,)", b"(2000000000000,)"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_as_described_are_refused(saved, tmp_path, data):
    with pytest.raises(DataError, match="no run"):
        storage.read_run(changed(saved[1], tmp_path / "bad.zip", "A/clean.score.npy", data))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"}, {"ids": []}, {"captions": ["one"]}, {"epsilons": [4.0, 2.0]}, {"epsilons": [1e9]},
        {"models": {}}, {"models": {"Z": {}}}, {"answers": []}, {"experiment": {"norm": "all"}}, {"rows": [-1] * 20},
        {"attributes": {"shape": {"values": ["cube"], "of": [[5]] * 20}}}, {"ids": "x" * 20}, {"answers": [1, 2]},
    ],
    ids=str,
)  # fmt: skip
def test_descriptions_that_do_not_hold_are_refused(saved, tmp_path, change):
    with zipfile.ZipFile(saved[1]) as file:
        document = json.loads(file.read("run.json"))
    with pytest.raises(DataError, match="no run"):
        storage.read_run(changed(saved[1], tmp_path / "bad.zip", "run.json", json.dumps(document | change).encode()))


def test_what_is_too_large_is_refused_before_it_is_unpacked(saved, tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("run.json", b"0" * (storage.MOST_JSON + 2))
    with pytest.raises(DataError, match="no run"):
        storage.read_run(bomb)
    monkeypatch.setattr(storage, "MOST_BYTES", 1000)
    with pytest.raises(DataError, match="too large"):
        storage.read_run(saved[1])


def test_other_files_are_explained(tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("text.zip", "missing.zip"):
        with pytest.raises(DataError):
            storage.read_run(tmp_path / name)


def test_the_bundled_run_is_of_the_bundled_models():
    from cmai_core.lab.explore.bundle import EPSILONS, MOST_BYTES, PAIRS, bundle_path, bundled_run
    from cmai_core.models import load_model

    run = bundled_run()
    assert run is not None and len(run) == PAIRS and run.epsilons == EPSILONS
    assert bundle_path().stat().st_size <= MOST_BYTES
    for part in run.parts.values():
        assert load_model(part.spec).hash == part.hash, "made with other weights: run the bundle's command again"
        assert {"pca", "umap"} <= set(part.maps)
