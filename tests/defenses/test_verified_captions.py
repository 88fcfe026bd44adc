"""Captions: samples by their probabilities, and of several the one that V_verify supports best."""

from __future__ import annotations

import pytest
import torch
from small_models import small_verifier

from cmai_core.data import load_dataset
from cmai_core.defenses.system import System
from cmai_core.defenses.verified import VerifiedAnswers, VerifiedCaptions
from cmai_core.errors import OptionError
from cmai_core.models.generation import generate_ids, gumbel
from cmai_core.tasks.captioning import Captioning

COUNT, LENGTH = 3, 6


@pytest.fixture(scope="module")
def model():
    return small_verifier()


@pytest.fixture(scope="module")
def features(model):
    data = load_dataset("tabletop", limit=COUNT)
    with torch.no_grad():
        return model.image_features(model.preprocess([data[k].image for k in range(COUNT)]))


def test_tokens_are_drawn_by_their_probabilities():
    """Two steps of a decoder whose logits are known: how often each token comes is what softmax(logits/T) says."""
    logits = torch.tensor([0.0, -9.0, 1.0, 0.5, -0.5, 2.0])
    rows, temperature = 4000, 0.7
    one = torch.Generator().manual_seed(3)
    found = generate_ids(
        lambda tokens, ids: logits.expand(*ids.shape, -1),
        torch.zeros(rows, 1, 1),
        torch.ones(rows, 1, dtype=torch.long),
        torch.ones(rows, dtype=torch.long),
        context_length=4,
        max_tokens=1,
        beam=1,
        eos_id=9,
        pad_id=0,
        forbidden=(0, 1),
        draw=gumbel([one] * rows, temperature),
    )
    shares = torch.tensor([token for (token,) in found]).bincount(minlength=6) / rows
    expected = logits.masked_fill(torch.tensor([True, True, False, False, False, False]), -torch.inf) / temperature
    assert torch.allclose(shares, expected.softmax(dim=0), atol=0.03)


def test_candidates_are_the_greedy_one_and_samples_of_each_picture_alone(model, features):
    def sources(count):
        return [torch.Generator().manual_seed(k) for k in range(count)]

    found = model.candidates(features, 4, max_tokens=LENGTH, generators=sources(COUNT))
    assert [len(texts) for texts in found] == [4] * COUNT
    assert [texts[0] for texts in found] == model.generate(features, max_tokens=LENGTH)
    assert len({text for texts in found for text in texts}) > COUNT
    assert model.candidates(features[:1], 4, max_tokens=LENGTH, generators=sources(1)) == found[:1]
    assert model.candidates(features, 1, max_tokens=LENGTH) == [texts[:1] for texts in found]
    with pytest.raises(OptionError):
        model.candidates(features, 2, temperature=0.0)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_the_caption_is_the_best_supported_one(model, features, kappa):
    rule = VerifiedCaptions(count=5, kappa=kappa, temperature=1.5)
    system = System(model, answering={"captioning": rule})
    written = Captioning(max_tokens=LENGTH).write(system, features)
    generators = [torch.Generator().manual_seed(0) for _ in range(COUNT)]
    texts = model.candidates(features, 5, max_tokens=LENGTH, temperature=1.5, generators=generators)
    for row, some in enumerate(texts):
        values = []
        for text in some:
            words = int(model.verification_states([text]).counted.sum())
            log_v = float(model.verify(features[row : row + 1], [text], log=True).detach())
            values.append(log_v / words**kappa if words else float("-inf"))
        assert values[some.index(written[row])] == pytest.approx(max(values), abs=1e-4)


def test_a_text_that_claims_nothing_is_not_the_best(model, features):
    rule = VerifiedCaptions()
    assert rule.best(model, features[:1], [["", "a red cube", "..."]]) == ["a red cube"]
    assert rule.best(model, features[:1], [["", "..."]]) == [""]


def test_rules_go_with_their_tasks(model, features):
    for wrong in (VerifiedCaptions(), {"captioning": VerifiedAnswers()}, {"vqa": VerifiedCaptions()}, 3):
        with pytest.raises(OptionError):
            System(model, answering=wrong)
    plain = Captioning(max_tokens=LENGTH).write(model, features)
    assert Captioning(max_tokens=LENGTH).write(System(model, answering=VerifiedAnswers()), features) == plain
