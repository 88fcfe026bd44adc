"""CMCV: verdicts, what disagrees, temperature, thresholds, and the record of all that in a model's card."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from cmai_core.data import load_dataset
from cmai_core.data.subset import Subset
from cmai_core.data.tabletop.language import parse
from cmai_core.defenses import Calibration, Cmcv, calibration_of, store_calibration
from cmai_core.defenses.cmcv import log_odds
from cmai_core.defenses.detector import detector_scores
from cmai_core.defenses.disagreement import LEAVE_ONE_OUT, VERIFIER, disagreement
from cmai_core.defenses.misaligned import misaligned_captions
from cmai_core.defenses.temperature import fit_scaling
from cmai_core.errors import DataError, ModelError, OptionError
from cmai_core.evaluation.verification.cmcv import by_vagueness, calibrate_cmcv, equal_ranks, pair_scores, rates
from cmai_core.models import load_model, save_local_dir
from cmai_core.models.heads import ConsistencyHeads, log_verified, verification_loss, word_evidence

COUNT = 320


class Kept:
    """The first stored scenes, each put together once."""

    name, split, classes, statements = "tabletop", "test", (), ()

    def __init__(self):
        dataset = load_dataset("tabletop", split="test", limit=COUNT)
        self.pairs = [dataset[k] for k in range(COUNT)]

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self.pairs[index]


@pytest.fixture(scope="module")
def scenes():
    return Kept()


@pytest.fixture(scope="module")
def base():
    return load_model("tabletop", device="cpu")


@pytest.fixture(scope="module")
def headed(scenes):
    """The bundled model with a verifier trained for some seconds on the frozen towers' outputs."""
    model = load_model("tabletop", device="cpu")
    heads = ConsistencyHeads(model.head_sizes(48))
    pairs = scenes.pairs
    true, false = [pair.captions[0] for pair in pairs], misaligned_captions(pairs, seed=1)
    model.heads = heads
    with torch.no_grad():
        images = [
            model.image_features(model.preprocess([p.image for p in pairs[k : k + 64]])) for k in range(0, COUNT, 64)
        ]
        tokens, pooled = (torch.cat([getattr(i, name) for i in images]) for name in ("tokens", "pooled"))
        read = model.verification_states([*true, *false])
        texts = model.text_features([*true, *false], states=False).pooled
        logits = model.fusion_logits(torch.cat([tokens, tokens]), read.states)
        evidence = word_evidence(logits, read.said)
    heads.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        rows = torch.randint(0, 2 * COUNT, (48,), generator=generator)
        owners, consistent = rows % COUNT, rows < COUNT
        odds, _ = heads.words(tokens[owners], read.states[rows], evidence[rows])
        loss = verification_loss(log_verified(odds, read.counted[rows]), consistent).mean()
        cosine = (heads.image(pooled[owners], tokens[owners]) * heads.text(texts[rows])).sum(dim=1)
        loss = loss + (cosine - consistent.float()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    heads.eval().requires_grad_(False)
    return model


def pixels_of(model, scenes, rows):
    return model.preprocess([scenes[k].image for k in rows])


# --- Inconsistent captions --------------------------------------------------------------------------------------------


def test_misaligned_captions_are_false_and_half_of_them_nearly_true(scenes):
    pairs = [scenes[k] for k in range(40)]
    texts = misaligned_captions(pairs, seed=3)
    assert texts == misaligned_captions(pairs, seed=3) != misaligned_captions(pairs, seed=4)
    near = 0
    for pair, text in zip(pairs, texts, strict=True):
        assert not pair.scene.satisfies(parse(text))
        own, other = pair.captions[0].lower().rstrip(".").split(), text.lower().rstrip(".").split()
        near += len(own) == len(other) and sum(a != b for a, b in zip(own, other, strict=True)) <= 2
    assert 15 <= near <= 25
    photos = load_dataset("photos")
    rest = misaligned_captions([photos[k] for k in range(6)])
    assert all(text not in photos[k].captions for k, text in enumerate(rest))
    with pytest.raises(DataError, match=photos[0].id):
        misaligned_captions([photos[0]])


# --- Temperature ------------------------------------------------------------------------------------------------------


def test_a_temperature_recovers_the_odds_that_scores_were_drawn_from():
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, 20_000)
    true = rng.random(len(odds)) < 1 / (1 + np.exp(-odds))
    found = fit_scaling("V", 5 * odds[true], 5 * odds[~true], offset=False)
    assert found.temperature == pytest.approx(5, rel=0.05) and found.offset == 0
    assert found.ece < 0.02 < found.ece_plain and found.nll < found.nll_plain
    assert found.probability(5 * odds) == pytest.approx(1 / (1 + np.exp(-odds)), abs=0.02)
    cosine = 0.3 + 0.05 * odds
    shifted = fit_scaling("S_c", cosine[true], cosine[~true], offset=True)
    assert shifted.slope == pytest.approx(20, rel=0.05) and shifted.offset == pytest.approx(-6, rel=0.07)


