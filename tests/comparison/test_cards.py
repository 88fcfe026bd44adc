"""The comparison's figures in a model's card: those that the verdicts say, beside what it says of its training."""

from __future__ import annotations

import json

import pytest

from cmai_core.comparison.cards import figures, write_cards
from cmai_core.comparison.results import Result
from cmai_core.models.families import bundled
from cmai_core.training.bundle import cards_markdown

CLEAN = {"retrieval": {"image_to_text_r1": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 10, "chance": 0.1}}}


@pytest.fixture
def result():
    main = [
        {"task": "retrieval", "norm": "linf", "epsilon": e, "clean": "1110", "held": held, "source": "", "recipes": {}}
        for e, held in ((2.0, "1100"), (4.0, "0000"))
    ]
    return Result("made", "h", "p1", {"clean": CLEAN, "main": main})


def test_figures_are_those_of_the_verdicts(result):
    found = figures(result)
    assert found["robust"]["2"]["value"] == 0.5 and found["robust"]["2"]["clean"] == 0.75
    assert found["robust"]["4"]["hits"] == 0 and found["protocol"] == "p1"


def test_cards_keep_what_they_know_and_are_printed(result, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    before = {"name": "made", "training": {"pairs": 8}, "results": {"validation": {"vqa": 1}, "test": {"old": 1}}}
    (folder / "card.json").write_text(json.dumps(before))
    assert write_cards({"made": result}, tmp_path) == ["made"]
    card = json.loads((folder / "card.json").read_text())
    assert card["training"] == {"pairs": 8} and card["results"]["validation"] == {"vqa": 1}
    assert "old" not in card["results"]["test"]
    monkeypatch.setattr(bundled, "bundled_dir", lambda: tmp_path)
    page = cards_markdown()
    assert "| L∞ 2/255, every loss | 0.750 | 0.500 [" in page and "of 4 |" in page
    assert "| retrieval, image to text r1 | 0.800 [0.700, 0.900] | 0.100 |" in page
