"""Edits of captions as token ids: those that keep them true, and EDA, which does not promise to."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from cmai_core.data.tabletop.captions import captions
from cmai_core.data.tabletop.dataset import scene_of
from cmai_core.data.tabletop.language import SYNONYMS, StatementError
from cmai_core.data.tabletop.sampling import scene_rng
from cmai_core.errors import OptionError
from cmai_core.models.tokenizer import bundled_tokenizer_dir
from cmai_core.training.edits import TrueEdits, eda, tabletop_synonyms

VOCABULARY = bundled_tokenizer_dir() / "tokenizer.json"
BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer.from_file(str(VOCABULARY))
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def edits():
    return TrueEdits.tabletop(VOCABULARY)


@pytest.fixture(scope="module")
def sentences(tokenizer):
    """(the scene of each caption, ids N×48)."""
    scenes, rows = [], []
    for k in range(120):
        scene = scene_of("train", k)
        for text, _ in captions(scene, scene_rng(0, "train", k, 1), 6):
            scenes.append(scene)
            rows.append(tokenizer.encode(text).ids)
    ids = torch.zeros(len(rows), 48, dtype=torch.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row)
    return scenes, ids


def encode(tokenizer, *texts):
    rows = [tokenizer.encode(text).ids for text in texts]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row)
    return ids


def text_of(tokenizer, ids):
    return tokenizer.decode(ids.reshape(-1).tolist()).strip()


def told(scene, text):
    """True, false or unreadable (None)."""
    try:
        return scene.satisfies(text)
    except StatementError:
        return None


def random_choice(candidates, generator):
    """One candidate of each row, all equally likely; −1 where a row has none."""
    possible = (candidates >= 0).flatten(1)
    keys = torch.rand(possible.shape, generator=generator).masked_fill(~possible, -1.0)
    return torch.where(possible.any(1), keys.argmax(1), -1)


def test_edited_captions_stay_true(tokenizer, edits, sentences):
    scenes, ids = sentences
    candidates = edits.candidates(ids)
    number = (candidates >= 0).flatten(1).sum(1)
    assert number.double().mean() >= 3, f"{number.double().mean()} edits a caption"
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        choice = random_choice(candidates, generator)
        changed = edits.apply(ids, candidates, choice)
        assert torch.equal((changed != ids).sum(1), (number > 0).long()), "one token, wherever there is a candidate"
        for scene, before, after in zip(scenes, ids, changed, strict=True):
            text = text_of(tokenizer, after)
            assert scene.satisfies(text), (text_of(tokenizer, before), text)
            words = text.replace(",", "").split()
            for article, word in pairwise(words):
                assert article not in ("a", "an") or (article == "an") == (word[0] in "aeiou"), text


def test_every_single_word_synonym_is_offered_and_nothing_else(tokenizer, edits):
    ids = encode(tokenizer, "there are two items: a small red box behind a thing", "an object and a shiny cone")
    candidates = edits.candidates(ids)
    offered = [
        {
            (text_of(tokenizer, row[p : p + 1]), text_of(tokenizer, c))
            for p in range(len(row))
            for c in found[p]
            if c >= 0
        }
        for row, found in zip(ids, candidates, strict=True)
    ]
    assert offered[0] == {
        ("items", "things"), ("items", "objects"), ("small", "little"), ("small", "tiny"),
        ("box", "cube"), ("box", "block"),
    }, "not thing → object, which needs another article"  # fmt: skip
    assert offered[1] == {("object", "item"), ("shiny", "glossy"), ("shiny", "polished")}
    assert set(tabletop_synonyms()["boxes"]) == {"cubes", "blocks"} and "cone" not in tabletop_synonyms()
    assert all(
        set(words) - {w} == set(tabletop_synonyms()[w]) for words in SYNONYMS.values() for w in words if words[1:]
    )


def test_edits_may_be_left_out(tokenizer, edits):
    ids = encode(tokenizer, "a small red box", "a red cone").repeat(600, 1)
    candidates = edits.candidates(ids)
    choice = random_choice(candidates, torch.Generator().manual_seed(1))
    assert (choice[1::2] == -1).all() and torch.equal(edits.apply(ids, candidates, choice)[1::2], ids[1::2])
    assert torch.equal(edits.apply(ids, candidates, torch.full_like(choice, -1)), ids)
    beyond = torch.zeros_like(choice)  # the begin token's first candidate: there is none
    assert torch.equal(edits.apply(ids, candidates, beyond), ids)


def test_any_list_of_words_will_do(tokenizer):
    edits = TrueEdits({"man": ("person", "unheardofword"), "photo": ("image", "picture")}, VOCABULARY)
    found = edits.candidates(encode(tokenizer, "a photo of a man"))
    assert {text_of(tokenizer, c) for c in found[0].flatten() if c >= 0} == {"picture", "person"}
    with pytest.raises(OptionError):
        TrueEdits({"unheardofword": ("otherunheardofword",)}, VOCABULARY)


def test_eda_keeps_special_tokens_and_padding_in_place(edits, sentences):
    ids = sentences[1].numpy().astype(np.uint16)
    before = ids.copy()
    out = eda(ids, edits, np.random.default_rng(0), 0.3)
    assert out.dtype == ids.dtype and out.shape == ids.shape and np.array_equal(ids, before)
    length = (out != 0).sum(1)
    assert (out[:, 0] == BOS).all() and (out[np.arange(len(out)), length - 1] == EOS).all()
    assert (np.isin(out, (BOS, EOS)).sum(1) == 2).all() and (length >= 3).all()
    assert ((out != 0) == (np.arange(48) < length[:, None])).all()
    assert np.array_equal(out, eda(ids, edits, np.random.default_rng(0), 0.3))


def test_eda_does_each_of_its_operations(edits, sentences):
    ids = sentences[1].numpy()
    words = (ids != 0).sum(1) - 2
    out = eda(ids, edits, np.random.default_rng(1), 0.1)
    change = (out != 0).sum(1) - (ids != 0).sum(1)
    number = np.maximum(1, words // 10)
    assert np.isin(change[change > 0], [1, 2, 3]).all() and (change == number)[change > 0].all()
    assert 0.15 < (change > 0).mean() < 0.3 and 0.1 < (change < 0).mean() < 0.3
    same = change == 0
    permuted = same & (np.sort(out, 1) == np.sort(ids, 1)).all(1) & (out != ids).any(1)
    replaced = same & ~(np.sort(out, 1) == np.sort(ids, 1)).all(1)
    assert permuted.mean() > 0.15 and ((out != ids).sum(1)[replaced] <= number[replaced]).all()
    table = edits.table.numpy()
    for row in np.flatnonzero(replaced):
        for at in np.flatnonzero(out[row] != ids[row]):
            assert out[row, at] in table[ids[row, at]]


def test_eda_leaves_what_it_cannot_change(tokenizer, edits):
    one_word = encode(tokenizer, "cone").repeat(200, 1).numpy()
    assert np.array_equal(eda(one_word, edits, np.random.default_rng(0), 0.9), one_word)
    empty = np.array([[BOS, EOS, 0, 0]] * 20)
    assert np.array_equal(eda(empty, edits, np.random.default_rng(0)), empty)
    full = encode(tokenizer, "a small red box").repeat(200, 1).numpy()
    assert (eda(full, edits, np.random.default_rng(0))[:, 0] == BOS).all()
    with pytest.raises(OptionError):
        eda(full, edits, np.random.default_rng(0), 0.0)


def test_how_often_eda_keeps_a_caption_true(tokenizer, edits, sentences):
    """The shares that the docstring of `eda` reports."""
    scenes, ids = sentences
    out = eda(ids.numpy(), edits, np.random.default_rng(0))
    verdicts = [told(scene, text_of(tokenizer, row)) for scene, row in zip(scenes, out, strict=True)]
    share = {verdict: verdicts.count(verdict) / len(verdicts) for verdict in (True, False, None)}
    assert 0.35 < share[True] < 0.45 and 0.002 < share[False] < 0.03 and 0.55 < share[None] < 0.65, share