def test_a_temperature_of_scores_that_separate_or_mislead():
    separate = fit_scaling("S_c", np.full(50, 0.4), np.full(50, 0.1), offset=True)
    assert np.isfinite([separate.slope, separate.offset]).all()
    assert separate.probability(np.array([0.4, 0.1])) == pytest.approx([51 / 52, 1 / 52], abs=1e-3)
    wrong = fit_scaling("S_c", np.array([0.1, 0.2, 0.1]), np.array([0.4, 0.5]), offset=True)
    assert wrong.slope == 0 and wrong.temperature == float("inf")
    assert wrong.probability(np.array([0.1, 0.9])) == pytest.approx([0.6, 0.6])
    with pytest.raises(DataError, match="0 and 3"):
        fit_scaling("V", np.zeros(0), np.ones(3), offset=False)
    with pytest.raises(DataError, match=r"^1 "):
        fit_scaling("V", np.array([np.inf]), np.ones(3), offset=False)


def test_log_odds_of_a_probability_that_rounds_to_nothing():
    assert log_odds(np.log(0.2)) == pytest.approx(np.log(0.25))
    assert log_odds(-300.0) == pytest.approx(-300.0) and np.isfinite(log_odds(0.0))


# --- Thresholds -------------------------------------------------------------------------------------------------------


def test_thresholds_keep_their_rate_on_fresh_pairs(headed, scenes):
    half = COUNT // 2
    known, fresh = Subset(scenes, range(half)), Subset(scenes, range(half, COUNT))
    calibration = calibrate_cmcv(headed, known, (0.1, 0.05), guarantee="new")
    assert [t.fpr for t in calibration.thresholds] == [0.05, 0.1] and calibration.count == half
    found = rates(headed, calibration, {"fresh": fresh})["fresh"]
    for fpr in (0.05, 0.1):
        at = calibration.at(fpr)
        assert set(at.realised) == {"S_c", "V", "either"} and all(0 <= r <= fpr for r in at.realised.values())
        assert at.realised["either"] >= max(0, fpr - 0.03), "no more careful than it must be"
        # The rate on fresh pairs of a threshold at a rank is beta-binomial (Vovk 2012, prop. 2a).
        rank = int(np.floor(fpr * (half + 1)))
        most = betabinom.ppf(0.9999, half, rank, half + 1 - rank)
        for rule in ("S_c", "V", "either"):
            entry = found[rule][f"{fpr:g}"]
            assert entry["flagged"] <= most and entry["count"] == half
            assert entry["low"] <= entry["rate"] == entry["flagged"] / half <= entry["high"]
    # The detectors flag what the rates count
    s_c, log_v = pair_scores(headed, fresh)
    at = calibration.at(0.1)
    for rule in ("S_c", "V", "either"):
        detector = at.detector(rule)
        flagged = detector_scores(headed, fresh, [detector])[0] < detector.tau
        assert flagged.sum() == found[rule]["0.1"]["flagged"]
    either = (s_c < at.both_tau) | (log_v < at.both_log_tau_v)
    assert either.sum() == found["either"]["0.1"]["flagged"]
    assert [at.accepts(s, v) for s, v in zip(s_c, log_v, strict=True)] == (~either).tolist()
    with pytest.raises(OptionError, match=r"0\.2\b.* 0\.05, 0\.1"):
        calibration.at(0.2)
    with pytest.raises(DataError, match=r"\b12\b.*0\.01"):
        calibrate_cmcv(headed, Subset(scenes, range(12)), (0.01,), guarantee="new")


