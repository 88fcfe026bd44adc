"""Common scales, cells, rank correlations, words, and the warning rule."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from cmai_core.errors import DataError
from cmai_core.explanations import (
    Explanation,
    enlarge,
    explanation_moved_but_prediction_did_not,
    patch_sums,
    rank_correlation,
    shared_scale,
)
from cmai_core.models.words import merge_words, token_strings


def noise(count=3, size=6, seed=0):
    return np.random.default_rng(seed).standard_normal((count, size, size)).astype(np.float32)


def test_one_scale_for_all_maps():
    one, other = np.array([[[0.1, 0.2]]]), np.array([[[0.0, -3.0]]])
    assert shared_scale([one, Explanation("x", other, True, True, 1)]) == 3
    assert shared_scale([one]) == 0.2
    assert shared_scale([np.zeros((1, 2, 2))]) == 1
    assert shared_scale([np.r_[np.ones(99), 50.0].reshape(1, 10, 10)], percentile=90) == 1
    assert shared_scale([np.r_[np.zeros(99), 50.0].reshape(1, 10, 10)], percentile=90) == 50
    for bad in ([], [np.array([[[np.inf]]])]):
        with pytest.raises(DataError):
            shared_scale(bad)


def test_enlarging_keeps_the_values_of_cells():
    small = noise(2, 4)
    large = enlarge(small, 32)
    np.testing.assert_array_equal(large[:, 4::8, 4::8], small)
    np.testing.assert_array_equal(np.repeat(np.repeat(small, 8, axis=1), 8, axis=2), large)
    smooth = enlarge(small, 32, smooth=True)
    assert smooth.shape == large.shape and np.abs(np.diff(smooth, axis=2)).max() < np.abs(np.diff(large, axis=2)).max()


def test_cells_sum_to_the_same_total():
    maps = noise(2, 32)
    cells = patch_sums(maps, (4, 8))
    assert cells.shape == (2, 4, 8)
    assert cells[1, 2, 3] == pytest.approx(maps[1, 16:24, 12:16].sum(), abs=1e-5)
    np.testing.assert_allclose(cells.sum(axis=(1, 2)), maps.sum(axis=(1, 2)), atol=1e-4)
    with pytest.raises(DataError):
        patch_sums(maps, (5, 4))


def test_rank_correlation_is_spearmans():
    one, other = np.round(noise(), 1), np.round(noise(seed=1) + noise(), 1)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(rank_correlation(one, other), expected)
    np.testing.assert_allclose(rank_correlation(one, -one), -1)
    assert np.isnan(rank_correlation(one, np.ones_like(one))).all()
    with pytest.raises(DataError):
        rank_correlation(one, other[:2])


def test_warns_only_where_the_map_moved_and_the_prediction_did_not():
    before = noise(4)
    after = before.copy()
    after[1], after[2] = noise(1, seed=8)[0], noise(1, seed=9)[0]
    found = explanation_moved_but_prediction_did_not(before, after, [True, True, False, False])
    assert found.moved.tolist() == [False, True, True, False]
    assert found.warn.tolist() == [False, True, False, False]
    assert [bool(m) for m in found.messages] == found.warn.tolist()
    assert f"{found.correlation[1]:.2f}" in found.messages[1]
    assert found.control is None


def test_a_method_that_noise_moves_as_far_is_not_blamed_on_the_attack():
    before, after = noise(2), noise(2, seed=5)
    control = np.stack([noise(1, seed=6)[0], before[1] + 0.01 * noise(1, seed=6)[0]])
    found = explanation_moved_but_prediction_did_not(before, after, [True, True], control=control)
    assert found.moved.tolist() == [False, True] == found.warn.tolist()
    assert found.control[1] > 0.9


def test_constant_maps_never_warn():
    flat = np.ones((1, 4, 4))
    found = explanation_moved_but_prediction_did_not(flat, noise(1, 4), [True])
    assert np.isnan(found.correlation[0]) and not found.warn[0]
    with pytest.raises(DataError):
        explanation_moved_but_prediction_did_not(flat, flat, [True, False])


def test_words_of_both_vocabularies(any_model):
    text = "Two small, naïve zebras!"
    eos = any_model.token_ids()[2]
    ids = any_model.tokenize([text])[0].tolist()
    ids = ids[: ids.index(eos) + 1]
    words, groups = merge_words(any_model, ids)
    assert words == ("two", "small", ",", "naïve", "zebras", "!")
    assert [p for group in groups for p in group] == list(range(1, len(ids) - 1))
    spelled = token_strings(any_model, ids)
    assert spelled[0] == "<start>" and spelled[-1] == "<end>" and spelled[1] == "two"
    assert not any(mark in token for token in spelled for mark in ("Ġ", "▁", "</w>"))


def test_words_of_nothing(any_model):
    _, bos, eos = any_model.token_ids()
    assert merge_words(any_model, [bos, eos]) == ((), [])
    assert token_strings(any_model, []) == ()
