"""Every image recipe where things go wrong: memory runs out, a gradient is not a number."""

import pytest
import torch

from cmai_core.attacks.engine.clean_features import encode
from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.errors import CmaiError

SMALL = {
    "apgd": {"steps": 4},
    "apgd-dlr": {"steps": 4},
    "apgd-t": {"steps": 3, "targets": 2},
    "fab": {"steps": 3},
    "deepfool": {"steps": 4},
    "cw": {"steps": 5, "searches": 2, "initial": 1.0},
    "jsma": {"steps": 4},
    "autoattack": {"steps": 2, "targets": 2, "queries": 5},
    "typographic": {"words": ("ab",), "queries": 3},
    "square": {"queries": 6, "share": 0.5},
    "nes": {"queries": 15, "samples": 4},
    "spsa": {"queries": 15, "samples": 4},
    "genetic": {"queries": 16},
    "hopskipjump": {"queries": 60, "first": 5, "tries": 10},
    "adaptive": {"steps": 2, "tau": -0.9},
    "detector-pgd": {"steps": 3, "tau": -0.9},
    "accept-false": {"steps": 3, "tau": 0.9},
    "reject-true": {"steps": 3, "tau": -0.9},
}
IMAGE = [slug for slug, recipe in RECIPES.items() if recipe.modality == "image" and "heads" not in recipe.needs]
BY_GRADIENT = [slug for slug in IMAGE if RECIPES[slug].knowledge == "white box"]


def build(kit, slug, **more):
    options = SMALL.get(slug, {"steps": 1 if "fgsm" in slug and len(slug) < 7 else 3})
    if "task" in RECIPES[slug].options:
        options = {"task": kit.ScoredTask(), **options}
    if slug == "transfer":
        options = {"surrogate": kit.conv_model(seed=2), **options}
    if RECIPES[slug].norm == "linf":
        options = {"epsilon": 6 / 255, **options}
    return RECIPES[slug].build(**options, **more)


@pytest.mark.parametrize("slug", IMAGE)
def test_too_little_memory_takes_smaller_pieces_and_changes_nothing(kit, slug):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 5, size=8)
    attack = build(kit, slug)
    expected = attack(model, batch, seed=1)
    tight_models = [model]
    if slug == "transfer":
        tight_models.append(attack.search.surrogate)
    refused = []
    for each in tight_models:
        each.image_features = tight(each.image_features, refused)
    result = attack(model, batch, seed=1)
    assert refused and torch.allclose(result.pixels, expected.pixels, atol=1e-9)
    assert torch.equal(result.success, expected.success)


def tight(function, refused, most=2):
    def image_features(pixels):
        if len(pixels) > most:
            refused.append(len(pixels))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return function(pixels)

    return image_features


def test_targets_are_ranked_with_little_memory_too(kit):
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 5, size=8)
    attack = build(kit, "apgd", rank=2)
    expected = attack(model, batch)
    model.image_features = tight(model.image_features, [])
    assert torch.allclose(attack(model, batch).pixels, expected.pixels, atol=1e-9)
    whole = encode(kit.conv_model(seed=1), batch.pixels).embedding
    assert torch.allclose(encode(model, batch.pixels).embedding, whole)
    model.image_features = tight(model.image_features, [], most=0)
    with pytest.raises(CmaiError, match="memory"):
        encode(model, batch.pixels)


@pytest.mark.parametrize("slug", BY_GRADIENT)
def test_a_gradient_that_is_no_number_is_named_and_the_others_finish(kit, slug):
    """The second image is bright, and no gradient goes through bright images."""
    model = kit.conv_model(seed=1)
    batch = kit.make_batch(model, 4, size=8)
    bright = torch.tensor([False, True, False, False]).view(-1, 1, 1, 1)
    batch.pixels.copy_(torch.where(bright, 0.9 + 0.1 * batch.pixels, 0.6 * batch.pixels))
    labels = model(batch.pixels).argmax(dim=1).tolist()
    pairs = tuple(type(p)(p.id, p.image, p.captions, label=str(k)) for p, k in zip(batch.pairs, labels, strict=True))
    batch = type(batch)(batch.ids, batch.pixels, batch.texts, batch.image_of_text, pairs)
    original = model.image_features

    def broken(pixels):
        seen = pixels * 1
        if seen.requires_grad:
            blind = (pixels.detach().flatten(1).mean(dim=1) > 0.75).view(-1, 1, 1, 1)
            seen.register_hook(lambda gradient: torch.where(blind, torch.nan, gradient))
        return original(seen)

    model.image_features = broken
    attack = build(kit, slug)
    result = attack(model, batch, seed=2)
    assert [("not finite" in note) for note in result.notes] == [False, True, False, False]
    assert result.pixels.isfinite().all()
    if slug == "universal":  # made by the others, it moves the bright one too
        assert (result.linf > 0).all()
    else:
        assert result.objective[1] >= result.clean_objective[1] - 1e-9
        rows = [0, 2, 3]
        others = attack(model, kit.take(batch, rows), seed=2)
        assert torch.allclose(result.pixels[rows], others.pixels, atol=1e-9)
        assert torch.equal(result.success[rows], others.success)
