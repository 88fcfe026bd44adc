"""Families of models: the table, and one that another package brings, from its name to a table of results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import cmai_core as cmai
from cmai_core.defenses.detector import ConsistencyDetector
from cmai_core.defenses.system import System
from cmai_core.errors import ModelError, OptionError
from cmai_core.models.download import is_here
from cmai_core.models.families.family import FAMILIES, Family, family_of


def beside(name):
    """A module of this folder: the tests are no package."""
    spec = importlib.util.spec_from_file_location(f"models_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny_family = beside("tiny_family")


@pytest.fixture
def tiny():
    """The family `tiny`, as long as a test runs."""
    FAMILIES.add("tiny", tiny_family.FAMILY)
    yield "tiny:7"
    del FAMILIES._parts["tiny"]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("tabletop", "bundled"),
        ("no such model", "bundled"),
        ("bundled:tabletop", "bundled"),  # of no prefix
        ("ViT-B-32/random", "open-clip"),
        ("elsewhere:a/b", "open-clip"),
        ("local-dir:/a/b", "local-dir"),
        ("local-dir:hf-hub:x", "local-dir"),
        ("hf-hub:a/b", "hf-hub"),
    ],
)
def test_a_specification_belongs_to_one_family(spec, name):
    assert family_of(spec) is FAMILIES[name]


def test_each_example_belongs_to_its_own_family():
    for family in FAMILIES.values():
        assert family_of(family.example) is family and family.note


def test_a_package_brings_a_name_of_its_own_and_a_family():
    for name, part in (
        ("hf-hub", tiny_family.FAMILY),
        ("no prefix", tiny_family.FAMILY),
        ("other", tiny_family.load),
        ("other", Family(tiny_family.load, "x", "takes names that are others'", prefixed=False)),
    ):
        with pytest.raises(OptionError, match=name):
            FAMILIES.add(name, part)


def test_a_new_family_is_attacked_evaluated_scored_explained_and_defended(tiny):
    assert is_here(tiny)
    model = cmai.load_model(tiny)
    assert not any(p.requires_grad for module in model.modules() for p in module.parameters())
    report = cmai.attack(tiny, "tabletop", recipe="pgd", epsilon=8, limit=3, steps=3)
    assert report.data["summary"][tiny]["samples"] == 3
    pair = cmai.load_dataset("tabletop", limit=1)[0]
    clean, attacked = cmai.consistency(model, [pair.image, report.result.images()[0]], pair.captions[0])
    assert attacked < clean
    table = cmai.evaluate(model, recipes=["fgsm"], epsilons=[8], limit=3)
    assert table[table["metric"] == "acc_robust"]["total"].tolist()[0] == 3
    assert cmai.explain(model, pair.image, pair.captions[0]).map.shape == (1, 16, 16)
    with pytest.raises(ModelError, match="image tower"):
        cmai.explain(model, pair.image, pair.captions[0], method="relevance")
    system = System(model, detector=ConsistencyDetector(1.0))  # flags every picture
    assert cmai.attack(system, "tabletop", recipe="fgsm", epsilon=8, limit=2) is not None


def test_its_weights_have_a_hash_and_its_tower_can_be_replaced(tiny):
    model, same, other = (cmai.load_model(spec) for spec in (tiny, tiny, "tiny:8"))
    assert model.hash == same.hash != other.hash
    mixed = model.with_image_tower(other.image_tower, "mixed")
    pixels = torch.from_numpy(np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32))
    assert torch.equal(mixed.encode_image(pixels), other.encode_image(pixels))
    assert torch.equal(mixed.encode_text(["a cube"]), model.encode_text(["a cube"]))
    assert mixed.name == "mixed" and mixed.hash not in (model.hash, other.hash)


def test_what_it_cannot_do_it_says(tiny):
    model = cmai.load_model(tiny)
    assert not any(vars(model.capabilities).values()) and model.classes is None
    with pytest.raises(ModelError, match="decoder"):
        model.generate(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ModelError, match="heads"):
        model.verify(torch.zeros(1, 3, 16, 16), ["a cube"])
    with pytest.raises(ModelError, match="distributions"):
        model.encode_text(torch.zeros(1, 4, 259))
    with pytest.raises(ModelError, match="trained"):
        model.trainable()
