"""Consistency heads in the wrapper: identity without them, vectors of their own with them, V_verify word by word."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import open_clip
import pytest
import torch
from open_clip.model import CLIP, set_model_preprocess_cfg
from safetensors.torch import load_file, save_file

from cmai_core.errors import DataError, ModelError
from cmai_core.models import OpenClipModel, load_model, save_local_dir
from cmai_core.models.heads import ConsistencyHeads, log_opposite, log_verified
from cmai_core.models.scoring import both_text_vectors, has_heads, image_vectors, text_vectors
from cmai_core.models.weights import HEADS_FILE


def with_heads(model, seed=1, inner=8):
    model.heads = ConsistencyHeads(model.head_sizes(inner), torch.Generator().manual_seed(seed))
    return model


@pytest.fixture
def headed(make):
    model = with_heads(make(2))
    model.clip.eval().requires_grad_(False)
    model.heads.eval().requires_grad_(False)
    return model


@pytest.fixture
def saved(make, tmp_path):
    return save_local_dir(with_heads(make(4)), tmp_path / "m", {"name": "m"})


# --- S_c --------------------------------------------------------------------------------------------------------------


def test_without_heads_every_number_is_that_of_the_embeddings(small, pixels, captions):
    with torch.no_grad():
        features, embedded = small.image_features(pixels), small.encode_text(captions)
        assert small.heads is None and not has_heads(small)
        assert small.consistency_image(features) is features.embedding
        assert torch.equal(small.consistency_text(captions), embedded)
        assert torch.equal(small.consistency(pixels, captions), (features.embedding * embedded).sum(dim=1))
        embedding, vectors = both_text_vectors(small, captions)
        assert vectors is embedding and torch.equal(embedding, embedded)
        with pytest.raises(ModelError, match=small.name):
            small.verify(features, captions)


def test_what_has_no_heads_need_not_know_of_them(pixels):
    class Plain:
        heads = 12  # of some attention: not ours

        def encode_text(self, texts):
            return torch.eye(3)

    features = type("Features", (), {"embedding": torch.ones(2, 3)})()
    assert image_vectors(Plain(), features) is features.embedding
    assert torch.equal(text_vectors(Plain(), ["a"]), torch.eye(3))


def test_heads_have_vectors_of_their_own(headed, pixels, captions):
    with torch.no_grad():
        features = headed.image_features(pixels)
        image, text = headed.consistency_image(features), headed.consistency_text(captions)
        assert image.shape == text.shape == (3, 8)
        torch.testing.assert_close(image.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(text.norm(dim=1), torch.ones(3))
        expected = (image * text).sum(dim=1)
        for texts in (captions, headed.tokenize(captions), text, headed.text_features(captions)):
            torch.testing.assert_close(headed.consistency(features, texts), expected, atol=1e-5, rtol=0)
        assert (
            headed.consistency(features, captions) - (features.embedding * headed.encode_text(captions)).sum(1)
        ).abs().min() > 1e-4
        torch.testing.assert_close(headed.consistency(pixels, captions, [2, 1, 0])[1], expected[1])
        embedding, vectors = both_text_vectors(headed, captions)
        assert torch.equal(embedding, headed.encode_text(captions)) and torch.equal(vectors, text)


def finite_difference(function, x, direction, h=1e-6):
    return (function(x + h * direction) - function(x - h * direction)) / (2 * h)


@pytest.mark.parametrize("score", ["S_c", "V"])
def test_gradients_in_pixels_and_soft_tokens_equal_finite_differences(headed, pixels, captions, generator, score):
    headed.clip.double(), headed.heads.double()
    ids = headed.trim(headed.tokenize(captions))
    soft = torch.nn.functional.one_hot(ids, headed.vocabulary_size).double()
    soft = 0.9 * soft + 0.1 * torch.rand(soft.shape, generator=generator, dtype=torch.float64) / soft.shape[2]
    mask = ids == 0

    def value(x, t):
        if score == "S_c":
            return headed.consistency(x, headed.consistency_text(t, pad_mask=mask)).sum()
        return headed.verify(x, headed.verification_states(t, pad_mask=mask), log=True).sum()

    x, t = pixels.double().requires_grad_(True), soft.requires_grad_(True)
    slopes = torch.autograd.grad(value(x, t), (x, t))
    for inputs, slope, call in ((x, slopes[0], lambda v: value(v, t)), (t, slopes[1], lambda v: value(x, v))):
        direction = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            found = finite_difference(call, inputs, direction)
        assert float((slope * direction).sum()) == pytest.approx(float(found), rel=1e-5)
        assert float(slope.abs().max()) > 1e-6


# --- V_verify ---------------------------------------------------------------------------------------------------------


def test_the_verifier_is_the_product_over_words(headed, pixels, captions):
    with torch.no_grad():
        features = headed.image_features(pixels)
        v = headed.verify(features, captions)
        assert v.shape == (3,) and bool(((v > 0) & (v < 1)).all())
        found = headed.verify_words(pixels, captions)
        for k, each in enumerate(found):
            assert float(each.log_probability.sum()) == pytest.approx(float(v[k].log()), abs=1e-5)
            assert each.attention.shape == (len(each.words), features.tokens.shape[1])
            torch.testing.assert_close(each.attention.sum(dim=1), torch.ones(len(each.words)))
        # Padding, other rows and what is read before change nothing
        torch.testing.assert_close(headed.verify(features, headed.tokenize(captions)), v, atol=1e-6, rtol=0)
        read = headed.verification_states(captions)
        torch.testing.assert_close(headed.verify(features[[2, 0]], read[[2, 0]]), v[[2, 0]], atol=1e-6, rtol=0)
        torch.testing.assert_close(headed.verify(features, read, [1, 1, 2])[1:], v[1:], atol=1e-6, rtol=0)
        torch.testing.assert_close(headed.verify(pixels[:1], captions)[0], v[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(headed.verify(pixels, captions[:1])[0], v[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(headed.verify(pixels, captions, log=True).exp(), v, atol=1e-6, rtol=0)
        assert float(headed.verify(pixels[:1], [""])) == 1.0, "no claim, nothing to doubt"
    assert len(headed.verify_words(pixels, captions[:1])) == 3
    with pytest.raises(DataError):
        headed.verify_words(pixels, torch.zeros(3, 4, headed.vocabulary_size))


def test_words_of_several_tokens_are_one_word(headed, pixels):
    found = headed.verify_words(pixels[:1], ["A zebra, naïve"])[0]
    assert found.words == ("a", "zebra", ",", "naïve")
    ids = headed.tokenize(["A zebra, naïve"])
    assert int((ids > 2).sum()) > 4, "some word is spelt out in pieces"


def test_a_word_far_from_all_doubt_and_one_beyond_it():
    odds = torch.tensor([[50.0, -200.0, 3.0]])
    counted = torch.tensor([[True, True, False]])
    assert float(log_verified(odds, counted)) == pytest.approx(-200.0)
    x = torch.tensor([-1e-6, -0.5, -0.7, -40.0], dtype=torch.float64)
    torch.testing.assert_close(log_opposite(x), torch.log1p(-x.exp()), atol=1e-9, rtol=1e-4)


def test_heads_that_do_not_fit_are_refused(make, headed):
    model = make(0)
    sizes = model.head_sizes(8)
    with pytest.raises(ModelError, match=str(sizes.tokens + 1)):
        model.heads = ConsistencyHeads(replace(sizes, tokens=sizes.tokens + 1))
    assert model.heads is None and model.clip.training


def test_an_image_tower_without_patch_tokens_cannot_have_heads():
    vision = {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        clip = CLIP(16, vision, text).eval()
    set_model_preprocess_cfg(clip, {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3})
    model = OpenClipModel(clip, open_clip.get_tokenizer("ViT-B-32"), spec="resnet")
    with pytest.raises(ModelError, match=model.name):
        model.head_sizes()


def test_plain_clip_can_have_heads(plain_clip, pixels):
    model = with_heads(plain_clip)
    with torch.no_grad():
        found = model.verify_words(pixels, ["a red cube", "cubes!", "zebra crossing"])
        v = model.verify(pixels, ["a red cube", "cubes!", "zebra crossing"])
    assert found[0].words == ("a", "red", "cube")
    torch.testing.assert_close(torch.stack([each.log_probability.sum() for each in found]).exp(), v, atol=1e-5, rtol=0)


# --- The file beside the weights --------------------------------------------------------------------------------------


def test_heads_come_back_in_half_precision_and_at_rest(saved, make, pixels, captions):
    stored = load_file(saved / HEADS_FILE)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    model, original = load_model(f"local-dir:{saved}", device="cpu"), with_heads(make(4))
    for name, tensor in model.heads.state_dict().items():
        assert torch.equal(tensor, original.heads.state_dict()[name].half().float()), name
    assert not model.heads.training and not any(p.requires_grad for p in model.heads.parameters())
    again = save_local_dir(model, saved.parent / "again")
    for path in saved.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    single = load_model(
        f"local-dir:{save_local_dir(original, saved.parent / 'f', {}, dtype=torch.float32)}", device="cpu"
    )
    original.clip.eval()
    with torch.no_grad():
        for name in ("consistency", "verify"):
            own, stored = (getattr(m, name)(pixels, captions) for m in (original, single))
            torch.testing.assert_close(stored, own, atol=1e-5, rtol=0)  # two passes, rounded apart
        torch.testing.assert_close(model.verify(pixels, captions), single.verify(pixels, captions), atol=5e-3, rtol=0)


def test_open_clip_alone_still_loads_the_folder(saved):
    theirs, _ = open_clip.create_model_from_pretrained(f"local-dir:{saved}")
    ours = load_model(f"local-dir:{saved}", device="cpu")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor.float(), ours.clip.state_dict()[name]), name


def test_the_hash_covers_both_files(saved):
    model = load_model(f"local-dir:{saved}", device="cpu")
    files = [hashlib.sha256((saved / n).read_bytes()).hexdigest() for n in ("open_clip_model.safetensors", HEADS_FILE)]
    assert model.hash == hashlib.sha256("".join(files).encode()).hexdigest()
    heads, before = model.heads, model.hash
    model.heads = None
    assert model.hash != before
    model.heads = heads
    assert model.hash == before
    with torch.no_grad():
        heads.image_query.mul_(1.01)
    assert model.hash != before
    (saved / HEADS_FILE).unlink()
    assert load_model(f"local-dir:{saved}", device="cpu").hash == files[0], "without heads it is that of the weights"


def test_a_damaged_or_foreign_heads_file_is_named(saved):
    weights = load_file(saved / HEADS_FILE)
    save_file(weights, saved / HEADS_FILE)  # without the sizes
    with pytest.raises(ModelError, match=re.escape(str(saved))):
        load_model(f"local-dir:{saved}", device="cpu")
    (saved / HEADS_FILE).write_bytes(b"no")
    with pytest.raises(ModelError, match=re.escape(str(saved))):
        load_model(f"local-dir:{saved}", device="cpu")
    (saved / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match=re.escape(str(saved))):
        load_model(f"local-dir:{saved}", device="cpu")


def test_a_model_saved_without_heads_takes_an_old_file_away(saved, make):
    save_local_dir(make(5), saved, {})
    assert not (saved / HEADS_FILE).exists() and load_model(f"local-dir:{saved}", device="cpu").heads is None
