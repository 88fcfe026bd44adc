"""Faithfulness measures on a score whose causes are known exactly, and on a trained model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cmai_core.errors import DataError, OptionError
from cmai_core.explanations import (
    attention_flow,
    deletion_insertion,
    infidelity,
    max_sensitivity,
    patch_sums,
    pixel_attribution,
    relevance,
)
from cmai_core.explanations.faithfulness import summary, to_cells
from cmai_core.progress import Cancelled, CancelToken

CAUSE = 6  # row 1, column 2 of the 4×4 cells


class Brightness:
    """S_c = mean over cells of weight × the cell's mean brightness; the text plays no part."""

    name = "brightness"

    def __init__(self, weights):
        self.weights = torch.as_tensor(weights, dtype=torch.float32)
        self.calls = 0

    def consistency(self, pixels, embedded):
        assert len(pixels) == len(embedded)
        self.calls += len(pixels)
        cells = nn.functional.adaptive_avg_pool2d(pixels.mean(dim=1, keepdim=True), 4)[:, 0]
        return (cells * self.weights).sum(dim=(1, 2))


def one_cause():
    weights = np.zeros((4, 4), np.float32)
    weights.flat[CAUSE] = 1.0
    return weights


@pytest.fixture
def bright():
    """White images; grey takes half of any cell's brightness away."""
    return torch.ones(2, 3, 32, 32), torch.ones(2, 5)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_areas_of_a_single_cause_in_closed_form(bright):
    """S_c is 1 while the cell is there and ½ when it is gone. Found first, only the first of 16 steps slopes and the
    area is ½ + ½·½/16; found last, it is 1 − ½·½/16."""
    pixels, text = bright
    model, cause = Brightness(one_cause()), one_cause()
    found = deletion_insertion(
        model, pixels, text, np.stack([cause, -cause]), generator=rng(), fills=("grey",), steps=16, controls=400
    )["grey"]
    early, late = 0.5 + 0.25 / 16, 1 - 0.25 / 16
    np.testing.assert_allclose(found.deletion, [early, late], atol=1e-6)
    np.testing.assert_allclose(found.insertion, [late, early], atol=1e-6)
    np.testing.assert_allclose(found.random, 0.75, atol=0.03)
    np.testing.assert_allclose(found.random_sd, 0.5 * np.sqrt((16**2 - 1) / 12) / 16, rtol=0.15)
    np.testing.assert_allclose(found.deletion_curve[0], [1, *[0.5] * 16], atol=1e-6)
    np.testing.assert_allclose(found.insertion_curve[0], [0.5, *[1] * 16], atol=1e-6)
    assert found.deletion_gain[0] > 3 * found.random_sd[0] / np.sqrt(10) > 0 > found.deletion_gain[1]
    assert found.insertion_gain[0] > 0 > found.insertion_gain[1]


@pytest.mark.parametrize("fill", ["blur", "mean"])
def test_the_true_cause_beats_a_random_map_with_every_fill(fill, generator):
    pixels = 0.3 * torch.rand(4, 3, 32, 32, generator=generator)
    pixels[:, :, 8:16, 16:24] = 1.0
    maps = np.repeat(one_cause()[None], 4, axis=0)
    found = deletion_insertion(Brightness(one_cause()), pixels, torch.ones(4, 2), maps, generator=rng())[fill]
    assert (found.deletion_gain > 0.1).all() and (found.insertion_gain > 0.1).all()
    upside_down = deletion_insertion(Brightness(one_cause()), pixels, torch.ones(4, 2), -maps, generator=rng())[fill]
    assert (upside_down.deletion_gain < 0).all() and (upside_down.insertion_gain < 0).all()


def test_a_trained_models_maps_beat_random_ones(finder):
    model, test = finder
    pixels, captions = test.pixels[:12], test.captions[:12]
    for maps in (relevance(model, pixels, captions), pixel_attribution(model, pixels, captions)):
        found = deletion_insertion(model, pixels, captions, maps, generator=rng(), fills=("mean",))["mean"]
        assert (found.deletion_gain > 0).mean() > 0.85
        assert found.deletion_gain.mean() > 0.1


