"""Attention flow, heads and the decoder's words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmai_core.errors import CmaiError, DataError, ModelError, OptionError
from cmai_core.explanations import attention_flow, decoder_attention, last_layer_attention
from cmai_core.explanations.attention import roll_out
from cmai_core.models.recording import recorded_attention


def test_roll_out_by_hand():
    """Two layers of one head over two tokens: ½(A+I) multiplied, the later layer on the left."""
    first = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    second = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    torch.testing.assert_close(roll_out([first, second])[0], torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    third = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    torch.testing.assert_close(roll_out([third, second])[0], torch.tensor([[0.5, 0.5], [0.125, 0.875]]))


def test_flows_sum_to_one(any_model, pixels):
    found = attention_flow(any_model, pixels)
    assert found.map.shape == (3, 4, 4) and found.map.dtype == np.float32
    assert (found.map > 0).all()
    np.testing.assert_allclose(found.map.sum(axis=(1, 2)) + found.checks["class_token_share"], 1, atol=1e-6)
    assert found.checks["flow_error"].max() < 1e-6
    assert (found.depends_on_text, found.signed, found.depth, found.score) == (False, False, 2, None)


def test_flow_with_a_pooler_multiplies_the_poolers_attention(coca, pixels):
    model = coca(attentional_pool=True, attn_pooler_queries=6, attn_pooler_heads=4, width=24, head_width=12)
    with torch.no_grad(), recorded_attention(model.image_attention().modules) as weights:
        model.encode_image(pixels)
    tower = roll_out([weights["block 0"], weights["block 1"]])
    expected = torch.einsum("nk,nkp->np", weights["pooler"].mean(dim=1)[:, 0], tower)[:, 1:]
    np.testing.assert_allclose(attention_flow(model, pixels).map.reshape(3, -1), expected.numpy(), atol=1e-7)


def test_flow_of_a_mean_pooled_tower_is_the_mean_of_its_patches_rows(coca, pixels):
    model = coca(pool_type="avg")
    with torch.no_grad(), recorded_attention(model.image_attention().modules) as weights:
        model.encode_image(pixels)
    rows = roll_out(list(weights.values()))[:, 1:].mean(dim=1)
    np.testing.assert_allclose(attention_flow(model, pixels).map.reshape(3, -1), rows[:, 1:].numpy(), atol=1e-7)


def test_depth_uses_the_last_layers(any_model, pixels):
    one, all_layers = attention_flow(any_model, pixels, depth=1), attention_flow(any_model, pixels, depth=2)
    assert one.depth == 1 and "1 of 2 layers" in one.notes[1]
    assert not np.allclose(one.map, all_layers.map)
    np.testing.assert_array_equal(all_layers.map, attention_flow(any_model, pixels).map)
    for depth in (0, 3):
        with pytest.raises(DataError, match="1 to 2"):
            attention_flow(any_model, pixels, depth=depth)


def test_depth_one_of_a_class_token_tower_is_half_its_last_attention(coca, pixels):
    model = coca()
    np.testing.assert_allclose(
        attention_flow(model, pixels, depth=1).map, 0.5 * last_layer_attention(model, pixels).map, atol=1e-7
    )


def test_maps_do_not_depend_on_the_batch(any_model, pixels):
    whole = attention_flow(any_model, pixels).map
    np.testing.assert_allclose(attention_flow(any_model, pixels, batch_size=2).map, whole, atol=1e-6)
    assert attention_flow(any_model, pixels[:0]).map.shape == (0, 4, 4)
    assert last_layer_attention(any_model, pixels[:0]).heads.shape[0] == 0


def test_every_head_sums_to_one_with_the_class_token(any_model, pixels):
    found = last_layer_attention(any_model, pixels)
    heads = 4 if any_model.image_attention().pooler is not None else 2
    assert found.heads.shape == (3, heads, 4, 4)
    np.testing.assert_allclose(found.map, found.heads.mean(axis=1), atol=1e-7)
    np.testing.assert_allclose(found.map.sum(axis=(1, 2)) + found.checks["class_token_share"], 1, atol=1e-6)


def test_results_cannot_be_written_to(any_model, pixels):
    with pytest.raises(ValueError, match="read-only"):
        attention_flow(any_model, pixels).map[0] = 0


def test_each_predicted_token_has_a_map(any_coca, pixels, captions):
    found = decoder_attention(any_coca, pixels, captions)
    assert found.words[0] == ("a", "red", "cube", ".") and found.tokens[0] == (*found.words[0], "<end>")
    assert found.words[1][0] == "naïve" and len(found.tokens[1]) > len(found.words[1]) + 1
    for tokens, maps, outside, words, word_maps in zip(
        found.tokens, found.maps, found.outside, found.words, found.word_maps, strict=True
    ):
        assert maps.shape == (len(tokens), 4, 4) and word_maps.shape == (len(words), 4, 4)
        np.testing.assert_allclose(maps.sum(axis=(1, 2)) + outside, 1, atol=1e-6)
    np.testing.assert_array_equal(found.word_maps[0], found.maps[0][:4])
    np.testing.assert_allclose(found.word_maps[1][0], found.maps[1][:5].mean(axis=0), atol=1e-7)


def test_without_a_pooler_the_decoder_attends_to_nothing_but_patches(coca, pixels, captions):
    assert all(o.max() < 1e-6 for o in decoder_attention(coca(), pixels, captions).outside)


def test_a_tokens_map_depends_only_on_the_tokens_before_it(any_coca, pixels):
    one = decoder_attention(any_coca, pixels[:1], ["a red cube."])
    other = decoder_attention(any_coca, pixels[:1], ["a red ball on a blue table."])
    np.testing.assert_allclose(one.maps[0][:3], other.maps[0][:3], atol=1e-6)
    assert not np.allclose(one.maps[0][3], other.maps[0][3], atol=1e-6)


def test_layers_average_to_the_whole(any_coca, pixels, captions):
    layers = [decoder_attention(any_coca, pixels, captions, layer=k) for k in (0, 1)]
    whole = decoder_attention(any_coca, pixels, captions)
    np.testing.assert_allclose(0.5 * (layers[0].maps[0] + layers[1].maps[0]), whole.maps[0], atol=1e-6)
    assert (whole.depth, layers[0].depth) == (2, 1)
    with pytest.raises(OptionError, match="0 to 1"):
        decoder_attention(any_coca, pixels, captions, layer=2)


def test_without_texts_the_model_writes_them(any_coca, pixels):
    found = decoder_attention(any_coca, pixels)
    assert found.texts == tuple(any_coca.generate(pixels)) and len(found) == 3


def test_one_image_goes_with_several_texts(any_coca, pixels, captions):
    found = decoder_attention(any_coca, pixels[:1], captions)
    explicit = decoder_attention(any_coca, pixels, captions, image_of_text=[0, 0, 0])
    for a, b in zip(found.maps, explicit.maps, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_full_context_is_cut_where_the_tokenizer_cuts(any_coca, pixels):
    found = decoder_attention(any_coca, pixels[:1], ["cube " * 60])
    assert found.tokens[0][-1] == "<end>" and len(found.tokens[0]) == 47


def test_resnets_say_what_is_missing(resnet, pixels):
    for method in (attention_flow, last_layer_attention):
        with pytest.raises(ModelError, match="ModifiedResNet"):
            method(resnet, pixels)


def test_two_stage_pooling_is_refused(coca, pixels):
    model = coca(attentional_pool="parallel", attn_pooler_queries=6, attn_pooler_heads=4)
    with pytest.raises(CmaiError, match="parallel"):
        attention_flow(model, pixels)


def test_custom_blocks_are_refused(coca, pixels):
    with pytest.raises(ModelError, match="image tower"):
        attention_flow(coca(qk_norm=True), pixels)


def test_timm_towers_are_refused(timm, pixels):
    with pytest.raises(ModelError, match="TimmModel"):
        attention_flow(timm, pixels)
    assert not timm.capabilities.image_attention and timm.capabilities.text_attention


def test_plain_clip_has_no_decoder(resnet, pixels):
    with pytest.raises(ModelError, match=resnet.name):
        decoder_attention(resnet, pixels, ["a cube"])