@pytest.mark.parametrize("count", [59, 180])
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_both_thresholds_keep_their_expected_rate_on_a_further_pair(count, shared):
    """`guarantee="new"`, simulated: scores that are independent of each other, and scores that are nearly one."""
    rng, fpr, further, found = np.random.default_rng(0), 0.1, 200, []
    for _ in range(600):
        common = rng.normal(size=count + further)
        s_c, log_v = (shared * common + (1 - shared) * rng.normal(size=count + further) - 9 for _ in range(2))
        tau, log_tau_v = equal_ranks(s_c[:count], log_v[:count], fpr, "new")
        found.append(((s_c[count:] < tau) | (log_v[count:] < log_tau_v)).mean())
    spread = np.std(found) / np.sqrt(len(found))
    assert fpr - 3 / count < np.mean(found) <= fpr + 3 * spread


def test_too_few_pairs_for_both_thresholds_are_refused():
    with pytest.raises(DataError, match=r"\b19\b.*0\.05"):
        equal_ranks(np.arange(19.0), -np.arange(19.0), 0.05, "new")


def test_vague_and_specific_captions(scenes):
    from cmai_core.data.tabletop.captions import truth_rate

    part = Subset(scenes, range(30))
    halves = by_vagueness(part)
    assert len(halves["vague"]) + len(halves["specific"]) == 30 and abs(len(halves["vague"]) - 15) <= 3
    share = {name: [truth_rate(parse(pair.captions[0])) for pair in half] for name, half in halves.items()}
    assert min(share["vague"]) > max(share["specific"])


# --- The record -------------------------------------------------------------------------------------------------------