def test_a_constant_map_is_a_random_map(bright):
    """Equal cells are taken in random order, so nothing is gained from where they stand."""
    pixels, text = bright[0][:1].expand(200, -1, -1, -1), bright[1][:1].expand(200, -1)
    found = deletion_insertion(
        Brightness(one_cause()), pixels, text, np.zeros((200, 4, 4)), generator=rng(), fills=("grey",), controls=2
    )["grey"]
    assert abs(found.deletion_gain.mean()) < 0.03 and found.deletion.std() > 0.1


def test_uneven_steps_still_start_whole_and_end_empty(bright):
    found = deletion_insertion(
        Brightness(one_cause()), *bright, np.stack([one_cause()] * 2), generator=rng(), fills=("grey",), steps=5
    )["grey"]
    assert found.fractions[0] == 0 and found.fractions[-1] == 1 and len(found.fractions) == 6
    assert found.deletion_curve[0, 0] == 1 == found.insertion_curve[0, -1]
    assert found.deletion_curve[0, -1] == 0.5 == found.insertion_curve[0, 0]


def test_seeded_and_independent_of_the_batch_size(bright):
    def areas(seed, size):
        pixels = torch.rand(2, 3, 32, 32, generator=rng(9))
        maps = np.random.default_rng(0).random((2, 4, 4))
        options = {"generator": rng(seed), "batch_size": size}
        return deletion_insertion(Brightness(np.arange(16.0).reshape(4, 4)), pixels, bright[1], maps, **options)

    first = areas(0, 64)
    for fill, found in areas(0, 3).items():
        np.testing.assert_allclose(found.random, first[fill].random, rtol=1e-6)
        np.testing.assert_array_equal(found.deletion_curve, first[fill].deletion_curve)
    assert (areas(1, 64)["blur"].random != first["blur"].random).any()
    assert set(summary(first)) == {f"{k} gain ({f})" for k in ("deletion", "insertion") for f in ("blur", "mean")}


def test_fine_maps_are_averaged_over_cells():
    fine = np.zeros((1, 32, 32))
    fine[0, 0:4, 0:4] = 16.0
    cells = to_cells(fine, 1)
    assert cells.shape == (1, 8, 8) and cells[0, 0, 0] == 16 and cells.sum() == 16
    assert to_cells(fine, 1, (4, 4))[0, 0, 0] == 4
    assert to_cells(np.ones((1, 7, 7)), 1).shape == (1, 7, 7)


def test_progress_counts_and_cancel_stops(bright):
    seen = []
    deletion_insertion(
        Brightness(one_cause()), *bright, np.ones((2, 4, 4)), generator=rng(), controls=2, progress=seen.append
    )
    assert [p.done for p in seen] == list(range(1, 17)) and seen[-1].total == 16
    cancel = CancelToken()
    model = Brightness(one_cause())
    with pytest.raises(Cancelled):
        deletion_insertion(
            model, *bright, np.ones((2, 4, 4)), generator=rng(), progress=lambda p: cancel.cancel(), cancel=cancel
        )
    assert model.calls == 17


def test_infidelity_is_zero_for_the_exact_map_and_one_for_none(generator):
    weights = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
    model = Brightness(weights)
    pixels, text = torch.rand(3, 3, 32, 32, generator=generator), torch.ones(3, 2)
    light = nn.functional.adaptive_avg_pool2d(pixels.mean(dim=1, keepdim=True), 4)[:, 0].numpy()
    exact = weights * (light - 0.5)  # what grey takes from each cell
    value = infidelity(model, pixels, text, exact, generator=rng(), fill="grey")
    assert value.max() < 1e-3
    scaled = infidelity(model, pixels, text, 1000 * exact, generator=rng(), fill="grey")
    np.testing.assert_allclose(scaled, value, atol=1e-3)
    nothing = infidelity(model, pixels, text, np.zeros((3, 4, 4)), generator=rng(), fill="grey")
    np.testing.assert_allclose(nothing, 1, atol=1e-3)
    wrong = infidelity(model, pixels, text, np.roll(exact, 2, axis=1), generator=rng(), fill="grey")
    assert (value + 0.1 < wrong).all() and (wrong <= 1 + 1e-3).all()
    small = infidelity(model, pixels, text, exact, generator=rng(), fill="grey", batch_size=7)
    assert small.max() < 1e-3


