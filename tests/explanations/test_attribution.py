"""Integrated gradients: closed forms, completeness, what must get exactly nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmai_core.errors import DataError, OptionError
from cmai_core.explanations import patch_sums, pixel_attribution, token_attribution
from cmai_core.explanations.fills import fill_image, gaussian_blur


class Polynomial:
    """S_c = Σ w·x³ of the pixels, scaled by the text's first number: integrated gradients are w·(x³ − b³)."""

    name = "polynomial"

    def __init__(self, weight):
        self.weight = weight

    def consistency(self, pixels, embedded):
        return (self.weight * pixels**3).sum(dim=(1, 2, 3)) * embedded[:, 0]


def test_closed_form(generator):
    weight = torch.randn(3, 8, 8, generator=generator)
    x, text = torch.rand(5, 3, 8, 8, generator=generator), torch.rand(5, 2, generator=generator) + 0.5
    found = pixel_attribution(Polynomial(weight), x, text, n_steps=4, internal_batch_size=8)
    expected = (weight * (x**3 - 0.125)).sum(dim=1) * text[:, :1, None]
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    assert found.signed and found.checks["completeness_error"].max() < 1e-4
    np.testing.assert_allclose(found.checks["delta"], expected.sum(dim=(1, 2)), rtol=1e-4)
    assert set(found.checks["steps"]) == {4}


@pytest.mark.parametrize("baseline", ["grey", "blur", "mean"])
def test_complete_on_a_smooth_small_model_in_20_steps(any_model, pixels, captions, baseline):
    found = pixel_attribution(any_model, pixels, captions, baseline=baseline, max_steps=20)
    assert found.map.shape == (3, 32, 32) and set(found.checks["steps"]) == {20}
    off = np.abs(found.map.sum(axis=(1, 2), dtype=np.float64) - found.checks["delta"])
    assert off.max() < 2e-5
    large = np.abs(found.checks["delta"]) > 0.01
    assert found.checks["completeness_error"][large].max(initial=0) < 1e-4
    with torch.no_grad():
        before = any_model.consistency(fill_image(pixels, baseline), captions)
        after = any_model.consistency(pixels, captions)
    np.testing.assert_allclose(found.checks["baseline_score"], before, atol=1e-6)
    np.testing.assert_allclose(found.checks["delta"], after - before, atol=1e-6)
    np.testing.assert_allclose(found.score, after, atol=1e-6)


def test_steps_double_only_where_the_sum_is_off(finder):
    model, test = finder
    pixels, captions = test.pixels[:12], test.captions[:12]
    rough = pixel_attribution(model, pixels, captions, n_steps=10, max_steps=10)
    fine = pixel_attribution(model, pixels, captions, n_steps=10, max_steps=640)
    assert rough.checks["completeness_error"].max() > 0.02
    assert fine.checks["completeness_error"].max() <= 0.01
    kept = rough.checks["completeness_error"] <= 0.01
    assert (fine.checks["steps"][kept] == 10).all() and (fine.checks["steps"][~kept] > 10).all()
    np.testing.assert_allclose(fine.map[kept], rough.map[kept], atol=1e-6)


def test_finds_the_square(finder):
    model, test = finder
    found = pixel_attribution(model, test.pixels, test.captions)
    cells = patch_sums(found.map, (4, 4)).reshape(len(found), -1)
    assert (cells.argmax(axis=1) == test.cells.numpy()).mean() > 0.9


def test_finds_the_word_that_names_the_square(finder):
    model, test = finder
    found = token_attribution(model, test.pixels, test.captions)
    assert found.words[0][0] == "a" and len(found.words[0]) == 4
    # The text without words is close to one of the three captions; there the words have little left to add.
    told = [
        values.argmax() == 1 for values, delta in zip(found.values, found.checks["delta"], strict=True) if delta > 0.5
    ]
    assert len(told) >= 8 and np.mean(told) > 0.9
    assert found.checks["completeness_error"].max() <= 0.01


