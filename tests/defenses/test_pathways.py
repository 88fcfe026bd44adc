"""What flagged pictures go through: another image tower, several, or noise; and the queue they are handed to."""

from __future__ import annotations

import copy

import pytest
import torch

from cmai_core.attacks import pgd
from cmai_core.attacks.engine.transforms import Noise
from cmai_core.attacks.objectives.objective import Consistency
from cmai_core.data import load_dataset
from cmai_core.defenses import ConsistencyDetector, Ensemble, Regime, ReviewQueue, Smoothing, System, shifted
from cmai_core.errors import OptionError
from cmai_core.evaluation.runs.predictor import make_batch
from cmai_core.models import load_model
from cmai_core.tasks import get_task

POLICY = "robust pathway"


@pytest.fixture(scope="module")
def data():
    return load_dataset("tabletop", split="test", limit=4)


@pytest.fixture(scope="module")
def model():
    return load_model("tabletop", "cpu")


@pytest.fixture(scope="module")
def robust(model):
    """A model that differs in its image tower alone."""
    other = model.with_network(copy.deepcopy(model.clip), "other")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.clip.visual.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return other


@pytest.fixture(scope="module")
def batch(model, data):
    return make_batch(model, [data[k] for k in range(4)], 1)


@pytest.fixture(scope="module")
def detector(model, batch):
    """Flags two of the four."""
    scores = (model.encode_image(batch.pixels) * model.encode_text(list(batch.texts))).sum(dim=1)
    middle = scores.sort().values
    return ConsistencyDetector(float((middle[1] + middle[2]) / 2))


def test_weights_move_from_the_model_to_the_robust_one(model, robust, batch):
    with torch.no_grad():
        seen = [shifted(model, robust, share).encode_image(batch.pixels) for share in (0.0, 0.5, 1.0)]
        torch.testing.assert_close(seen[0], model.encode_image(batch.pixels))
        torch.testing.assert_close(seen[2], robust.encode_image(batch.pixels))
        assert not torch.allclose(seen[1], seen[0]) and not torch.allclose(seen[1], seen[2])
    half = dict(shifted(model, robust, 0.5).clip.named_parameters())
    for name, own in model.clip.named_parameters():
        expected = (own + dict(robust.clip.named_parameters())[name]) / 2
        torch.testing.assert_close(half[name], expected)


def test_only_a_tower_that_shares_the_text_side_can_be_shifted_to(model):
    with pytest.raises(OptionError, match=r"tabletop-tecoa.* \(\S+ "):
        shifted(model, load_model("tabletop-tecoa", "cpu"))
    with pytest.raises(OptionError, match="tabletop-b"):
        shifted(model, load_model("tabletop-b", "cpu"))
    with pytest.raises(OptionError, match="share"):
        shifted(model, model, 1.5)


def test_only_flagged_pictures_take_the_pathway(model, robust, batch, data, detector):
    with torch.no_grad():
        own, other = (m.encode_image(batch.pixels) for m in (model, robust))
        mean = (own + other) / 2
        mean = mean / mean.norm(dim=1, keepdim=True)
    for pathway, expected in ((Regime(robust), other), (Ensemble((robust,)), mean)):
        system = System(model, detector=detector, policy=POLICY, pathway=pathway)
        with torch.no_grad():
            sampled = system.for_samples(batch, 0)
            flagged = sampled.scores(batch.pixels)[1]
            found = sampled.image_features(batch.pixels).embedding
        assert flagged.sum() == 2
        torch.testing.assert_close(found[flagged], expected[flagged], atol=1e-5, rtol=0)
        torch.testing.assert_close(found[~flagged], own[~flagged], atol=1e-5, rtol=0)


def test_policies_combine(model, robust, batch, data, detector, tmp_path):
    """Smoothing for all, another noisy tower for what is flagged, and a queue for people."""
    queue = ReviewQueue(tmp_path / "review.sqlite")
    pathway = Regime(robust, then=Smoothing(Noise(sigma=0.05), copies=3))
    system = System(
        model,
        smoothing=Smoothing(Noise(sigma=0.01), copies=2),
        detector=detector,
        policy=POLICY,
        pathway=pathway,
        review=queue,
    )
    assert system.passes == 2 + 3
    response = system.respond(get_task("retrieval"), batch, dataset=data)
    again = system.respond(get_task("retrieval"), batch, dataset=data)
    assert torch.equal(response.scores, again.scores) and not response.rejected.any()
    entries = queue.entries()
    assert len(entries) == int(response.flagged.sum()) > 0  # asked twice, each pair stands there once
    flagged = {batch.ids[row] for row in response.flagged.nonzero()[:, 0].tolist()}
    assert {entry.item for entry in entries} == flagged
    row = batch.ids.index(entries[0].item)
    assert entries[0].texts == (batch.texts[row],) and entries[0].tau == pytest.approx(detector.tau)
    pixels = torch.from_numpy(entries[0].picture.copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels, batch.pixels[row], atol=1e-6, rtol=0)


def test_white_box_gradients_go_through_the_pathway(model, robust, batch, data, detector):
    system = System(model, detector=detector, policy=POLICY, pathway=Regime(robust))
    result = pgd(-Consistency(), epsilon=4 / 255, steps=3)(system, batch, seed=0)
    assert (result.objective > result.clean_objective).all()
    # Pushed under the threshold, every picture ends with the other tower.
    scores, flagged = system.for_samples(batch, 0).scores(result.pixels)
    assert flagged.all() and (scores < detector.tau).all()


def test_an_empty_ensemble_is_refused():
    with pytest.raises(OptionError):
        Ensemble(())


def test_a_model_with_another_text_side_is_shifted_by_the_difference(model, robust, batch):
    """By what robust training made of the model that both come from, keeping its own texts."""
    own = load_model("tabletop-tecoa", "cpu")
    half = shifted(own, robust, 0.5, base=model)
    parts = [dict(one.clip.named_parameters()) for one in (own, robust, model)]
    for name, moved in half.clip.named_parameters():
        expected = parts[0][name] + (parts[1][name] - parts[2][name]) / 2
        torch.testing.assert_close(moved, expected, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(half.encode_text(list(batch.texts)), own.encode_text(list(batch.texts)))
    with pytest.raises(OptionError, match="text side"):
        shifted(model, own, base=model)
