"""A trained model becomes a bundled one: whole or not at all, with heads of its own towers, calibrated as stored."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import torch

from cmai_core.commands import cmcv as cmcv_command
from cmai_core.defenses.calibration import calibration_of
from cmai_core.errors import ModelError
from cmai_core.models import load_model
from cmai_core.models.families import bundled
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.models.save import save_local_dir
from cmai_core.training.bundle import bundle

spec = importlib.util.spec_from_file_location("training_helpers", Path(__file__).with_name("helpers.py"))
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)

CARD = {"name": "x", "defended": True, "domain": "tabletop", "training": {"seed": 0, "pairs": 8, "command": "train"}}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """(a model without heads, the same with heads, heads of other towers); models are bundled into tmp_path."""
    assets = tmp_path / "models"
    assets.mkdir()
    shutil.copytree(bundled.bundled_dir() / "_tokenizer", assets / "_tokenizer")
    monkeypatch.setattr(bundled, "bundled_dir", lambda: assets)
    out = []
    for name, towers, heads in (("plain", 0, False), ("headed", 0, True), ("others", 1, True)):
        model = helpers.model()
        if towers:
            with torch.no_grad():
                model.clip.visual.proj += 0.1
        if heads:
            model.heads = ConsistencyHeads(model.head_sizes(), torch.Generator().manual_seed(3))
        out.append(save_local_dir(model, tmp_path / name, CARD))
    return out


def test_heads_of_the_same_towers_come_along_and_the_thresholds_are_those_of_the_stored_model(folders, monkeypatch):
    plain, headed, _ = folders
    monkeypatch.setattr(cmcv_command, "other_splits", lambda dataset: ("holdout",))
    card = bundle(plain, "made", heads=headed, measured=False, calibration=40)
    model = load_model("made", "cpu")
    assert model.heads is not None and model.name == "made" and card["training"]["heads"]["pairs"] == 8
    found = calibration_of(model)
    assert {"validation", "holdout", "vague", "specific"} <= set(found.rates)
    assert found.count == 40 and found.at(0.05).log_tau_v is not None
    assert model.hash == load_model(f"local-dir:{headed}", "cpu").hash != load_model(f"local-dir:{plain}", "cpu").hash


def test_what_cannot_be_bundled_leaves_nothing_behind(folders, monkeypatch):
    plain, headed, others = folders
    kept = sorted(path.name for path in bundled.bundled_dir().iterdir())
    with pytest.raises(ModelError, match=re.escape(str(others))):
        bundle(plain, "made", heads=others, measured=False)
    with pytest.raises(ModelError, match=re.escape(str(plain))):
        bundle(headed, "made", heads=plain, measured=False)
    with pytest.raises(ModelError, match="nowhere"):
        bundle(plain.parent / "nowhere", "made")
    monkeypatch.setattr("cmai_core.training.bundle.SIZE_LIMIT", 1000)
    with pytest.raises(ModelError, match="1,000"):
        bundle(plain, "made")
    assert sorted(path.name for path in bundled.bundled_dir().iterdir()) == kept
