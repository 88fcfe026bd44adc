"""One conversion between what people say and what a threat model takes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmai_core.attacks.threats.image import ThreatModel
from cmai_core.budget import NORMS, Budget
from cmai_core.errors import OptionError

VALUES = 3 * 128 * 128


def test_every_norm_of_the_threat_models_has_its_units():
    assert set(NORMS) == {"linf", "l2", "l1", "l0", "patch"}
    for name, norm in NORMS.items():
        assert Budget.usual(name).on_ladder and list(norm.ladder) == sorted(norm.ladder)
        assert all(amount <= norm.highest for amount in norm.ladder)
        ThreatModel(name, Budget(name, norm.ladder[-1]).pixels(VALUES))  # every rung is accepted


@pytest.mark.parametrize(
    ("norm", "amount", "pixels", "words"),
    [
        ("linf", 4, 4 / 255, "4/255"),
        ("linf", 0.5, 0.5 / 255, "0.5/255"),
        ("l2", 4, 4 / 255 * math.sqrt(VALUES), "4/255"),
        ("l0", 100, 100, "100 pixels"),
        ("patch", 0.05, 0.05, "5 %"),
    ],
)
def test_amounts_and_words(norm, amount, pixels, words):
    budget = Budget(norm, amount)
    assert budget.pixels(VALUES) == pytest.approx(pixels, rel=1e-12)
    assert budget.words == words
    assert Budget.of_pixels(norm, pixels, VALUES) == budget


@given(st.sampled_from(sorted(NORMS)), st.floats(1e-3, 1.0), st.integers(1, 10**7))
def test_what_a_person_said_is_read_again(norm, share, values):
    amount = float(f"{share * min(NORMS[norm].highest, 1000.0):.9g}")
    budget = Budget(norm, amount)
    assert Budget.of_pixels(norm, budget.pixels(values), values).amount == pytest.approx(amount, rel=1e-9)


def test_an_l2_budget_is_the_root_mean_square_whatever_the_size():
    for side in (8, 128, 336):
        values = 3 * side * side
        assert Budget("l2", 4).pixels(values) / math.sqrt(values) == pytest.approx(4 / 255)


@pytest.mark.parametrize(
    ("norm", "amount"),
    [
        *(("linf", -1), ("linf", 256), ("l2", math.nan), ("patch", 5), ("l0", math.inf), ("l0", 10**400)),
        *(("linf", "4"), ("linf", True)),
    ],
)
def test_what_cannot_be_is_refused_and_names_the_norm(norm, amount):
    with pytest.raises(OptionError, match=norm):
        Budget(norm, amount)


def test_an_unknown_norm_is_refused_with_those_that_are_known():
    with pytest.raises(OptionError, match="linf"):
        Budget("l3", 1)


def test_an_amount_off_the_ladder_keeps_its_place_on_it():
    rungs = [budget.amount for budget in Budget("linf", 3).ladder()]
    assert rungs == [0.5, 1, 2, 3, 4, 8, 16] and not Budget("linf", 3).on_ladder
