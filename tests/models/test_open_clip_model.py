"""The wrapper against open_clip itself, on real models with random weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cmai_core.errors import DataError, ModelError
from cmai_core.models import ImageFeatures, load_model


def normalised(model, pixels):
    cfg = model.clip.visual.preprocess_cfg
    return (pixels - torch.tensor(cfg["mean"]).view(3, 1, 1)) / torch.tensor(cfg["std"]).view(3, 1, 1)


def one_hot(ids, size):
    return torch.nn.functional.one_hot(ids, size).float()


# --- the same numbers as open_clip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vision", [{}, {"attentional_pool": False, "pool_type": "tok"}], ids=["pooler", "class token"])
def test_image_features_equal_open_clips(make, pixels, vision):
    model = make(0, **vision)
    model.clip.eval()
    with torch.no_grad():
        features = model.image_features(pixels)
        embedding, tokens = model.clip._encode_image(normalised(model, pixels))
        torch.testing.assert_close(features.embedding, embedding, atol=1e-6, rtol=0)
        torch.testing.assert_close(features.tokens, tokens, atol=1e-5, rtol=0)
        torch.testing.assert_close(features.embedding.norm(dim=1), torch.ones(3))
        assert torch.equal(features.pooled, model.encode_image(pixels, normalize=False))


def test_text_features_equal_open_clips_though_trimmed(small, captions):
    texts = [*captions, "", "a " * 60, "a " * 46, "a " * 45]
    ids = small.tokenize(texts)
    with torch.no_grad():
        embedding, states = small.clip._encode_text(ids)
        ours = small.text_features(ids)
        torch.testing.assert_close(ours.embedding, embedding, atol=1e-5, rtol=0)
        torch.testing.assert_close(small.encode_text(texts), embedding, atol=1e-5, rtol=0)
        for some in ([0], [0, 3], [1, 2]):  # other lengths after trimming
            torch.testing.assert_close(small.encode_text(ids[some]), embedding[some], atol=1e-5, rtol=0)
            shorter = small.trim(ids[some])
            assert shorter.shape[1] < 48
            torch.testing.assert_close(small.encode_text(shorter), embedding[some], atol=1e-5, rtol=0)
            own, theirs = small.text_states(shorter), states[some][:, : shorter.shape[1]]
            used = shorter != 0
            torch.testing.assert_close(own[used], theirs[used], atol=1e-5, rtol=0)
            together = small.text_features(ids[some]).states[:, : shorter.shape[1]]
            torch.testing.assert_close(together[used], theirs[used], atol=1e-5, rtol=0)


def test_fusion_logits_equal_open_clips(small, pixels, captions):
    ids = small.tokenize(captions)
    with torch.no_grad():
        theirs = small.clip(normalised(small, pixels), ids)
        tokens = small.image_features(pixels).tokens
        trimmed = small.trim(ids)
        ours = small.fusion_logits(tokens, trimmed)
        from_states = small.fusion_logits(tokens, small.text_states(trimmed))
        crossed = small.fusion_logits(tokens, trimmed[[2, 0]], image_of_text=[2, 0])
        shared = small.fusion_logits(tokens[:1], trimmed)
    used = trimmed[:, 1:] != 0
    torch.testing.assert_close(ours[:, :-1][used], theirs["logits"][:, : used.shape[1]][used], atol=1e-5, rtol=0)
    torch.testing.assert_close(from_states, ours)
    torch.testing.assert_close(crossed, ours[[2, 0]], atol=1e-5, rtol=0)
    torch.testing.assert_close(shared[0], ours[0], atol=1e-5, rtol=0)
    assert not torch.allclose(shared[1], ours[1], atol=1e-3), "the image matters"


def test_consistency_is_the_cosine(small, pixels, captions):
    with torch.no_grad():
        image, text = small.encode_image(pixels), small.encode_text(captions)
        expected = torch.nn.functional.cosine_similarity(image, text)
        assert small.consistency(pixels, captions).shape == (3,)
        torch.testing.assert_close(small.consistency(pixels, captions), expected)
        torch.testing.assert_close(small.consistency(small.image_features(pixels), text), expected)
        torch.testing.assert_close(small.consistency(pixels, captions, [2, 1, 0])[1], expected[1])
        torch.testing.assert_close(small.consistency(pixels[:1], captions)[0], expected[0])
        torch.testing.assert_close(small.consistency(pixels, captions[:1])[0], expected[0])
    with pytest.raises(DataError, match=r"3.*2"):
        small.consistency(pixels, captions[:2])
    with pytest.raises(DataError, match=r"2.*3"):
        small.consistency(pixels, captions, [0, 1])


def test_plain_clip_equals_open_clip(plain_clip, pixels, captions):
    clip = plain_clip.clip
    with torch.no_grad():
        features = plain_clip.image_features(pixels)
        torch.testing.assert_close(
            features.pooled, clip.encode_image(normalised(plain_clip, pixels)), atol=1e-6, rtol=0
        )
        ids = plain_clip.tokenize([*captions, "a " * 100, "wow ! so ! much !"])
        assert ids.shape == (5, 77)
        torch.testing.assert_close(
            plain_clip.encode_text(ids, normalize=False), clip.encode_text(ids), atol=1e-5, rtol=0
        )
        soft = one_hot(ids, 49408)
        assert torch.equal(plain_clip.encode_text(soft), plain_clip.encode_text(ids))
    assert features.tokens.shape == (3, 16, 24)
    assert (plain_clip.embed_dim, plain_clip.context_length, plain_clip.has_decoder) == (16, 77, False)
    assert plain_clip.domain == "photographs" and not plain_clip.defended


def test_plain_clip_has_no_decoder(plain_clip, pixels):
    with pytest.raises(ModelError, match=plain_clip.name):
        plain_clip.generate(pixels)
    with pytest.raises(ModelError, match=plain_clip.name):
        plain_clip.fusion_logits(torch.zeros(1, 1, 24), torch.ones(1, 2, dtype=torch.long))


@pytest.fixture(scope="module")
def vit_b_32():
    return load_model("ViT-B-32/random", device="cpu")


def test_a_real_architecture_reads_a_photograph_like_open_clip_does(vit_b_32):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image
    from skimage import data

    photo = data.astronaut()
    config = {k: v for k, v in vit_b_32.clip.visual.preprocess_cfg.items()}
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)(Image.fromarray(photo))[None]
    pixels = vit_b_32.preprocess([photo])
    assert pixels.shape == (1, 3, 224, 224)
    ids = vit_b_32.tokenize(["a photograph of an astronaut", "a cat"])
    with torch.no_grad():
        features = vit_b_32.image_features(pixels)
        reference = vit_b_32.clip.encode_image(theirs, normalize=True)
        torch.testing.assert_close(vit_b_32.normalise(pixels), theirs, atol=1e-6, rtol=0)
        torch.testing.assert_close(features.embedding, reference, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            features.pooled, vit_b_32.clip.encode_image(vit_b_32.normalise(pixels)), atol=1e-5, rtol=1e-5
        )
        text = vit_b_32.clip.encode_text(ids, normalize=True)
        torch.testing.assert_close(vit_b_32.encode_text(ids), text, atol=1e-5, rtol=0)
    assert features.tokens.shape == (1, 49, 768)


def test_random_specs_are_seeded_and_leave_the_global_state():
    before = torch.random.get_rng_state()
    first, again, other = (
        load_model(f"ViT-S-32-alt/{tag}", device="cpu") for tag in ("random", "random-0", "random-1")
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.hash == again.hash != other.hash


def test_open_clips_own_coca():
    model = load_model("coca_ViT-B-32/random", device="cpu")
    assert model.has_decoder and model.image_size == 224
    ids = model.tokenize(["wow ! what a cat !", "a dog"])  # id 0 is both "!" and padding here
    with torch.no_grad():
        embedding, states = model.clip._encode_text(ids)
        torch.testing.assert_close(model.encode_text(ids), embedding, atol=1e-5, rtol=0)
        trimmed = model.trim(ids)
        used = trimmed != 0
        torch.testing.assert_close(
            model.text_states(trimmed)[used], states[:, : used.shape[1]][used], atol=1e-4, rtol=1e-4
        )
    (text,) = model.generate(torch.full((1, 3, 224, 224), 0.5), prompt="a photo of", max_tokens=2)
    assert isinstance(text, str) and "photo" not in text


# --- distributions over tokens and gradients --------------------------------------------------------------------------


def test_one_hot_distributions_equal_ids_exactly(small, captions):
    ids = small.tokenize(captions)
    with torch.no_grad():
        assert torch.equal(small.encode_text(one_hot(ids, 1024)), small.encode_text(ids))
        trimmed = small.trim(ids)
        assert torch.equal(small.encode_text(one_hot(trimmed, 1024)), small.encode_text(ids))
        assert torch.equal(small.text_states(one_hot(trimmed, 1024)), small.text_states(trimmed))


def test_the_padding_of_distributions_can_be_given(small, captions):
    ids = small.trim(small.tokenize(captions))
    soft = one_hot(ids, 1024)
    with torch.no_grad():
        assert torch.equal(small.encode_text(soft, pad_mask=ids == 0), small.encode_text(ids))
        # A position whose likeliest token is padding still counts when the mask says so.
        leaning = soft.clone()
        leaning[0, 2] = 0
        leaning[0, 2, 0], leaning[0, 2, 300] = 0.6, 0.4
        kept = small.encode_text(leaning, pad_mask=ids == 0)
        dropped = small.encode_text(leaning)
    assert not torch.allclose(kept[0], dropped[0], atol=1e-4)
    assert torch.equal(kept[1:], small.encode_text(ids)[1:])


def test_gradients_reach_tokens_and_pixels_and_are_right(make, pixels, captions):
    model = make(1)
    model.clip.eval().requires_grad_(False).double()
    generator = torch.Generator().manual_seed(1)
    ids = model.trim(model.tokenize(captions))
    soft = 0.9 * one_hot(ids, 1024).double() + 0.1 / 1024

    def loss(x, dist):
        features = model.image_features(x)
        logits = model.fusion_logits(features.tokens, model.text_states(dist, pad_mask=ids == 0))
        return (
            model.consistency(features, model.encode_text(dist, pad_mask=ids == 0)).sum() + logits.logsumexp(-1).sum()
        )

    x, dist = pixels.double().requires_grad_(), soft.requires_grad_()
    grad_x, grad_dist = torch.autograd.grad(loss(x, dist), [x, dist])
    used = ids != 0
    assert (grad_x.flatten(1).norm(dim=1) > 0).all() and (grad_dist[used].norm(dim=1) > 0).all()
    for value, grad in ((x, grad_x), (dist, grad_dist)):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        step = 1e-5 * direction
        with torch.no_grad():
            ahead, behind = ((x + s * step, dist) if value is x else (x, dist + s * step) for s in (1, -1))
            numeric = (loss(*ahead) - loss(*behind)) / 2e-5
        torch.testing.assert_close(numeric, (grad * direction).sum(), rtol=1e-5, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.clip.parameters())


# --- two images -------------------------------------------------------------------------------------------------------


def test_two_images_are_told_apart(small, pixels):
    with torch.no_grad():
        tokens = small.image_features(pixels).tokens
        left, right = tokens[:1], tokens[1:2]
        both = small.two_image_tokens(left, right)
        assert both.shape == (1, 2 * tokens.shape[1], tokens.shape[2])
        ids = small.trim(small.tokenize(["the left picture shows a cube. true"]))
        one_way = small.fusion_logits(both, ids)
        other_way = small.fusion_logits(small.two_image_tokens(right, left), ids)
        uncoded = small.fusion_logits(torch.cat([left, right], 1), ids)
        uncoded_swapped = small.fusion_logits(torch.cat([right, left], 1), ids)
    torch.testing.assert_close(uncoded, uncoded_swapped, atol=1e-5, rtol=0)  # attention alone cannot tell
    assert (one_way - other_way).abs().max() > 1e-3
    torch.testing.assert_close(both[:, : tokens.shape[1]] - left, -(both[:, tokens.shape[1] :] - right))


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_shapes_are_named(small):
    with pytest.raises(DataError, match="32×32"):
        small.image_features(torch.zeros(1, 3, 31, 32))
    with pytest.raises(DataError, match="32×32"):
        small.image_features(torch.zeros(3, 32, 32))
    with pytest.raises(DataError, match="1 to 48"):
        small.encode_text(torch.ones(1, 49, dtype=torch.long))
    with pytest.raises(DataError, match="1 to 48"):
        small.encode_text(torch.ones(4, dtype=torch.long))
    with pytest.raises(DataError, match=r"7.*1024"):
        small.encode_text(torch.ones(1, 4, 7))
    with pytest.raises(DataError):
        small.tokenize("a cube")
    with pytest.raises(DataError):
        small.tokenize(["a cube", 3])


def test_no_texts_and_no_images(small):
    assert small.tokenize([]).shape == (0, 48)
    with torch.no_grad():
        assert small.image_features(torch.zeros(0, 3, 32, 32)).embedding.shape == (0, 32)
        assert small.encode_text([]).shape == (0, 32)
    assert small.generate(torch.zeros(0, 3, 32, 32)) == []


# --- nothing is disturbed ---------------------------------------------------------------------------------------------


def test_the_model_is_left_as_found(make, pixels, captions):
    model = make(2)
    model.clip.train()
    model.clip.text.eval()
    model.clip.visual.conv1.requires_grad_(False)
    modes = [module.training for module in model.clip.modules()]
    flags = [parameter.requires_grad for parameter in model.clip.parameters()]
    weights = model.hash
    rng = torch.random.get_rng_state()
    inputs = pixels.clone()
    features = model.image_features(pixels)
    model.consistency(features, captions)
    model.generate(pixels, max_tokens=3, beam=2)
    model.fusion_logits(features.tokens, model.tokenize(captions))
    assert [module.training for module in model.clip.modules()] == modes
    assert [parameter.requires_grad for parameter in model.clip.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.clip.parameters())
    assert model.hash == weights and torch.equal(torch.random.get_rng_state(), rng) and torch.equal(pixels, inputs)
    assert features.embedding.requires_grad, "training through the wrapper works"


def test_plain_clip_keeps_its_output_form(plain_clip, pixels):
    before = plain_clip.clip.visual.output_tokens
    plain_clip.image_features(pixels)
    assert plain_clip.clip.visual.output_tokens is before is False
    assert isinstance(plain_clip.clip.encode_image(pixels), torch.Tensor)


def test_threads_may_share_a_model(small):
    texts = [["a cube"] * (1 + i % 5) + ["two balls and a cone " * (i % 7)] for i in range(64)]
    expected = [small.tokenize(t) for t in texts]
    with ThreadPoolExecutor(8) as pool:
        for ours, theirs in zip(pool.map(small.tokenize, texts), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_features_can_be_cut_and_detached(small, pixels):
    features = small.image_features(pixels.clone().requires_grad_())
    part = features[torch.tensor([True, False, True])]
    assert isinstance(part, ImageFeatures) and len(part) == 2 and part.embedding.requires_grad
    assert torch.equal(part.tokens, features.tokens[[0, 2]])
    assert not part.detach().tokens.requires_grad
    assert features[:1].pooled.shape == (1, 32)


def test_facts(small):
    assert (small.image_size, small.embed_dim, small.context_length) == (32, 32, 48)
    assert small.vocabulary_size == 1024 and small.has_decoder and small.domain == "tabletop"
    assert small.token_ids() == (0, 1, 2)
    assert small.device == torch.device("cpu")
    np.testing.assert_allclose(float(small.logit_scale), 1 / 0.07, rtol=1e-5)