@pytest.mark.parametrize("baseline", ["pad", "zero", "mean"])
def test_text_attribution_is_complete_and_spares_start_and_end(any_model, pixels, captions, baseline):
    found = token_attribution(any_model, pixels, captions, baseline=baseline)
    for tokens, values, merged, delta in zip(
        found.tokens, found.token_values, found.values, found.checks["delta"].tolist(), strict=True
    ):
        assert tokens[0] == "<start>" and tokens[-1] == "<end>"
        assert values[0] == 0 == values[-1]
        assert values.sum(dtype=np.float64) == pytest.approx(delta, abs=5e-5 + 0.01 * abs(delta))
        assert merged.sum(dtype=np.float64) == pytest.approx(values.sum(dtype=np.float64), abs=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(found.score, any_model.consistency(pixels, captions), atol=1e-6)


def test_the_text_baseline_is_the_text_with_its_tokens_replaced(any_model, pixels, captions):
    """Padding as the baseline: the same embeddings as ids give where every inner token is token 0."""

    parts = any_model.text_attention()
    pad, _, eos = any_model.token_ids()
    ids = any_model.tokenize(captions)
    swapped = ids.clone()
    for row in swapped:
        row[1 : row.tolist().index(eos)] = pad
    with torch.no_grad():
        text = parts.forward(ids, parts.tower.token_embedding(swapped))
        expected = any_model.consistency(pixels, text)
    found = token_attribution(any_model, pixels, captions)
    np.testing.assert_allclose(found.checks["baseline_score"], expected, atol=1e-6)


def test_chunks_do_not_change_the_result(any_model, pixels, captions):
    whole = pixel_attribution(any_model, pixels, captions, internal_batch_size=1000)
    small = pixel_attribution(any_model, pixels, captions, internal_batch_size=7)
    np.testing.assert_allclose(small.map, whole.map, atol=1e-6)
    words = token_attribution(any_model, pixels, captions, internal_batch_size=1000)
    for a, b in zip(
        words.values, token_attribution(any_model, pixels, captions, internal_batch_size=1).values, strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(pixel_attribution(any_model, pixels[:0], captions[:0])) == 0


def test_works_with_resnets(resnet, pixels, captions):
    found = pixel_attribution(resnet, pixels, captions)
    assert found.map.shape == (3, 32, 32) and np.abs(found.map).max() > 0
    assert len(token_attribution(resnet, pixels[:1], captions)) == 3


def test_one_text_for_all_images(any_model, pixels, captions):
    found = pixel_attribution(any_model, pixels, captions[:1])
    explicit = pixel_attribution(any_model, pixels, captions[:1] * 3)
    np.testing.assert_allclose(found.map, explicit.map, atol=1e-6)


def test_blur_keeps_flat_images_and_the_mean_and_loses_detail(generator):
    flat = torch.full((1, 3, 32, 32), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, 3.2), flat, atol=1e-6, rtol=0)
    noise = torch.rand(1, 3, 32, 32, generator=generator)
    blurred = fill_image(noise, "blur")
    assert blurred.std() < 0.15 * noise.std()
    assert blurred.min() >= 0 and blurred.max() <= 1
    point = torch.zeros(1, 1, 31, 31)
    point[..., 15, 15] = 1
    spread = gaussian_blur(point, 2.0)[0, 0]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    rows = torch.arange(31.0) - 15
    assert float((spread.sum(dim=1) * rows**2).sum()) == pytest.approx(4.0, rel=0.03)
    assert fill_image(noise, "mean").flatten(2).std(dim=2).max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [{"baseline": "black hole"}, {"n_steps": 1}, {"internal_batch_size": 0}, {"max_steps": 5000}, {"tolerance": -1}],
)
def test_bad_options_are_option_errors(any_model, pixels, captions, options):
    for method in (pixel_attribution, token_attribution):
        with pytest.raises(OptionError):
            method(any_model, pixels, captions, **options)


def test_embeddings_have_no_tokens(any_model, pixels):
    with pytest.raises(DataError):
        token_attribution(any_model, pixels, torch.ones(3, 16))
