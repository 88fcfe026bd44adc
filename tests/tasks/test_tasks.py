"""The tasks on a small random CoCa: their losses, predictions and truths, against plain computations."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmai_core.data.pair import Pair, Question, TwoImageStatement
from cmai_core.data.tabletop.dataset import CLASSES, captions_of, questions_of, scene_of
from cmai_core.data.tabletop.truth import TRUTH
from cmai_core.data.text import question_with_answer, statement_prompt, statement_with_truth
from cmai_core.data.truth import true_texts
from cmai_core.errors import OptionError
from cmai_core.models import new_model
from cmai_core.models.features import ImageFeatures
from cmai_core.tasks import TASKS, evaluate_clean, get_task
from cmai_core.tasks.nlvr import Nlvr
from cmai_core.tasks.retrieval import Retrieval
from cmai_core.tasks.vqa import Vqa, answer_tokens
from cmai_core.tasks.zero_shot import ZeroShot

COUNT = 6


def scene_pair(index: int) -> Pair:
    """A Tabletop pair with noise for a picture: truth comes from the scene."""
    return Pair(
        id=f"tabletop/validation/{index}",
        image=np.random.default_rng(index).integers(0, 256, (128, 128, 3), dtype=np.uint8),
        captions=captions_of("validation", index),
        questions=tuple(Question(q, (a,), f) for q, a, f in questions_of("validation", index)),
        scene=scene_of("validation", index),
    )


class Scenes:
    name, split, classes = "tabletop", "validation", CLASSES

    def __init__(self, count: int = COUNT):
        self.pairs = [scene_pair(k) for k in range(count)]
        self.statements = (
            TwoImageStatement(0, 1, "both pictures show a cube", True),
            TwoImageStatement(2, 3, "neither picture shows a cone", False),
            TwoImageStatement(4, 0, "there are two cubes in the left picture", True),
        )

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


class Photos(Scenes):
    """The same pictures without scenes: pairing and labels are all that is known."""

    name, classes = "photos", ("cat", "dog", "orange")

    def __init__(self):
        super().__init__()
        labels = ("cat", "dog", None, "cat", "orange", "zebra")
        self.pairs = [replace(p, scene=None, questions=(), label=n) for p, n in zip(self.pairs, labels, strict=True)]
        self.statements = ()


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    model = new_model("tabletop", torch.Generator().manual_seed(0), "cpu")
    model.clip.eval().requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def scenes():
    return Scenes()


@pytest.fixture(scope="module")
def pixels(model, scenes):
    return model.preprocess([pair.image for pair in scenes.pairs])


@pytest.fixture(scope="module")
def features(model, pixels):
    with torch.no_grad():
        return model.image_features(pixels)


@pytest.mark.parametrize("name", list(TASKS))
def test_losses_reach_every_pixel_row_and_no_other(name, model, scenes, pixels):
    task = get_task(name)
    prepared = task.prepare(model, scenes.pairs, scenes)
    x = pixels.clone().requires_grad_(True)
    losses = task.loss(model, model.image_features(x), prepared)
    assert losses.shape == (COUNT,)
    (gradient,) = torch.autograd.grad(losses[1], x)
    size = gradient.abs().amax(dim=(1, 2, 3))
    assert size[1] > 0
    assert (size[[0, 2, 3, 4, 5]] == 0).all()
    assert all(p.grad is None and not p.requires_grad for p in model.clip.parameters())


@pytest.mark.parametrize("name", list(TASKS))
def test_selected_rows_are_the_same_rows(name, model, scenes, features):
    task = get_task(name)
    prepared = task.prepare(model, scenes.pairs, scenes)
    rows = torch.tensor([4, 1])
    part = prepared.select_rows(rows)
    assert len(part) == 2
    whole = task.loss(model, features, prepared)
    torch.testing.assert_close(task.loss(model, features[rows], part), whole[rows], rtol=1e-4, atol=1e-5)
    found, expected = task.predict(model, features[rows], part), task.predict(model, features, prepared)
    for a, b in zip(found, (expected[4], expected[1]), strict=True):
        assert (a.answer, a.correct) == (b.answer, b.correct)
        assert a.score == pytest.approx(b.score, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "captioning"])
def test_loss_prediction_and_wrong_agree(name, model, scenes, features):
    task = get_task(name)
    prepared = task.prepare(model, scenes.pairs, scenes)
    logits = task.logits(model, features, prepared)
    probability = logits.softmax(dim=1)
    for row, found in enumerate(task.predict(model, features, prepared)):
        best = int(probability[row].argmax())
        assert found.answer == prepared.options[best]
        assert found.score == pytest.approx(float(probability[row, best]), rel=1e-4)
        if prepared.known[row]:
            assert found.correct == bool(prepared.target[row, best])
            assert bool(task.wrong(model, features, prepared)[row]) == (not found.correct)
            mass = float((probability[row] * prepared.target[row]).sum())
            assert float(task.loss(model, features, prepared)[row]) == pytest.approx(-np.log(mass), rel=1e-3)
        else:
            assert found.correct is None and not task.wrong(model, features, prepared)[row]
        tops = found.detail["top"]
        assert [t[1] for t in tops] == sorted((t[1] for t in tops), reverse=True)


def test_zero_shot_truth_is_what_lies_on_the_table(model, scenes):
    prepared = ZeroShot().prepare(model, scenes.pairs, scenes)
    for row, pair in enumerate(scenes.pairs):
        there = {f"{o.colour} {o.shape}" for o in pair.scene.objects}
        assert {name for name, true in zip(CLASSES, prepared.target[row], strict=True) if true} == there
    assert prepared.prompts[CLASSES.index("orange cube")] == "an orange cube"
    assert prepared.prompts[CLASSES.index("red cube")] == "a red cube"


def test_zero_shot_without_truth_moves_away_from_the_clean_answer(model, features):
    data = Photos()
    task = ZeroShot()
    prepared = task.prepare(model, data.pairs, data)
    assert prepared.known.tolist() == [True, True, False, True, True, False]
    clean = task.predict(model, features, prepared)
    assert clean[2].correct is None
    assert prepared.options[int(prepared.target[2].int().argmax())] == clean[2].answer
    assert prepared.prompts[2] == "a photo of an orange"


def test_retrieval_counts_any_caption_that_is_true(model, scenes):
    task = Retrieval(gallery=4)
    prepared = task.prepare(model, scenes.pairs, scenes)
    first = [pair.captions[0] for pair in scenes.pairs]
    assert list(prepared.options) == list(dict.fromkeys(first))  # the last two pairs have added theirs
    for row, pair in enumerate(scenes.pairs):
        assert prepared.target[row].tolist() == [pair.scene.satisfies(text) for text in prepared.options]
    for row, place in ((0, prepared.target[0].int().argmax()), (0, (~prepared.target[0]).int().argmax())):
        embedding = prepared.embeddings[place][None]
        looks_like = ImageFeatures(embedding, embedding, None)
        (found,) = task.predict(model, looks_like, prepared.select_rows(torch.tensor([row])))
        assert found.answer == prepared.options[int(place)]
        assert found.correct is bool(prepared.target[0, int(place)])


def test_the_gallery_is_encoded_once_until_the_weights_change(model, scenes, monkeypatch):
    task, asked = Retrieval(gallery=4), []
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda texts, **options: asked.append(texts) or encode(texts, **options))
    pairs = [scenes[k] for k in range(2)]
    first = task.prepare(model, pairs[:1], scenes).embeddings
    assert torch.equal(task.prepare(model, pairs[1:], scenes).embeddings, first) and len(asked) == 1
    bias = next(p for name, p in model.clip.named_parameters() if name.startswith("text") and p.ndim == 2)
    before = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.mul_(0.5)
        assert not torch.equal(task.prepare(model, pairs[:1], scenes).embeddings, first) and len(asked) == 2
    finally:
        with torch.no_grad():
            bias.copy_(before)
    task.prepare(model, [scenes[5]], scenes)  # another caption: another gallery
    assert len(asked) == 3


def test_retrieval_without_scenes_counts_the_pairs_own_captions(model):
    data = Photos()
    prepared = Retrieval(gallery=6).prepare(model, data.pairs, data)
    for row, pair in enumerate(data.pairs):
        assert prepared.target[row].tolist() == [text in pair.captions for text in prepared.options]


def test_vqa_scores_are_the_decoders_log_probabilities(model, scenes, features):
    task = Vqa()
    prepared = task.prepare(model, scenes.pairs, scenes)
    found = task.logits(model, features, prepared).log_softmax(dim=1)
    for row, pair in enumerate(scenes.pairs[:2]):
        question = task.question(pair)
        scores = []
        for option in prepared.options:
            ids = model.tokenize([question_with_answer(question.text, option)])
            at = int((ids[0] == 2).int().argmax()) - 1
            logits = model.clip.text_decoder(features.tokens[row : row + 1], model.clip.text(ids)[1])[0]
            scores.append(logits[at - 1].log_softmax(0)[ids[0, at]])
        torch.testing.assert_close(found[row], torch.stack(scores).log_softmax(0), rtol=1e-3, atol=1e-4)
        right = {o for o, t in zip(prepared.options, prepared.target[row], strict=True) if t}
        assert right == set(question.answers)


def test_vqa_answers_of_several_tokens(model, scenes, features):
    options = ("yes", "no", "light brownish gray")
    task = Vqa(options)
    questions = [Question(p.questions[0].text, ("light brownish gray",)) for p in scenes.pairs]
    prepared = task.prepare_questions(model, scenes.pairs, questions)
    assert prepared.single is None and max(map(len, prepared.answers)) > 1
    found = task.logits(model, features, prepared)
    long = answer_tokens(model, options)[2]
    for row, question in enumerate(questions):
        ids = model.tokenize([question_with_answer(question.text, options[2])])
        end = int((ids[0] == 2).int().argmax())
        logits = model.fusion_logits(features.tokens[row : row + 1], ids)[0].log_softmax(-1)
        places = range(end - len(long), end)
        expected = torch.stack([logits[k - 1, ids[0, k]] for k in places]).mean()
        assert float(found[row, 2]) == pytest.approx(float(expected), rel=1e-3)
    short = Vqa(("yes", "no")).prepare_questions(model, scenes.pairs, [replace(q, answers=("yes",)) for q in questions])
    plain = task.logits(model, features, short)
    forced = task.logits(model, features, replace(short, single=None))
    torch.testing.assert_close(forced.log_softmax(1), plain.log_softmax(1), rtol=1e-3, atol=1e-4)


def test_the_vocabulary_of_answers_covers_tabletop_and_each_is_one_token(model):
    given = {a for k in range(150) for _, a, _ in questions_of("train", k)}
    assert given <= set(TRUTH.answers())
    assert all(len(t) == 1 for t in answer_tokens(model, TRUTH.answers()))


def test_nlvr_reads_both_images_and_says_on_which_side_the_pair_is(model, scenes, features):
    task = Nlvr()
    prepared = task.prepare(model, scenes.pairs, scenes)
    assert prepared.known.tolist() == [True, True, True, True, True, False]
    found = task.predict(model, features, prepared)
    assert [p.detail["side"] for p in found[:5]] == ["left", "right", "left", "right", "left"]
    assert found[5].correct is None
    first = scenes.statements[0]
    for row in (0, 1):  # both rows are asked the same statement about the same two images
        assert found[row].detail["statement"] == first.text
        ids = model.tokenize([statement_with_truth(first.text, True)])
        at = int((ids[0] == 2).int().argmax()) - 1
        both = model.two_image_tokens(features.tokens[:1], features.tokens[1:2])
        logits = model.clip.text_decoder(both, model.clip.text(ids)[1])[0, at - 1]
        true, false = (int(t[0]) for t in answer_tokens(model, ("true", "false")))
        chance = logits[[true, false]].softmax(0)
        assert found[row].score == pytest.approx(float(chance.max()), rel=1e-3)
        assert found[row].correct == (bool(chance[0] > chance[1]) == first.truth)


def test_statement_prompts_have_no_full_stop():
    assert statement_prompt(" both show a cube. ") == "both show a cube"
    assert statement_with_truth("both show a cube.", False) == "both show a cube false"


def test_captioning_loss_is_open_clips_caption_loss(model, scenes, features):
    task = get_task("captioning")
    prepared = task.prepare(model, scenes.pairs, scenes)
    found = task.loss(model, features, prepared)
    ids = model.tokenize([pair.captions[0] for pair in scenes.pairs])
    logits = model.clip.text_decoder(features.tokens, model.clip.text(ids)[1][:, :-1])
    for row in range(COUNT):
        expected = F.cross_entropy(logits[row], ids[row, 1:], ignore_index=0)
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-4)


def test_captions_are_judged_by_the_scene(model, scenes, features, monkeypatch):
    task = get_task("captioning")
    prepared = task.prepare(model, scenes.pairs, scenes)
    untrained = task.predict(model, features, prepared)
    assert all(p.correct is False and p.detail["fact_f1"] == 0.0 for p in untrained)
    mine = [pair.captions[1] for pair in scenes.pairs]
    monkeypatch.setattr(model, "generate", lambda *a, **k: mine)  # as a perfect captioner would write
    perfect = task.predict(model, features, prepared)
    assert all(p.correct is True and p.detail["fact_f1"] > 0 for p in perfect)
    scores = (-task.loss(model, features, task.prepare(model, _with_first(scenes, mine)))).exp().tolist()
    assert [p.score for p in perfect] == pytest.approx(scores, rel=1e-3)


def _with_first(scenes, texts):
    return [replace(pair, captions=(text,)) for pair, text in zip(scenes.pairs, texts, strict=True)]


def test_truth_of_texts():
    pair = scene_pair(0)
    thing = pair.scene.objects[0]
    assert true_texts([f"a {thing.colour} {thing.shape}", "no sentence of this world"], pair).tolist() == [True, False]
    assert true_texts(["a cube"], replace(pair, scene=None)) is None


def test_what_applies(model, scenes):
    photos = Photos()
    clip = SimpleNamespace(name="ViT", has_decoder=False)
    for name, task in ((name, get_task(name)) for name in TASKS):
        assert task.applies_to(scenes, model) == ""
        assert bool(task.applies_to(scenes, clip)) == (name in ("vqa", "captioning", "nlvr"))
    assert "no questions" in get_task("vqa").applies_to(photos, model)
    assert "no statements" in get_task("nlvr").applies_to(photos, model)
    with pytest.raises(OptionError, match="segmentation"):
        get_task("segmentation")
    with pytest.raises(OptionError, match=photos.pairs[0].id):
        get_task("vqa").prepare(model, photos.pairs)


def test_clean_evaluation(model, scenes, features):
    model.clip.train()
    seen = []
    try:
        found = evaluate_clean(model, scenes, batch=4, progress=lambda p: seen.append(p.done))
        assert all(module.training for module in model.clip.modules())
    finally:
        model.clip.eval()
    assert seen == [4, 6] and found["pairs"] == COUNT and found["skipped"] == {}
    tasks = found["tasks"]
    assert set(tasks) == set(TASKS)
    for measures in tasks.values():
        for entry in measures.values():
            assert entry["low"] <= entry["value"] <= entry["high"] and entry["n"] > 0
    # Against plain counting.
    first = [pair.captions[0] for pair in scenes.pairs]
    similarity = features.embedding @ model.encode_text(first).T
    right = [pair.scene.satisfies(first[int(similarity[k].argmax())]) for k, pair in enumerate(scenes.pairs)]
    assert tasks["retrieval"]["image_to_text_r1"]["value"] == pytest.approx(np.mean(right))
    assert tasks["retrieval"]["image_to_text_own_r1"]["chance"] == pytest.approx(1 / COUNT)
    zero = [p.correct for p in ZeroShot().predict(model, features, ZeroShot().prepare(model, scenes.pairs, scenes))]
    assert tasks["zero-shot"]["accuracy"]["value"] == pytest.approx(np.mean(zero))
    assert tasks["nlvr"]["accuracy"]["n"] == 3
    assert tasks["vqa"]["accuracy"]["n"] == sum(min(4, len(pair.questions)) for pair in scenes.pairs)
    assert tasks["captioning"]["true"]["value"] == 0.0


def test_clean_evaluation_leaves_out_what_does_not_apply(model):
    photos = Photos()
    found = evaluate_clean(model, photos, limit=3)
    assert set(found["skipped"]) == {"vqa", "nlvr"} and found["pairs"] == 3
    with pytest.raises(OptionError, match="vqa"):
        evaluate_clean(model, photos, ["vqa"])
    with pytest.raises(OptionError, match="limit"):
        evaluate_clean(model, photos, limit=0)


def test_retrieval_among_stretches_of_the_pairs(model, scenes):
    whole = evaluate_clean(model, scenes, ["retrieval"])["tasks"]["retrieval"]
    halves = evaluate_clean(model, scenes, ["retrieval"], gallery=COUNT // 2)["tasks"]["retrieval"]
    assert halves["image_to_text_own_r1"]["chance"] == pytest.approx(2 * whole["image_to_text_own_r1"]["chance"])
    assert halves["text_to_image_r1"]["n"] == COUNT and "image_to_text_r5" not in halves
    assert halves["image_to_text_r1"]["value"] >= whole["image_to_text_r1"]["value"]