def test_infidelity_of_a_score_that_nothing_changes_is_not_a_number(bright):
    assert np.isnan(infidelity(Brightness(np.zeros((4, 4))), *bright, np.ones((2, 4, 4)), generator=rng())).all()


def test_integrated_gradients_are_more_faithful_than_the_same_map_elsewhere(finder):
    model, test = finder
    maps = patch_sums(pixel_attribution(model, test.pixels, test.captions, baseline="blur").map, (4, 4))
    right = infidelity(model, test.pixels, test.captions, maps, generator=rng())
    wrong = infidelity(model, test.pixels, test.captions, np.roll(maps, 2, axis=1), generator=rng())
    assert np.median(right) < 0.6 * np.median(wrong)


def test_max_sensitivity_of_a_known_map(generator):
    """The map is the image's mean per cell; uniform noise of the radius r moves none by more than r."""
    from cmai_core.explanations import Explanation

    def cells(model, pixels, text):
        values = nn.functional.adaptive_avg_pool2d(pixels.mean(dim=1, keepdim=True), 4)[:, 0].numpy()
        return Explanation("cells", values, False, False, 0)

    def fixed(model, pixels, text):
        return Explanation("fixed", np.ones((len(pixels), 4, 4), np.float32), False, False, 0)

    pixels, text = 0.25 + 0.5 * torch.rand(3, 3, 32, 32, generator=generator), torch.ones(3, 2)
    found = max_sensitivity(cells, None, pixels, text, generator=rng(), radius=0.1)
    assert found.shape == (3,) and (found > 0).all() and (found < 0.1 / 0.25).all()
    again = max_sensitivity(cells, None, pixels, text, generator=rng(), radius=0.1)
    np.testing.assert_array_equal(found, again)
    assert (max_sensitivity(cells, None, pixels, text, generator=rng(), radius=0.2) > found).all()
    assert (max_sensitivity(fixed, None, pixels, text, generator=rng()) == 0).all()


@pytest.mark.parametrize("method", [relevance, lambda m, x, t: attention_flow(m, x), pixel_attribution])
def test_max_sensitivity_of_real_methods(any_model, pixels, captions, method):
    found = max_sensitivity(method, any_model, pixels[:2], captions[:2], generator=rng(), samples=2)
    assert found.shape == (2,) and np.isfinite(found).all() and (found > 0).all()


@pytest.mark.parametrize(
    ("maps", "error"),
    [
        (np.ones((1, 4, 4)), DataError),
        (np.ones((2, 4)), DataError),
        (np.full((2, 4, 4), np.nan), DataError),
    ],
)
def test_maps_that_do_not_fit_are_data_errors(bright, maps, error):
    with pytest.raises(error):
        deletion_insertion(Brightness(one_cause()), *bright, maps, generator=rng())


def test_bad_options_are_option_errors(bright):
    model, maps = Brightness(one_cause()), np.ones((2, 4, 4))
    for options in ({"fills": ("snow",)}, {"fills": ()}, {"steps": 0}, {"controls": 1}):
        with pytest.raises(OptionError):
            deletion_insertion(model, *bright, maps, generator=rng(), **options)
    for options in ({"fill": "snow"}, {"samples": 1}, {"share": 0.0}):
        with pytest.raises(OptionError):
            infidelity(model, *bright, maps, generator=rng(), **options)
    for options in ({"radius": 0.0}, {"samples": 0}):
        with pytest.raises(OptionError):
            max_sensitivity(relevance, model, *bright, generator=rng(), **options)
