"""The bundled example: it can be made, written and read back, and the bundled one is of the bundled models."""

from __future__ import annotations

import numpy as np
import pytest

import cmai_core.models.families.bundled as bundled
from cmai_core import showcase
from cmai_core.data.registry import DATASETS, DEFAULT_DATASET
from cmai_core.errors import DataError
from cmai_core.evaluation.verification.calibration import calibration_for
from cmai_core.models import load_model


def holds_models_and_thresholds(bundle):
    for role, prediction in bundle.result.predictions.items():
        model = load_model(prediction.spec, device="cpu")
        assert model.hash == prediction.hash, prediction.spec
        basis = calibration_for(model, DATASETS[DEFAULT_DATASET].kind)
        assert not basis.stored or basis.tau(bundle.false_positive_rate) == bundle.tau[role], prediction.spec


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
    assert again.result.predictions == bundle.result.predictions
    assert dict(again.histograms) == dict(bundle.histograms) and again.tau == bundle.tau and again.pairs == 8
    assert np.array_equal(again.result.first_example.adversarial, bundle.result.first_example.adversarial)
    for histogram in again.histograms.values():
        assert sum(histogram.clean) == sum(histogram.adversarial) == 8
        assert len(histogram.edges) == len(histogram.clean) + 1
    assert set(again.result.predictions) == {"A", "B"}
    assert all("validation" in origin for origin in again.origin.values()) and again.pairs == 8
    for role, basis_tau in again.tau.items():
        assert -1 <= basis_tau <= 1 and 0 <= again.flagged_clean[role] <= 1, role
    assert not any(prediction.transferred for prediction in again.result.predictions.values())


def test_it_is_of_the_models_that_it_was_made_with(made, tiny_models, monkeypatch):
    folder, _ = made
    monkeypatch.setattr(bundled, "bundled_dir", lambda: tiny_models)
    holds_models_and_thresholds(showcase.load_showcase(folder))


def test_without_models_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "bundled_dir", lambda: tmp_path / "none")
    assert showcase.build_showcase(tmp_path / "out") is None
    assert showcase.load_showcase(tmp_path / "out") is None


def test_broken_files_are_an_error_in_words(tmp_path):
    (tmp_path / "showcase.json").write_text("{", "utf-8")
    with pytest.raises(DataError):
        showcase.load_showcase(tmp_path)


def test_the_bundled_example_shows_the_bundled_models():
    """Fails when a model was retrained and `python -m cmai_core.showcase` was not run again."""
    bundle = showcase.load_showcase()
    if bundle is None:
        names = {card.name for card in bundled.bundled_models()}
        assert "tabletop" not in names, "tabletop is bundled, but no example: python -m cmai_core.showcase"
        return
    holds_models_and_thresholds(bundle)
    undefended = bundle.result.predictions["A"]
    assert undefended.adversarial < bundle.tau["A"] <= undefended.clean
