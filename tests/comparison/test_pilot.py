"""The pilot of verified answering: worst cases over rounds, kept as they are done."""

import json

import pytest

from cmai_core.comparison import pilot
from cmai_core.comparison.cascade import Cascade, Round, held, standing
from cmai_core.comparison.pilot import COSINE, Pilot, Terms, table
from cmai_core.comparison.verdicts import RIGHT, UNASKED
from cmai_core.data import load_dataset
from cmai_core.errors import CmaiError, DataError
from cmai_core.models import load_model

TERMS = Terms(scenes=6, gallery=40, epsilon=8.0)
ROUNDS = (
    Round("cosine", "pgd:steps=4,objective=margin", bare=True),
    Round("both", "verified-pgd:steps=4", verified=True),
    Round("square", "square:queries=4"),
)


@pytest.fixture(scope="module")
def model():
    return load_model("tabletop-hard-negative", device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return load_dataset("tabletop", limit=40)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(pilot, "ROUNDS", ROUNDS)
    monkeypatch.setattr(pilot, "NOISE", 2)


def test_each_round_asks_those_that_stand_and_is_kept(few, tmp_path, model, scenes, monkeypatch):
    path = tmp_path / "one.json"
    entry = Pilot(path, model, scenes, TERMS).measure(5)
    assert list(entry["rounds"]) == [attack.name for attack in ROUNDS]
    before = [k for k, mark in enumerate(entry["clean"]) if mark == RIGHT]
    for attack in entry["rounds"].values():
        asked = [k for k, mark in enumerate(attack["marks"]) if mark != UNASKED]
        assert asked == before
        before = [k for k in asked if attack["marks"][k] == RIGHT]
    assert standing(entry) == before and len(before) < entry["clean"].count(RIGHT)
    assert all(entry["clean"][k] == RIGHT for k in before)

    again = Pilot(path, model, scenes, TERMS)
    monkeypatch.setattr(Cascade, "attacked", None)  # nothing is left to run
    assert again.measure(5) == json.loads(path.read_text())["shortlists"]["5"]
    with pytest.raises(CmaiError, match=r"one\.json"):
        Pilot(path, model, scenes, Terms(scenes=7, gallery=40))


def test_cosines_are_not_attacked_through_a_verifier(few, tmp_path, model, scenes):
    entry = Pilot(tmp_path / "one.json", model, scenes, TERMS).measure(COSINE)
    assert list(entry["rounds"]) == ["cosine", "square"]
    found = table(tmp_path)
    assert f"{model.name}" in found and "8/255" in found
    shown = held(entry).count(RIGHT) / 6
    assert f"{100 * shown:.1f}" in found.splitlines()[-1]


def test_a_folder_without_a_pilot_is_named(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        table(tmp_path)
