"""Experiments as files: written, read back, held against a new run; files of strangers are read or refused in words."""

from __future__ import annotations

import base64
import dataclasses
import json
import random

import numpy as np
import pytest

from cmai_core.errors import CmaiError, DataError
from cmai_core.lab.again import CLOSE, DIFFERENT, EQUAL, UNKNOWN, compare_with_file, run_again
from cmai_core.lab.experiment import Experiment
from cmai_core.lab.experiment_file import FORMATS, MAX_FILE, read_experiment, write_experiment
from cmai_core.lab.images import encode, sha256
from cmai_core.lab.result import LabResult


@pytest.fixture
def about_an_upload(result) -> tuple[LabResult, np.ndarray]:
    picture = np.random.default_rng(4).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    experiment = dataclasses.replace(result.experiment, pair=f"upload/{sha256(picture.tobytes())}")
    return dataclasses.replace(result, experiment=experiment), picture


def test_a_file_brings_back_the_result_and_its_pictures(result):
    found = read_experiment(write_experiment(result))
    assert found.experiment == result.experiment and found.picture is None
    assert found.result.to_dict() == result.to_dict()
    for role, example in result.examples.items():
        np.testing.assert_array_equal(found.result.examples[role].adversarial, example.adversarial)
        np.testing.assert_array_equal(found.result.examples[role].clean, example.clean)


def test_an_upload_travels_with_its_experiment(about_an_upload):
    result, picture = about_an_upload
    found = read_experiment(write_experiment(result, encode(picture)))
    np.testing.assert_array_equal(found.picture, picture)
    changed = json.loads(write_experiment(result, encode(picture)))
    changed["pictures"]["png"][0] = base64.b64encode(encode(255 - picture)).decode()
    with pytest.raises(DataError):
        read_experiment(json.dumps(changed).encode())


def test_files_of_the_first_version_are_read(result):
    raw = result.to_dict()
    earlier = {"A": "undefended", "B": "defended"}
    raw["format"] = FORMATS[0]
    for part in ("crafts", "readings"):
        raw[part] = {earlier[role]: {**values, "role": earlier[role]} for role, values in raw[part].items()}
    for values in raw["readings"].values():
        values["picture"] = "undefended"
    raw["experiment"] = {**raw["experiment"], "craft_on": "undefended"}
    for new, old in (("a", "undefended"), ("b", "defended")):
        raw["experiment"][old] = raw["experiment"].pop(new)
    for name in ("c", "d"):
        del raw["experiment"][name]
    found = read_experiment(json.dumps(raw).encode())
    assert found.experiment == result.experiment and found.result is None
    rows = compare_with_file(found, result)
    assert len(rows) > 10 and {row.outcome for row in rows} == {EQUAL}


def test_pictures_that_would_be_too_much_stay_out(result, monkeypatch):
    import cmai_core.lab.experiment_file as module

    whole = write_experiment(result)
    monkeypatch.setattr(module, "MAX_FILE", len(whole) - 1)
    found = read_experiment(write_experiment(result))
    assert found.result is None and found.experiment == result.experiment


def test_numbers_that_moved_are_marked(result):
    recorded = read_experiment(write_experiment(result))
    assert {row.outcome for row in compare_with_file(recorded, result)} == {EQUAL}
    moved = dataclasses.replace(
        result.predictions["A"], adversarial=result.predictions["A"].adversarial + 0.004, hash="other"
    )
    here = dataclasses.replace(result, predictions={**result.predictions, "A": moved})
    rows = {row.name: row for row in compare_with_file(recorded, here)}
    assert rows["S_c attacked, model A"].outcome == DIFFERENT  # the same versions: exact
    assert rows["weights of model A"].outcome == DIFFERENT and rows["S_c attacked, model B"].outcome == EQUAL
    elsewhere = dataclasses.replace(here, versions={"python": "4"})
    rows = {row.name: row for row in compare_with_file(recorded, elsewhere)}
    assert rows["S_c attacked, model A"].outcome == CLOSE
    assert rows["S_c attacked, model A"].distance == pytest.approx(0.004)
    other = dataclasses.replace(result, experiment=dataclasses.replace(result.experiment, seed=5))
    with pytest.raises(DataError):
        compare_with_file(recorded, other)


def test_what_a_file_does_not_have_is_not_called_different(result):
    raw = result.to_dict() | {"format": FORMATS[0]}
    raw["readings"]["A"]["jpeg_score"] = None
    rows = {row.name: row for row in compare_with_file(read_experiment(json.dumps(raw).encode()), result)}
    assert rows["S_c after JPEG, model A"].outcome == UNKNOWN


