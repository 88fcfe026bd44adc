"""False captions: false, close to the true one in words, and not to be told from it without the picture."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer

from cmai_core.data.tabletop.arrays import training_arrays
from cmai_core.data.tabletop.captions import captions
from cmai_core.data.tabletop.classes import class_targets
from cmai_core.data.tabletop.dataset import scene_of
from cmai_core.data.tabletop.false_captions import NEVER, Words, false_captions
from cmai_core.data.tabletop.language import parse, realise
from cmai_core.data.tabletop.sampling import HELD_OUT, scene_rng
from cmai_core.data.tabletop.scene import COLOURS, SHAPES
from cmai_core.data.tabletop.statements import Pattern, Thing, encode_pattern, encode_scenes, truth_of_codes
from cmai_core.errors import DataError
from cmai_core.models.tokenizer import bundled_tokenizer_dir

VOCABULARY = bundled_tokenizer_dir() / "tokenizer.json"
SCENES, CAPTIONS = 450, 6


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer.from_file(str(VOCABULARY))
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def words():
    return Words.read(VOCABULARY)


def encode(tokenizer, texts):
    ids = np.zeros((len(texts), 48), np.uint16)
    for k, text in enumerate(texts):
        row = tokenizer.encode(text).ids
        ids[k, : len(row)] = row
    return ids


def sentence(tokenizer, ids):
    return tokenizer.decode(ids.tolist()).strip()


def code_of(tokenizer, ids):
    return encode_pattern(parse(sentence(tokenizer, ids)))


@pytest.fixture(scope="module")
def pairs(tokenizer, words):
    """(scenes, true ids, false ids, false codes) of training scenes, made without rendering."""
    scenes = [scene_of("train", k) for k in range(SCENES)]
    texts = [t for k, s in enumerate(scenes) for t, _ in captions(s, scene_rng(0, "train", k, 1), CAPTIONS)]
    ids = encode(tokenizer, texts).reshape(SCENES, CAPTIONS, 48)
    draws = np.random.default_rng(0).random((SCENES, CAPTIONS, 2))
    return scenes, ids, *false_captions(ids, *encode_scenes(scenes), words, draws)


def test_every_false_caption_is_false_of_its_scene_and_its_code_says_what_its_words_say(pairs, tokenizer):
    scenes, ids, false_ids, codes = pairs
    assert (false_ids[..., 0] == ids[..., 0]).mean() > 0.999, "nearly every caption has a false one"
    for n in range(120):
        for true, false, code in zip(ids[n], false_ids[n], codes[n], strict=True):
            if false[0]:
                text = sentence(tokenizer, false)
                assert scenes[n].satisfies(sentence(tokenizer, true)) and not scenes[n].satisfies(text), text
                assert (code_of(tokenizer, false) == code).all(), text


def test_only_one_fact_changes_and_the_wording_stays(pairs, tokenizer):
    _, ids, false_ids, codes = pairs
    relations = 0
    rows = (x[:200].reshape(200 * CAPTIONS, -1) for x in (ids, false_ids, codes))
    for true, false, code in zip(*rows, strict=True):
        if not false[0]:
            continue
        differs = code_of(tokenizer, true) != code
        assert differs.sum() == 1
        if code[2] and differs[19:].any():
            relations += 1
            continue
        before, after = sentence(tokenizer, true).split(), sentence(tokenizer, false).split()
        changed = [k for k, (b, a) in enumerate(zip(before, after, strict=True)) if b != a]
        articles = [k for k in changed if before[k] in ("a", "an")]
        assert len(changed) - len(articles) == 1 and all(k + 1 in changed for k in articles)
        for article, word in pairwise(after):
            assert article not in ("a", "an") or (article == "an") == (word[0] in "aeiou"), after
    assert relations > 20, "relations are turned round too"


def test_false_captions_name_no_combination_that_the_split_never_shows(pairs, words, tokenizer):
    *_, codes = pairs
    things = codes[..., 3:19].reshape(-1, 4)
    stated = {(SHAPES[s], COLOURS[c]) for s, c, *_ in things if s >= 0 and c >= 0}
    assert len(stated) == 40 and not stated & HELD_OUT
    scene = scene_of("holdout", 0)
    ids = encode(tokenizer, ["an orange sphere"] * 400)[None]
    draws = np.random.default_rng(0).random((1, 400, 2))
    _, codes = false_captions(ids, *encode_scenes([scene]), words, draws, held_out=True)
    stated = {(SHAPES[s], COLOURS[c]) for s, c, *_ in codes[0, :, 3:19].reshape(-1, 4) if s >= 0}
    assert stated & HELD_OUT, "where the split shows them, false captions name them"


def accuracy_from_text(classifier, positive, negative):
    """Accuracy on the last third of the rows of a classifier fitted on the others."""
    seen = (SCENES * 2 // 3) * CAPTIONS
    truth = np.arange(2 * seen) < seen
    classifier.fit(np.concatenate([positive[:seen], negative[:seen]]), truth)
    return (classifier.predict(positive[seen:]).mean() + 1 - classifier.predict(negative[seen:]).mean()) / 2


def counts(ids):
    out = np.zeros((len(ids), 1024), np.float32)
    np.add.at(out, (np.arange(len(ids))[:, None], ids.astype(int)), 1)
    return out[:, 3:]


def facts(ids, tokenizer):
    """How often a caption gives each value, how many values of an attribute it repeats, and its numbers of things."""
    out = []
    for row in ids:
        code = code_of(tokenizer, row)
        columns = code[3:19].reshape(4, 4).T
        given = np.stack([np.bincount(column[column >= 0], minlength=8) for column in columns])
        out.append(np.concatenate([given.ravel(), (given > 1).sum(1), given.max(1), code[:3]]))
    return np.stack(out)


def test_the_words_alone_do_not_tell_true_from_false(pairs, tokenizer):
    _, ids, false_ids, _ = pairs
    true, false = ids.reshape(-1, 48), false_ids.reshape(-1, 48)
    bag = LogisticRegression(C=0.1, max_iter=300)
    assert accuracy_from_text(bag, counts(true), counts(false)) < 0.55
    trees = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, learning_rate=0.05)
    assert accuracy_from_text(trees, facts(true, tokenizer), facts(false, tokenizer)) < 0.55
    lengths = [(x != 0).sum(1) for x in (true, false)]
    assert abs(lengths[0].mean() - lengths[1].mean()) < 0.05
    told = false.copy()
    told[:, 3] = 600 + true[:, 3] % 2
    assert accuracy_from_text(bag, counts(true), counts(told)) > 0.9, "a difference in wording would be seen"


def test_a_caption_without_a_false_neighbour_has_none(tokenizer, words):
    scene = scene_of("train", 0)
    ids = encode(tokenizer, [realise(Pattern((Thing(),)), np.random.default_rng(0))])[None]
    false_ids, codes = false_captions(ids, *encode_scenes([scene]), words, np.full((1, 1, 2), 0.5))
    assert not false_ids.any() and codes[0, 0, 1] == NEVER


def test_training_arrays_give_them_on_demand_and_keep_the_rest(tmp_path, tokenizer):
    plain = training_arrays(VOCABULARY, "train", 12, workers=1, folder=tmp_path)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert plain.false_ids is None and plain.false_codes is None
    arrays = training_arrays(VOCABULARY, "train", 12, workers=1, folder=tmp_path, false_captions=True)
    assert all((tmp_path / name).stat().st_mtime_ns == when for name, when in files.items())
    assert arrays.false_ids.shape == (12, 6, 48) and arrays.false_ids.dtype == np.uint16
    again = training_arrays(VOCABULARY, "train", 12, workers=1, folder=tmp_path, false_captions=True)
    assert np.array_equal(again.false_ids, arrays.false_ids)
    assert np.array_equal(arrays.class_targets(np.array([7, 3])), class_targets(arrays.objects)[[7, 3]])
    rows, columns = np.arange(12), np.arange(12) % 6
    codes = np.ascontiguousarray(arrays.false_codes[rows, columns])
    truth = truth_of_codes(codes, arrays.objects, arrays.frame).T
    assert not truth.diagonal().any()
    for k in range(12):
        text = sentence(tokenizer, arrays.false_ids[k, columns[k]])
        assert [scene_of("train", n).satisfies(text) for n in range(12)] == truth[:, k].tolist(), text
    codes[:], codes[:, :3] = -1, (0, NEVER, 0)
    assert not truth_of_codes(codes, arrays.objects, arrays.frame).any()


def test_another_vocabulary_is_refused(tmp_path):
    from tokenizers import models

    Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError):
        Words.read(tmp_path / "tokenizer.json")
