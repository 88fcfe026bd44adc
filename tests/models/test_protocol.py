"""Every kind of model answers the whole protocol, and no other layer reaches behind it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
import torch
from small_models import small_clip, small_coca
from torch import nn

import cmai_core
from cmai_core.defenses.system import System
from cmai_core.errors import ModelError
from cmai_core.models import VisionLanguageModel, load_model, protocol
from cmai_core.models.wrap import wrap


def beside(name):
    """A module of this folder: the tests are no package."""
    spec = importlib.util.spec_from_file_location(f"models_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny_family = beside("tiny_family")
ROOT = Path(cmai_core.__file__).parent


def wrapped_classifier():
    return wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval(), classes=["a", "b"], image_size=8)


def wrapped_encoders():
    image = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).eval()
    return wrap(image, nn.EmbeddingBag(259, 4).eval(), tokenizer=lambda t: tiny_family.Letters()(t, 20), image_size=8)


KINDS = {
    "CoCa": lambda: small_coca(attentional_pool=False, pool_type="tok", width=32, head_width=16),
    "CoCa with a pooler": small_coca,
    "CLIP": lambda: small_clip(False),
    "CustomTextCLIP": lambda: small_clip(True),
    "bundled": lambda: load_model("tabletop", "cpu"),
    "classifier": wrapped_classifier,
    "two encoders": wrapped_encoders,
    "another family": lambda: tiny_family.load("tiny:1"),
    "defended system": lambda: System(load_model("tabletop", "cpu")),
}


@pytest.fixture(scope="module", params=list(KINDS))
def model(request):
    return KINDS[request.param]()


def members(kind):
    """The names that a protocol asks for."""
    found = set()
    for base in kind.__mro__:
        if getattr(base, "_is_protocol", False):
            found |= {name for name in vars(base) if name[0] != "_"}
    return found


def test_every_kind_answers_the_whole_protocol(model):
    asked = members(VisionLanguageModel)
    assert {"image_features", "consistency", "verify", "generate", "image_attention", "state", "hash"} <= asked
    missing = []
    for name in sorted(asked):
        try:
            getattr(model, name)
        except ModelError:  # it says why not: two encoders need not know their vocabulary
            continue
        except AttributeError:
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("kind", [protocol.ImageEncoder, protocol.Encoder, protocol.ConsistencyScorer])
def test_small_protocols_can_be_asked_for(model, kind):
    assert isinstance(model, kind) and not isinstance(object(), kind)


def test_capabilities_say_what_works(model):
    size, able = model.image_size, model.capabilities
    with torch.no_grad():
        features = model.image_features(torch.full((1, 3, size, size), 0.5, device=model.device))
    text = "a cube" if model.classes is None else model.classes[0]
    asked = {
        "decodes": lambda: model.fusion_logits(features.tokens, model.tokenize([text])),
        "verifies": lambda: model.verify(features, [text]),
        "reads_distributions": lambda: model.encode_text(torch.full((1, 3, model.vocabulary_size), 0.1)),
        "image_attention": model.image_attention,
        "text_attention": model.text_attention,
        "image_stream": lambda: model.image_stream(torch.full((1, 3, size, size), 0.5, device=model.device)),
        "text_stream": lambda: model.text_stream([text]),
        "trainable": model.trainable,
    }
    assert set(asked) == set(vars(able))
    for name, ask in asked.items():
        try:
            ask()
        except ModelError:
            assert not getattr(able, name), name
        else:
            assert getattr(able, name), name


def test_a_shared_network_is_replaced_in_the_new_model_only(model):
    before = model.state()
    made = model.with_image_tower(model.image_tower, "other")
    assert made.name == "other" and model.name != "other"
    assert all(torch.equal(value, before[name]) for name, value in made.state().items())


INSIDE = {"clip", "_network", "_mean_and_std", "tokenizer_lock"}


def reaching_in(path):
    """Lines that take an attribute of a model's inside; `np.clip` is no such thing."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in INSIDE:
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id == "np") and not isinstance(owner, ast.Call):
                yield f"{path.relative_to(ROOT.parent)}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and name.value in INSIDE:
                yield f"{path.relative_to(ROOT.parent)}:{node.lineno}"


def test_no_module_outside_models_reaches_inside_a_model():
    files = [path for top in (ROOT, ROOT.parent / "app") for path in top.rglob("*.py")]
    outside = [path for path in files if ROOT / "models" not in path.parents]
    assert len(outside) > 200
    assert [line for path in outside for line in reaching_in(path)] == []
    assert list(reaching_in(ROOT / "models" / "open_clip_model.py"))  # the search finds what there is
