"""Tabletop's splits: what is stored, what is rendered, what is cached, and the arrays that training reads."""

import numpy as np
import pytest

from cmai_core import cli
from cmai_core.data.pair import PairDataset
from cmai_core.data.registry import DATASETS
from cmai_core.data.tabletop.arrays import NO_OBJECT, patch_labels, training_arrays
from cmai_core.data.tabletop.dataset import CLASSES, SPLITS, Tabletop, captions_of, scene_of, stored_file
from cmai_core.data.tabletop.language import FAMILIES, answer, parse, parse_question
from cmai_core.data.tabletop.render import render
from cmai_core.data.tabletop.statements import encode_pattern, encode_scenes, truth_of_codes
from cmai_core.errors import DataError
from cmai_core.models.tokenizer import bundled_tokenizer_dir


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMAI_CACHE", str(tmp_path))


def test_stored_scenes_are_the_rendered_ones():
    stored = Tabletop("test", limit=1000)
    chosen = [0, 1, 499, 999]
    assert (render([stored.scene(k) for k in chosen]) == np.stack([stored.image(k) for k in chosen])).mean() > 0.9999


def test_the_stored_part_is_written_as_it_is(tmp_path):
    import pyarrow.parquet

    assert cli.main(["data", "stored", "--out", str(tmp_path / "test.parquet"), "--count", "3"]) == 0
    files = (tmp_path / "test.parquet", stored_file())
    new, old = (pyarrow.parquet.read_table(path).slice(0, 3).to_pylist() for path in files)
    assert len(new) == 3
    for made, bundled in zip(new, old, strict=True):
        assert {key: value for key, value in made.items() if key != "image"} == {
            key: value for key, value in bundled.items() if key != "image"
        }


def test_items_carry_images_truth_and_texts():
    dataset = Tabletop("validation", limit=40)
    assert isinstance(dataset, PairDataset) and len(dataset) == 40
    for k in (0, 39, -1):
        pair = dataset[k]
        assert pair.image.shape == (128, 128, 3) and pair.image.dtype == np.uint8
        assert len(pair.captions) >= 5 and all(pair.scene.satisfies(text) for text in pair.captions)
        for question in pair.questions:
            assert answer(parse_question(question.text), pair.scene) == question.answers[0]
        assert pair.label is None or (pair.label in CLASSES and pair.scene.satisfies(f"a {pair.label}"))
    assert dataset[3].id == "tabletop/validation/3" and dataset[-1].id == dataset[39].id
    with pytest.raises(IndexError):
        dataset[40]


def test_a_second_reading_uses_the_cache_and_a_broken_cache_is_made_again(tmp_path):
    first = Tabletop("validation", limit=3).image(2).copy()
    (cached,) = tmp_path.rglob("validation/*.npy")
    assert (Tabletop("validation").image(2) == first).all()
    cached.write_bytes(cached.read_bytes()[:1000])
    assert (Tabletop("validation").image(2) == first).all()


def test_shifted_splits_show_the_test_scenes_differently():
    plain, shifted = Tabletop("test", limit=2), Tabletop("test-style", limit=2)
    assert shifted[0].captions == plain[0].captions and shifted[0].scene.objects == plain[0].scene.objects
    assert np.abs(shifted.image(0).astype(int) - plain.image(0)).mean() > 2
    assert {"test-light", "test-table", "test-viewpoint", "test-style", "test-corruption"} <= set(SPLITS)


def test_the_final_split_shows_other_scenes():
    seen = {scene_of(split, k) for split in ("train", "validation", "test") for k in range(100)}
    assert not seen & {scene_of("final", k) for k in range(100)}
    assert "final" in DATASETS["tabletop"].splits and "final" not in DATASETS["tabletop"].shown


def test_truth_knows_several_captions_of_several_scenes():
    dataset = Tabletop("test", limit=50)
    texts = [captions_of("test", k)[0] for k in range(50)] + ["what is this"]
    matrix = dataset.truth(texts, range(50))
    assert matrix.shape == (51, 50) and matrix[:50].diagonal().all() and not matrix[50].any()


def test_statements_stay_inside_the_dataset_and_are_balanced():
    dataset = Tabletop("test", limit=200)
    statements = dataset.statements
    assert len(statements) == 200 and {s.truth for s in statements} == {True, False}
    assert 0.4 < np.mean([s.truth for s in statements]) < 0.6
    assert max(max(s.left, s.right) for s in statements) < 200 and all(s.left != s.right for s in statements)


@pytest.mark.parametrize("wrong", [{"split": "tset"}, {"split": "test", "limit": 0}])
def test_wrong_names_are_named(wrong):
    with pytest.raises(DataError):
        Tabletop(**wrong)


def test_training_arrays_do_not_depend_on_the_number_of_workers(tmp_path):
    vocabulary = bundled_tokenizer_dir() / "tokenizer.json"
    one = training_arrays(vocabulary, "train", 40, workers=1, folder=tmp_path / "one")
    two = training_arrays(vocabulary, "train", 40, workers=2, folder=tmp_path / "two")
    for name in one.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    truth = one.truth(np.arange(8), np.arange(8), np.zeros(8, int))
    assert truth.diagonal().all() and truth.shape == (8, 8)
    some = [scene_of("train", k) for k in range(200)]
    codes = np.stack([one.caption_codes[5, 0], encode_pattern(parse(captions_of("train", 5)[0]))])
    assert np.equal(*truth_of_codes(codes, *encode_scenes(some))).all(), "code and words mean the same"
    asked = one.question_family >= 0
    assert set(np.unique(one.question_family[asked])) <= set(range(len(FAMILIES)))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(vocabulary))
    row, column = np.argwhere(asked)[0]
    ids, at = one.question_ids[row, column], one.question_answer_at[row, column]
    question = parse_question(tokenizer.decode(ids[:at].tolist()).strip())
    assert answer(question, scene_of("train", int(row))) == tokenizer.decode([int(ids[at])]).strip()


def test_patch_labels_take_the_object_that_covers_most():
    masks = np.full((1, 32, 32), NO_OBJECT, np.uint8)
    masks[0, :16, :8] = 2
    masks[0, :16, 8:10] = 1
    masks[0, 16:, :3] = 0
    assert patch_labels(masks).tolist() == [[[2, NO_OBJECT], [NO_OBJECT, NO_OBJECT]]]
