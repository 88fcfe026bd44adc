"""Recipes on texts and on both: cited, built from options, and held to the promises every attack makes."""

import json

import pytest
import torch

from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.attacks.text_searches.proposers import Eda
from cmai_core.errors import OptionError
from cmai_core.progress import CancelToken

TEXT_RECIPES = [slug for slug, recipe in RECIPES.items() if recipe.modality != "image"]
TEXTS = ("A red metal cube is left of a small sphere.", "two blue cones on the table", "There is a green cylinder.")


def build(slug, **options):
    own = {} if slug in ("hotflip", "relaxed-pgd", "injection") else {"proposer": Eda(count=2)}
    if RECIPES[slug].modality == "joint":
        own |= {"steps": 4, "epsilon": 4 / 255}
    if slug == "relaxed-pgd":
        own |= {"steps": 3}
    if slug == "injection":
        own |= {"payloads": ("nothing",)}
    return RECIPES[slug].build(**{**own, **options})


def same(part, whole, rows):
    pixels = not hasattr(part, "pixels") or torch.allclose(part.pixels, whole.pixels[rows], atol=1e-6)
    return pixels and part.texts == tuple(whole.texts[row] for row in rows)


@pytest.mark.parametrize("slug", TEXT_RECIPES)
def test_recipes_keep_every_promise(tools, slug):
    model, batch = tools.BagOfWords().train(), tools.text_batch(TEXTS)
    model.image.requires_grad_(False)
    model.table.grad = torch.ones_like(model.table)
    clean, random = batch.pixels.clone(), torch.get_rng_state()
    attack = build(slug)
    threat = attack.text_threat if RECIPES[slug].modality == "joint" else attack.threat
    result = attack(model, batch, seed=2)
    assert threat.around(TEXTS).budget and max(result.words_changed) <= threat.words
    if hasattr(result, "pixels"):
        assert result.linf.max() <= 4 / 255 + 1e-6 and result.pixels.min() >= 0 and result.pixels.max() <= 1
    assert (result.success & ~result.clean_success).any()
    # Everything as it was found.
    assert torch.equal(batch.pixels, clean) and torch.equal(torch.get_rng_state(), random)
    assert model.training and model.table.requires_grad and not model.image.requires_grad
    assert torch.equal(model.table.grad, torch.ones_like(model.table)) and model.image.grad is None
    # The same again, in another order, and apart.
    assert same(attack(model, batch, seed=2), result, [0, 1, 2])
    assert same(attack(model, tools.rows_of(batch, [2, 0, 1]), seed=2), result, [2, 0, 1])
    assert same(attack(model, tools.rows_of(batch, [1]), seed=2), result, [1])
    # Cancelled before it began: the clean pair.
    token = CancelToken()
    token.cancel()
    stopped = attack(model, batch, seed=2, cancel=token)
    assert stopped.cancelled and stopped.texts == TEXTS and not stopped.success.any()
    assert result.attack["name"] == slug
    json.dumps(attack.describe())


@pytest.mark.parametrize("slug", TEXT_RECIPES)
def test_unknown_options_and_values_are_refused(slug):
    with pytest.raises(OptionError) as caught:
        build(slug, colour="red")
    assert "'colour'" in str(caught.value) and ", ".join(RECIPES[slug].options) in str(caught.value)
    wrong = [{"truth": "mine"}, {"words": -1}, {"tau": 2.0}, {"task": "retrieval", "tau": 0.1}, {"dataset": []}]
    if RECIPES[slug].modality == "joint":
        wrong += [{"norm": "l7"}, {"epsilon": -1.0}, {"keep": "first"}]
    for options in wrong:
        with pytest.raises(OptionError, match=r"Accepted|Give"):
            build(slug, **options)


def test_goals(tools):
    assert build("synonym").objective.describe() == "-pair consistency"
    assert build("synonym", tau=0.2).success.describe() == "pair S_c < 0.2"
    retrieval = build("synonym", task="retrieval")
    assert retrieval.objective.describe() == "mismatch of image" and retrieval.success.describe()
    assert "question" in build("synonym", task="vqa").success.describe()
    assert "caption" in build("sga", task="zero-shot").success.describe()
    result = retrieval(tools.BagOfWords(), tools.text_batch(TEXTS))
    assert torch.equal(result.success, result.objective > 0)


def test_proposers_by_name():
    assert build("synonym", proposer="eda").describe()["text_search"]["proposer"].startswith("EDA")
    assert build("sga", proposer="synonyms").schedule.text.proposer.describe()
    with pytest.raises(OptionError, match="synonyms, eda"):
        build("synonym", proposer="magic")
    with pytest.raises(OptionError, match="top"):
        build("bert-attack", proposer="synonyms", top=3)
    with pytest.raises(OptionError, match="count"):
        build("eda", proposer="synonyms", count=3)
    assert build("hotflip", words=2, vocabulary=("red", "blue")).search.words == ("red", "blue")
