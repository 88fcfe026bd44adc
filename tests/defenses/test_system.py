"""A system as deployed and as attacked: preprocessing, smoothing, detector, policies, and what S_c is measured with."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cmai_core.attacks import pgd, task_pgd
from cmai_core.attacks.engine.transforms import Noise
from cmai_core.attacks.objectives.attention import AttentionDiversion, looked_at
from cmai_core.attacks.objectives.detectors import AnswerConsistency, AnswerVerification
from cmai_core.attacks.objectives.objective import Consistency
from cmai_core.data.pair import Pair, Question
from cmai_core.data.tabletop.dataset import CLASSES, captions_of, questions_of, scene_of
from cmai_core.data.tabletop.language import parse
from cmai_core.defenses.detector import ConsistencyDetector, VerificationDetector, batches, clean_scores
from cmai_core.defenses.pathways import Smoothing
from cmai_core.defenses.preprocessing import BlockCompression, Quantise
from cmai_core.defenses.system import System
from cmai_core.errors import OptionError
from cmai_core.explanations import last_layer_attention
from cmai_core.models import OpenClipModel
from cmai_core.models.architectures import build_from_config
from cmai_core.models.families.bundled import bundled_tokenizer
from cmai_core.models.heads import ConsistencyHeads
from cmai_core.seeds import sample_generators
from cmai_core.tasks import get_task
from cmai_core.tasks.captioning import Captioning
from cmai_core.tasks.vqa import statements

COUNT = 5


class Scenes:
    """Tabletop pairs with noise for pictures."""

    name, split, classes, statements = "tabletop", "validation", CLASSES, ()

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return Pair(
            id=f"tabletop/validation/{index}",
            image=np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8),
            captions=captions_of("validation", index),
            questions=tuple(Question(q, (a,), f) for q, a, f in questions_of("validation", index)),
            scene=scene_of("validation", index),
        )


@pytest.fixture(scope="module")
def data():
    return Scenes()


@pytest.fixture(scope="module")
def model():
    """A small random CoCa."""
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "output_tokens": True}
    text = {"context_length": 48, "vocab_size": 1024, "hf_tokenizer_name": "cmai-tabletop", "width": 32, "heads": 4}
    text |= {"layers": 2, "embed_cls": True, "output_tokens": True, "pad_id": 0, "eos_id": 2}
    decoder = {"context_length": 48, "vocab_size": 1024, "width": 32, "heads": 4, "layers": 2}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": decoder, "custom_text": True}
    preprocess = {"size": [32, 32], "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    clip = build_from_config(config, preprocess, torch.Generator().manual_seed(0))
    return OpenClipModel(clip, bundled_tokenizer(), spec="small", card={"domain": "tabletop"})


@pytest.fixture(scope="module")
def headed(model):
    """The same model with consistency heads, whose verifier has doubts."""
    found = OpenClipModel(model.clip, model.tokenizer, spec="small", card={"domain": "tabletop"})
    found.heads = ConsistencyHeads(found.head_sizes(8), torch.Generator().manual_seed(3))
    with torch.no_grad():
        found.heads.word_mlp[-1].weight.mul_(30)
    return found


@pytest.fixture(scope="module")
def batch(model, data):
    return next(batches(model, data, COUNT))


def features(model, batch):
    model.clip.eval()
    with torch.no_grad():
        return model.image_features(batch.pixels)


def close(a, b):
    return torch.allclose(a, b, atol=1e-6)


# Preprocessing


def test_quantisation_keeps_evenly_spaced_values():
    x = torch.linspace(0, 1, 256, dtype=torch.float64).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    seen = Quantise(levels=4)(x)
    assert sorted({round(v, 6) for v in seen.flatten().tolist()}) == [0, round(1 / 3, 6), round(2 / 3, 6), 1]
    assert (seen - x).abs().max() <= 1 / 6 + 1e-12
    with pytest.raises(OptionError):
        Quantise(levels=1)


def test_block_compression_is_close_to_what_jpeg_files_lose():
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((40, 48), Image.Resampling.BICUBIC))
    x = torch.from_numpy(image.copy()).movedim(-1, 0).unsqueeze(0).double() / 255
    lost = {}
    for quality in (20, 60, 95):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
        decoded = torch.from_numpy(np.asarray(Image.open(file)).copy()).movedim(-1, 0).unsqueeze(0).double() / 255
        ours = BlockCompression(quality=quality)(x)
        lost[quality] = float((ours - x).abs().mean())
        # the file also rounds to whole numbers after each conversion of colours
        assert (ours - decoded).abs().mean() < 1.5 / 255
    assert lost[20] > lost[60] > lost[95]
    assert BlockCompression(quality=50)(x[..., :45, :37]).shape == (1, 3, 45, 37)
    grey = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    assert (BlockCompression(quality=90)(grey) - grey).abs().max() < 2 / 255
    with pytest.raises(OptionError):
        BlockCompression(quality=0)


# System


def test_a_system_without_options_is_the_model(model, batch, data):
    system, task = System(model), get_task("zero-shot")
    plain = features(model, batch)
    assert close(system.image_features(batch.pixels).embedding, plain.embedding)
    assert system.has_decoder and system.image_size == model.image_size and system.passes == 1
    response = system.respond(task, batch, dataset=data)
    answers = task.predict(model, plain, task.prepare(model, batch.pairs, data))
    assert [p.answer for p in response.predictions] == [p.answer for p in answers]
    assert response.scores is None and not response.flagged.any() and not response.rejected.any()
    options = {"epsilon": 2 / 255, "steps": 2}
    a, b = (task_pgd(task, dataset=data, **options)(m, batch) for m in (model, system))
    assert torch.equal(a.pixels, b.pixels) and torch.equal(a.consistency, b.consistency)
    assert copy.copy(system).model is model


def test_the_deployed_smoothing_is_the_mean_over_addressed_noise(model, batch):
    model.clip.eval()
    transform = Noise(sigma=0.1)
    system = System(model, smoothing=Smoothing(transform, copies=3), seed=4)
    whole = system.for_samples(batch, 4)
    with torch.no_grad():
        smooth = whole.image_features(batch.pixels)
        again = whole.image_features(batch.pixels)
        rows = torch.tensor([3, 1, 1])
        part = whole.select_rows(rows).image_features(batch.pixels[rows])
        whole.advance(torch.tensor([1]))
        moved = whole.image_features(batch.pixels)
        many = System(model, smoothing=Smoothing(transform, copies=24)).for_samples(batch, 9)
        mean = many.image_features(batch.pixels).embedding
    assert torch.equal(smooth.embedding, again.embedding)
    assert close(part.embedding, smooth.embedding[rows]), "the same numbers whatever the rest of the batch"
    changed = (moved.embedding - smooth.embedding).norm(dim=1) > 1e-4
    assert changed.tolist() == [False, True, False, False, False]
    assert close(smooth.embedding.norm(dim=1), torch.ones(COUNT)) and system.passes == 3
    apart = (smooth.embedding - mean).norm(dim=1)
    single = System(model, smoothing=Smoothing(transform, copies=1)).for_samples(batch, 4)
    with torch.no_grad():
        assert (apart < (single.image_features(batch.pixels).embedding - mean).norm(dim=1)).all()
        # Pictures of no sample: the numbers come from the content
        loose = system.image_features(batch.pixels).embedding
        assert close(system.image_features(batch.pixels[[2, 0]]).embedding, loose[[2, 0]])


def test_what_a_system_is_asked_about_pictures_goes_through_its_defence(headed, batch):
    """A picture that is given as pixels and one that is given as features get the same scores and words."""
    headed.clip.eval()
    system, texts = System(headed, preprocessing=(Quantise(levels=2),)), list(batch.texts)
    with torch.no_grad():
        features = system.image_features(batch.pixels)
        for ask in (system.consistency, system.verify):
            found = ask(batch.pixels, texts, batch.image_of_text)
            assert close(found, ask(features, texts, batch.image_of_text))
            plain = getattr(headed, ask.__name__)(batch.pixels, texts, batch.image_of_text)
            assert not torch.allclose(found, plain, atol=1e-3)
        assert system.generate(batch.pixels, max_tokens=4) == headed.generate(features, max_tokens=4)
    words = [system.verify_words(seen, texts, batch.image_of_text) for seen in (batch.pixels, features)]
    assert all(close(a.log_probability, b.log_probability) for a, b in zip(*words, strict=True))


def test_policies(model, batch, data):
    task, smoothing = get_task("zero-shot"), Smoothing(Noise(sigma=0.2), copies=2)
    scores = Consistency().bind(model, batch)(model, batch.pixels, features(model, batch))
    tau = float(scores.sort().values[2])  # two of five below
    detector = ConsistencyDetector(tau)
    responses = {}
    for policy in ("reject", "flag", "robust pathway"):
        system = System(model, detector=detector, policy=policy, pathway=None if policy != POLICY else smoothing)
        responses[policy] = system.respond(task, batch, dataset=data)
        assert torch.equal(responses[policy].flagged, scores < tau)
        assert system.rejects == (policy != POLICY)
    assert torch.equal(responses["reject"].rejected, scores < tau)
    assert not responses["flag"].rejected.any() and not responses[POLICY].rejected.any()
    system = System(model, detector=detector, policy=POLICY, pathway=smoothing)
    with torch.no_grad():
        seen = system.for_samples(batch, 0).image_features(batch.pixels).embedding
        generators = sample_generators(0, [f"{name}/pathway" for name in batch.ids], 0)
        smooth = smoothing.features(model, batch.pixels, generators).embedding
        plain = features(model, batch).embedding
    assert close(seen, torch.where((scores < tau)[:, None], smooth, plain)) and system.passes == 3
    with pytest.raises(OptionError, match="pathway"):
        System(model, policy=POLICY)
    with pytest.raises(OptionError, match="pathway"):
        System(model, detector=detector, pathway=smoothing)
    with pytest.raises(OptionError, match="detector"):
        System(model, policy=POLICY, pathway=smoothing)
    with pytest.raises(OptionError, match="reject"):
        System(model, policy="shout")
    with pytest.raises(OptionError, match="smooting"):
        System(model, smooting=smoothing)


POLICY = "robust pathway"


def test_attacks_see_through_a_whole_system_and_leave_it_as_found(model, batch, data):
    task = get_task("zero-shot")
    system = System(
        model,
        preprocessing=(Quantise(levels=32), BlockCompression(quality=80)),
        smoothing=Smoothing(Noise(sigma=0.05), copies=2),
        detector=ConsistencyDetector(-0.5),
    )
    model.clip.train()
    flags = [p.requires_grad for p in model.clip.parameters()]
    before = batch.pixels.clone()
    attack = pgd(-Consistency(), epsilon=8 / 255, steps=3, success=system.fooled(task, data))
    result = attack(system, batch, seed=1)
    assert (result.objective > result.clean_objective).all(), "gradients lead through rounding and noise"
    assert result.forwards.tolist() == [4 * 2] * COUNT and result.backwards.tolist() == [3 * 2] * COUNT
    assert model.clip.training and [p.requires_grad for p in model.clip.parameters()] == flags
    assert all(p.grad is None for p in model.clip.parameters()) and torch.equal(batch.pixels, before)
    first, second = (system.respond(task, replace(batch, pixels=result.pixels_8bit), dataset=data) for _ in range(2))
    assert torch.equal(first.scores, second.scores) and first.predictions == second.predictions
    assert "accepted" in result.attack["success"]


# What S_c is measured with


@pytest.mark.parametrize("name", ["zero-shot", "retrieval"])
def test_of_a_choice_the_predicted_text_is_scored(model, batch, data, name):
    task, seen = get_task(name), features(model, batch)
    score = AnswerConsistency(task, dataset=data).bind(model, batch)(model, batch.pixels, seen)
    prepared = task.prepare(model, batch.pairs, data)
    answers = [p.answer for p in task.predict(model, seen, prepared)]
    texts = answers if name == "retrieval" else [prepared.prompts[prepared.options.index(a)] for a in answers]
    assert close(score, (seen.embedding * model.encode_text(texts)).sum(dim=1).detach())


def test_of_a_question_the_statement_with_the_answer_is_scored(model, batch, data):
    task, seen = get_task("vqa"), features(model, batch)
    bound = AnswerConsistency(task, dataset=data).bind(model, batch)
    prepared = task.prepare(model, batch.pairs, data)
    answers = [p.answer for p in task.predict(model, seen, prepared)]
    texts = []
    for question, answer in zip(prepared.asked, answers, strict=True):
        texts.append(statements(data[0], question, [answer])[0])
    expected = (seen.embedding * model.encode_text(texts)).sum(dim=1).detach()
    assert close(bound(model, batch.pixels, seen), expected)
    rows = torch.tensor([4, 1])
    assert close(bound.select(rows)(model, batch.pixels[rows], seen[rows]), expected[rows])


def test_the_statement_of_a_right_answer_is_true_and_of_a_wrong_one_false(data):
    for k in range(COUNT):
        pair = data[k]
        for question in pair.questions:
            if question.family == "existence":
                yes, no = statements(pair, question.text, ("yes", "no"))
                assert pair.scene.satisfies(parse(yes)) == (question.answers == ("yes",))
                assert pair.scene.satisfies(parse(no)) == (question.answers == ("no",))
    assert statements(data[0], "who painted this?", ("me",)) == ["who painted this? me"]


def test_of_a_caption_the_words_written_are_scored_and_two_image_statements_are_not(model, batch, data):
    task, seen = Captioning(max_tokens=6), features(model, batch)
    score = AnswerConsistency(task, dataset=data).bind(model, batch)(model, batch.pixels, seen)
    written = model.encode_text(model.generate(seen, max_tokens=task.max_tokens, beam=task.beam))
    assert close(score, (seen.embedding * written).sum(dim=1).detach())
    with pytest.raises(OptionError, match="nlvr"):
        get_task("nlvr").answer_texts(model, batch.pairs, object())


@pytest.mark.parametrize("name", ["zero-shot", "retrieval", "vqa", "captioning"])
def test_heads_score_and_verify_the_text_of_the_answer(headed, batch, data, name):
    task, seen = Captioning(max_tokens=6) if name == "captioning" else get_task(name), features(headed, batch)
    with torch.no_grad():
        prepared = task.prepare(headed, batch.pairs, data)
        texts = answers = [p.answer for p in task.predict(headed, seen, prepared)]
        if name == "zero-shot":
            texts = [prepared.prompts[prepared.options.index(a)] for a in answers]
        elif name == "vqa":
            asked = [statements(data[0], question, prepared.options) for question in prepared.asked]
            texts = [row[prepared.options.index(a)] for row, a in zip(asked, answers, strict=True)]
        rows = torch.tensor([2, 0, 2])
        for objective, expected in (
            (AnswerConsistency(task, prepared, data), headed.consistency(seen, texts)),
            (AnswerVerification(task, prepared, data), headed.verify(seen, texts, log=True)),
        ):
            bound = objective.bind(headed, batch)
            torch.testing.assert_close(bound(headed, batch.pixels, seen), expected, atol=1e-4, rtol=0)
            part = bound.select(rows)(headed, batch.pixels[rows], seen[rows])
            torch.testing.assert_close(part, expected[rows], atol=1e-4, rtol=0)
    response = System(headed, detector=VerificationDetector.at(0.5, task, data)).respond(task, batch, dataset=data)
    assert torch.equal(response.flagged, expected < np.log(0.5))


# Calibration


def test_clean_scores_go_through_smoothing_and_the_answer(model, data):
    scores = clean_scores(model, data)
    assert np.allclose(clean_scores(model, data, size=2), scores, atol=1e-6)
    smooth = System(model, smoothing=Smoothing(Noise(sigma=0.3), copies=1))
    assert not np.allclose(clean_scores(smooth, data), scores, atol=1e-3)
    answer = clean_scores(model, data, task=get_task("zero-shot"))
    assert answer.shape == (COUNT,) and not np.allclose(answer, scores)
    with pytest.raises(OptionError):
        ConsistencyDetector(1.5)


# Attention


def test_attention_is_diverted_from_where_the_clean_model_looks(model, batch):
    model.clip.eval()
    clean = last_layer_attention(model, batch.pixels).map.reshape(COUNT, -1)
    seen = looked_at(model, batch.pixels)
    assert np.allclose(seen.detach(), clean, atol=1e-6)
    objective = AttentionDiversion()
    assert objective.bind(model, batch)(model, batch.pixels, None).abs().max() < 1e-6
    result = pgd(objective, epsilon=8 / 255, steps=4)(model, batch, seed=0)
    now = last_layer_attention(model, result.pixels).map.reshape(COUNT, -1)
    cosine = (now * clean).sum(1) / np.linalg.norm(now, axis=1) / np.linalg.norm(clean, axis=1)
    assert np.allclose(result.objective, 1 - cosine, atol=1e-5)
    start = result.objective_trace[0]
    assert (result.objective > 2 * start).all() and result.forwards.tolist() == [2 * 5] * COUNT
    assert not any("forward" in module.__dict__ for module in model.clip.modules())
