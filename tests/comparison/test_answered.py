"""Models inside verified answering: rules of their own, attacks one after another, gone on with where they stopped."""

from dataclasses import replace

import pytest

from cmai_core.comparison.answered import NO_HEADS, answered_verdicts
from cmai_core.comparison.cascade import Round, held
from cmai_core.comparison.protocol import PROTOCOL, Answered
from cmai_core.comparison.run import ANSWERED, Comparison, part_names
from cmai_core.comparison.verdicts import RIGHT, UNASKED
from cmai_core.data import load_dataset
from cmai_core.errors import Cancelled
from cmai_core.models import load_model
from cmai_core.progress import CancelToken

ASKED = Answered(
    tasks=("retrieval",), epsilons=(8.0,), few=6, fitted=60, noise=2,
    rounds=(
        Round("cosine", "pgd:steps=3,objective=margin", bare=True),
        Round("both", "verified-pgd:steps=3,precision=bfloat16", verified=True),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    return load_dataset("tabletop", limit=40)


@pytest.fixture(scope="module")
def validation():
    return load_dataset("tabletop", split="validation", limit=60)


def test_a_model_is_attacked_inside_its_own_rules_and_goes_on_where_it_stopped(scenes, validation):
    model = load_model("tabletop-hard-negative", device="cpu")
    kept, token = [], CancelToken()

    def keep(out):
        kept.append(out)
        token.cancel()

    options = {"gallery": 40, "limit": 6}
    with pytest.raises(Cancelled):
        answered_verdicts(model, scenes, validation, ASKED, keep=keep, cancel=token, **options)
    (half,) = kept
    assert set(half["rules"]) >= {"retrieval"} and half["limit"] == 6
    assert list(half["tasks"]["retrieval"]["8"]["rounds"]) == ["cosine"]
    first = half["tasks"]["retrieval"]["8"]["rounds"]["cosine"]
    out = answered_verdicts(model, scenes, validation, ASKED, known=half, **options)
    entry = out["tasks"]["retrieval"]["8"]
    assert list(entry["rounds"]) == ["cosine", "both"] and entry["rounds"]["cosine"] is first
    asked = [k for k, mark in enumerate(entry["rounds"]["both"]["marks"]) if mark != UNASKED]
    assert asked == [k for k, mark in enumerate(first["marks"]) if mark == RIGHT]
    assert entry["held"] == held(entry) and len(entry["held"]) == 6


def test_a_model_without_heads_says_so(scenes, validation):
    model = load_model("tabletop", device="cpu")
    assert answered_verdicts(model, scenes, validation, ASKED, gallery=40, limit=6) == {"skipped": NO_HEADS}


def test_the_comparison_has_the_part_where_its_protocol_asks_for_it(scenes, validation, tmp_path):
    protocol = replace(PROTOCOL, answered=replace(ASKED, few=4), gallery=40)
    assert ANSWERED in part_names(protocol) and ANSWERED not in part_names(PROTOCOL)
    data = {"test": scenes, "validation": validation}
    comparison = Comparison(tmp_path, protocol, data=data, device="cpu")
    found = comparison.measure("tabletop-hard-negative", parts=[ANSWERED])["parts"][ANSWERED]
    assert found["limit"] == 4 and set(found["tasks"]["retrieval"]["8"]["rounds"]) == {"cosine", "both"}
    assert [path.name for path in comparison.folder.glob("*.json")] == ["tabletop-hard-negative.json"]