def test_an_experiment_runs_again_to_the_same_numbers(tiny_models, monkeypatch):
    import cmai_core.models.families.bundled as bundled

    monkeypatch.setattr(bundled, "bundled_dir", lambda: tiny_models)
    experiment = Experiment(pair="tabletop/test/3", caption="a small yellow item", steps=2, objective="consistency")
    from cmai_core.lab.experiment_file import ExperimentFile

    first = run_again(ExperimentFile(experiment.checked(), {}, None, None))
    recorded = read_experiment(write_experiment(first))
    rows = compare_with_file(recorded, run_again(recorded))
    assert len(rows) > 20 and {row.outcome for row in rows} == {EQUAL}


# --- files of strangers -----------------------------------------------------------------------------------------------


def refused(data: bytes) -> CmaiError:
    with pytest.raises(CmaiError) as caught:
        read_experiment(data)
    assert 0 < len(str(caught.value)) < 600 and "\n" not in caught.value.message
    return caught.value


def test_what_is_no_experiment_is_refused(result):
    good = json.loads(write_experiment(result))
    refused(b"")
    refused(b"\xff\xfe")
    refused(b"[" * 100_000)
    refused(b"[" * 1_000_000)
    refused(b"{}")
    refused(b'{"format": "cmai-lab-result/1"}')
    refused(b" " * (MAX_FILE + 1))
    refused(b"[" + b"{}," * 200_000 + b"{}]")
    refused(json.dumps(good).replace('"seconds": 0.7', '"seconds": NaN').encode())
    refused(json.dumps(good).replace('"seconds": 0.7', '"seconds": ' + "9" * 9000).encode())
    refused(json.dumps(good).replace('"seconds": 0.7', '"seconds": 1, "seconds": 2').encode())

    def with_(*path, value):
        raw = json.loads(json.dumps(good))
        place = raw
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return json.dumps(raw).encode()

    for path, value in (
        (("extra",), 1), (("experiment", "epsilon"), 1e9), (("experiment", "pair"), None), (("crafts",), []),
        (("crafts", "A", "linf"), "4"), (("crafts", "A", "steps_done"), True), (("crafts", "A", "role"), "B"),
        (("crafts", "A", "score_trace"), [0.0] * 40_000), (("crafts", "A", "clean"), [[1]]), (("crafts",), {}),
        (("readings", "A", "answers"), {"vqa": [1, 2]}), (("readings", "A", "picture"), "D"), (("versions",), {"a": 1}),
        (("readings", "A", "name"), "x" * 5000), (("second",), {"id": 3}), (("pictures", "png"), ["!!!"]),
        (("pictures", "png"), [base64.b64encode(b"GIF89a").decode()] * 2), (("pictures", "upload"), 7),
        (("pictures", "upload"), -1), (("pictures", "png"), [""] * 50), (("pictures", "examples"), {"A": [0, 99]}),
        (("pictures", "examples"), {"B": [0, 0]}),
    ):  # fmt: skip
        refused(with_(*path, value=value))


def test_a_seeded_mutator_of_files_finds_no_traceback(result):
    """Values put in each other's place, cut, doubled; without pictures, whose decoding has tests of its own."""
    raw = json.loads(write_experiment(result))
    del raw["pictures"]
    base, rng = json.dumps(raw), random.Random(5)
    odd = ["null", "-1", "1e999", '""', "[]", "{}", '"\\ud800"', "true", '"<script>"', "0.5", '"' + "z" * 5000 + '"']
    read = 0
    for _ in range(1000):
        text = base
        for _ in range(rng.choice((1, 1, 2, 4))):
            place, way = rng.randrange(len(text)), rng.randrange(5)
            if way == 0:
                text = text[:place] + rng.choice(odd) + text[place + rng.randrange(8) :]
            elif way == 1:
                text = text[:place] + text[place + rng.randrange(1, 40) :]
            elif way == 2:
                text = text[:place] + text[place : place + rng.randrange(60)] * 2 + text[place:]
            elif way == 3:
                colon = text.find(": ", place)
                end = min((k for k in (text.find(",", colon), text.find("}", colon)) if k > 0), default=len(text))
                text = text[: colon + 2] + rng.choice(odd) + text[end:]
            else:
                text = text[:place] + chr(rng.choice((0, 34, 92, 0x202E, 0x1F600, 123))) + text[place + 1 :]
        try:
            found = read_experiment(text.encode("utf-8", "replace"))
        except CmaiError as error:
            assert error.message and len(str(error)) < 1200
            continue
        read += 1
        compare_with_file(found, dataclasses.replace(result, experiment=found.experiment))
    assert 20 <= read <= 980
