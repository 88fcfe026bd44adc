"""A picture of 8 bits lies within the budget its attack had, in every norm and from every recipe."""

from __future__ import annotations

import math

import pytest
import torch

from cmai_core.attacks.recipes.registry import RECIPES
from cmai_core.attacks.result import LEVELS, to_uint8
from cmai_core.attacks.threats.image import ThreatModel

SIZE = 8
VALUES = 3 * SIZE * SIZE
BUDGETS = {
    "linf": (0.5 / LEVELS, 1 / LEVELS, 2.5 / LEVELS, 4 / LEVELS),
    "l2": tuple(k / LEVELS * math.sqrt(VALUES) for k in (0.3, 0.5, 1.0, 2.7)),
    "l1": tuple(k / LEVELS * VALUES for k in (0.1, 0.3, 1.0, 2.7)),
    "l0": (3, 17),
    "patch": (0.05, 0.3),
}


def clean(count=6):
    """Pictures of 8 bits, black and white among their values."""
    generator = torch.Generator().manual_seed(5)
    levels = torch.randint(0, LEVELS + 1, (count, 3, SIZE, SIZE), generator=generator)
    levels[:, :, 0], levels[:, :, 1] = 0, LEVELS
    return levels.float() / LEVELS


def inside(threat, pixels, rounded):
    """Whether pictures lie within the budget, up to single precision, and hold whole levels."""
    levels = rounded * LEVELS
    assert (levels - levels.round()).abs().max() < 1e-4 and rounded.min() >= 0 and rounded.max() <= 1
    region = threat.around(pixels)
    changed = (rounded - pixels).abs() > 1e-6
    distance = region.distance(torch.where(changed, rounded, pixels)).double()
    return bool((distance <= threat.epsilons(len(pixels)) * (1 + 1e-5)).all())


@pytest.mark.parametrize("norm", BUDGETS)
def test_rounding_stays_in_the_region_and_near_to_what_was_asked_for(norm):
    pixels = clean()
    for epsilon in BUDGETS[norm]:
        threat = ThreatModel(norm, epsilon)
        region = threat.around(pixels)
        generators = [torch.Generator().manual_seed(k) for k in range(len(pixels))]
        aside = region.random_start(generators) - pixels
        edge = region.project(pixels + 3 * region.reach * region.steepest_step(aside))
        rounded = region.round(edge)
        assert inside(threat, pixels, rounded), epsilon
        assert torch.equal(region.round(pixels), pixels)
        assert (rounded - edge).abs().max() <= 1 / LEVELS + 1e-6


def test_rounding_to_the_nearest_level_would_leave_the_l2_ball():
    """What `rounded` is there for; and it gives up no more of the length than one level of one value."""
    pixels, epsilon = clean(), 1 / LEVELS * math.sqrt(VALUES)
    threat = ThreatModel("l2", epsilon)
    region = threat.around(pixels)
    generator = torch.Generator().manual_seed(2)
    wished = region.project(pixels + torch.randn(pixels.shape, generator=generator))
    naive = (wished * LEVELS).round() / LEVELS
    assert (region.distance(naive) > epsilon * 1.001).any()
    rounded = region.round(wished)
    assert inside(threat, pixels, rounded)
    over = region.distance(naive) > epsilon
    largest = (naive - pixels).flatten(1).abs().amax(dim=1)
    left = epsilon**2 - region.distance(rounded) ** 2
    assert (left[over] <= (2 * largest[over] + 1e-6) / LEVELS).all()
    assert torch.equal(rounded[~over], naive[~over])


def test_each_sample_keeps_to_its_own_epsilon():
    pixels = clean(3)
    threat = ThreatModel("l2", [0.1, 0.02, 0.4])
    region = threat.around(pixels)
    wished = region.project(torch.rand(pixels.shape, generator=torch.Generator().manual_seed(3)))
    assert inside(threat, pixels, region.round(wished))


def test_a_clean_picture_between_the_levels_is_rounded_as_near_as_there_is():
    pixels = clean() * 0.999 + 0.0004
    for norm in ("linf", "l2"):
        region = ThreatModel(norm, 1e-5).around(pixels)
        rounded = region.round(pixels)
        assert (rounded - pixels).abs().max() <= 1 / LEVELS and rounded.min() >= 0 and rounded.max() <= 1


@pytest.mark.parametrize("norm", BUDGETS)
def test_what_recipes_hand_back_as_8_bits_lies_within_their_budget(kit, norm):
    model = kit.conv_model()
    batch = kit.make_batch(model, 4, SIZE)
    short = {"steps": 3, "restarts": 1, "queries": 12, "targets": 2, "searches": 2, "population": 4, "samples": 4}
    tried = 0
    for slug, recipe in RECIPES.items():
        if (
            recipe.modality != "image"
            or "heads" in recipe.needs
            or slug
            in (
                "transfer",
                "adaptive",
                "detector-pgd",
                "accept-false",
                "reject-true",
            )
        ):
            continue
        options = {name: value for name, value in short.items() if name in recipe.options}
        options |= {"words": ("a",)} if slug == "typographic" else {}
        try:
            attack = recipe.build(task=kit.ScoredTask(), norm=norm, epsilon=BUDGETS[norm][1], **options)
        except Exception as error:
            assert type(error).__name__ == "OptionError", (slug, error)
            continue
        result, tried = attack(model, batch, seed=1), tried + 1
        assert inside(attack.threat, batch.pixels, result.pixels_8bit), slug
        assert torch.equal(torch.from_numpy(result.images()), torch.from_numpy(to_uint8(result.pixels_8bit)))
        moved = (result.pixels_8bit - batch.pixels).flatten(1)
        assert torch.allclose(result.l2_8bit, moved.norm(dim=1).to(result.l2_8bit), atol=1e-5)
    assert tried >= 3
