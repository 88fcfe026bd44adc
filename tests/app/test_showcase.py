"""The bundled example: it can be made, written, read back, and told when its models are no longer the bundled ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cmai_core.models.families.bundled as bundled
from cmai_core import showcase
from cmai_core.errors import DataError


@pytest.fixture(scope="module")
def made(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("showcase")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "bundled_dir", lambda: tiny_models)
        bundle = showcase.build_showcase(folder, pairs=8, candidates=4, steps=3, calibration_pairs=24)
    return folder, bundle


def test_it_reads_back_as_it_was_made(made):
    folder, bundle = made
    again = showcase.load_showcase(folder)
    assert again.result.readings == bundle.result.readings
    assert dict(again.histograms) == dict(bundle.histograms) and again.tau == bundle.tau and again.pairs == 8
    assert np.array_equal(again.result.first_craft.adversarial, bundle.result.first_craft.adversarial)
    for histogram in again.histograms.values():
        assert sum(histogram.clean) == sum(histogram.adversarial) == 8
        assert len(histogram.edges) == len(histogram.clean) + 1
    assert set(again.result.readings) == {"undefended", "defended"}
    assert all("validation" in origin for origin in again.origin.values()) and again.pairs == 8
    for role, basis_tau in again.tau.items():
        assert -1 <= basis_tau <= 1 and 0 <= again.flagged_clean[role] <= 1, role
    assert not any(reading.transferred for reading in again.result.readings.values())


def test_it_is_fresh_until_the_weights_change(made, tiny_models, monkeypatch):
    folder, _ = made
    monkeypatch.setattr(bundled, "bundled_dir", lambda: tiny_models)
    bundle = showcase.load_showcase(folder)
    assert showcase.stale_reasons(bundle) == []
    document = json.loads((folder / "showcase.json").read_text("utf-8"))
    document["result"]["readings"]["defended"]["hash"] = "0" * 64
    other = folder / "other"
    other.mkdir()
    for picture in folder.glob("*.png"):
        (other / picture.name).write_bytes(picture.read_bytes())
    (other / "showcase.json").write_text(json.dumps(document), "utf-8")
    reasons = showcase.stale_reasons(showcase.load_showcase(other))
    assert len(reasons) == 1 and "tabletop-cmai" in reasons[0]


def test_without_models_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "bundled_dir", lambda: tmp_path / "none")
    assert showcase.build_showcase(tmp_path / "out") is None
    assert showcase.load_showcase(tmp_path / "out") is None


def test_broken_files_are_an_error_in_words(tmp_path):
    (tmp_path / "showcase.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        showcase.load_showcase(tmp_path)


def test_the_bundled_example_shows_the_bundled_models():
    """Fails when a model was retrained and `python -m cmai_core.showcase` was not run again."""
    bundle = showcase.load_showcase()
    if bundle is None:
        names = {card.name for card in bundled.bundled_models()}
        assert "tabletop" not in names, "tabletop is bundled, but no example: python -m cmai_core.showcase"
        return
    assert showcase.stale_reasons(bundle) == []
    undefended = bundle.result.readings["undefended"]
    assert undefended.adversarial < bundle.tau["undefended"] <= undefended.clean