def test_a_calibration_is_stored_with_the_model(headed, scenes, tmp_path):
    folder = save_local_dir(headed, tmp_path / "m", {"name": "m", "training": {"seed": 3}})
    model = load_model(f"local-dir:{folder}", device="cpu")
    part = Subset(scenes, range(40))
    calibration = calibrate_cmcv(model, part, (0.1,))
    calibration = calibration.with_rates(rates(model, calibration, {"some": Subset(scenes, range(40, 60))}))
    assert calibration_of(model) is None
    store_calibration(calibration, folder)
    again = load_model(f"local-dir:{folder}", device="cpu")
    assert calibration_of(again) == calibration and again.card["training"] == {"seed": 3}
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    assert again.hash == calibration.model and calibration.dataset == "tabletop/test"
    with torch.no_grad():
        again.heads.image_query.add_(0.1)
    with pytest.raises(ModelError, match=again.name):
        calibration_of(again)
    with pytest.raises(DataError):
        Calibration.from_dict({"model": "x"})


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def test_verdicts_of_a_trained_verifier_and_what_disagrees(headed, scenes):
    calibration = calibrate_cmcv(headed, Subset(scenes, range(160)), (0.05, 0.1))
    rows = [k for k in range(0, 60) if len(scenes[k].scene.objects) == 1][:8]
    texts, planted = [], []
    for k in rows:
        item = scenes[k].scene.objects[0]
        wrong = next(c for c in ("red", "blue", "green", "yellow") if c != item.colour)
        texts += [f"There is a {item.colour} {item.shape}.", f"There is a {wrong} {item.shape}."]
        planted.append(wrong)
    owners = [n // 2 for n in range(len(texts))]
    verdicts = Cmcv(headed, calibration, 0.1)(pixels_of(headed, scenes, rows), texts, owners)
    true, false = verdicts[::2], verdicts[1::2]
    assert np.mean([v.consistent for v in true]) > 0.6 > 0.5 > np.mean([v.consistent for v in false])
    assert np.mean([t.probability for t in true]) > np.mean([f.probability for f in false]) + 0.1
    assert all(t.v > f.v for t, f in zip(true, false, strict=True))
    named = [v.parts.words[int(v.parts.word_values.argmax())] for v in false]
    assert np.mean([a == b for a, b in zip(named, planted, strict=True)]) >= 0.75, "the planted word disagrees most"
    assert all(v.parts.words_by == v.parts.patches_by == VERIFIER for v in verdicts)
    assert all(v.parts.patches.shape == (8, 8) and abs(v.parts.patches.sum() - 1) < 1e-4 for v in verdicts)
    assert any(named[k] == false[k].parts.words[i] for k in range(len(rows)) for i in false[k].parts.disagreeing)


def test_verdicts_of_an_untrained_model(base, scenes):
    calibration = calibrate_cmcv(base, Subset(scenes, range(60)), (0.1,))
    assert calibration.at(0.1).log_tau_v is None and calibration.scaling.score == "S_c"
    pixels = pixels_of(base, scenes, [0])
    text = scenes[0].captions[0]
    verdict = Cmcv(base, calibration, 0.1)(pixels, [text])[0]
    with torch.no_grad():
        s_c = float(base.consistency(pixels, [text]))
    assert verdict.s_c == pytest.approx(s_c, abs=1e-6) and verdict.v is None
    assert verdict.consistent == (s_c >= calibration.at(0.1).tau) and 0 < verdict.probability < 1
    parts = verdict.parts
    assert parts.words_by == parts.patches_by == LEAVE_ONE_OUT and parts.patches.shape == (8, 8)
    from cmai_core.data.words import Words

    split = Words.split(text)
    with torch.no_grad():
        without = float(base.consistency(pixels, [str(split.delete(2))]))
        filled = pixels.clone()
        filled[:, :, 32:48, 16:32] = pixels.mean(dim=(2, 3), keepdim=True)
        occluded = float(base.consistency(filled, [text]))
    assert parts.words == split.words and parts.word_values[2] == pytest.approx(without - s_c, abs=1e-5)
    assert parts.patches[2, 1] == pytest.approx(occluded - s_c, abs=1e-5)
    assert all(parts.word_values[k] > 0 for k in parts.disagreeing)
    plain = Cmcv(base)(pixels, [text, text], [0, 0], parts=False)
    assert plain[1].consistent is None and plain[1].probability is None and plain[1].parts is None


def test_a_calibration_of_another_kind_of_model_is_refused(base, headed, scenes):
    calibration = calibrate_cmcv(base, Subset(scenes, range(20)), (0.2,))
    with pytest.raises(DataError):
        Cmcv(headed, calibration, 0.2)
    with pytest.raises(OptionError, match=r"0\.05\b.* 0\.2"):
        Cmcv(base, calibration, 0.05)
    with pytest.raises(DataError, match=r"\b2\b"):
        Cmcv(base)(pixels_of(base, scenes, [0]), ["a", "b"])


def test_patches_are_left_out_where_tokens_are_no_patches(headed, scenes, monkeypatch):
    monkeypatch.setattr(headed.clip.visual, "grid_size", (2, 2))
    found = disagreement(headed, pixels_of(headed, scenes, [1]), scenes[1].captions[0])
    assert found.patches_by == LEAVE_ONE_OUT and found.words_by == VERIFIER and found.patches.shape == (2, 2)
