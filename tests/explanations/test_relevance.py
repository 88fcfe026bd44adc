"""Gradient-weighted attention and Grad-CAM: by hand, against a second implementation, and on a model known to look."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmai_core.errors import DataError, ModelError
from cmai_core.explanations import grad_cam, relevance, text_relevance
from cmai_core.explanations.chefer import roll_relevance
from cmai_core.models.recording import recorded_attention

SQUARES = ("a red cube.", "a green cube.", "a blue cube.")


def test_one_layer_by_hand():
    """Two heads; negative products are cut per head, then averaged; R = I + Ā."""
    weights = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]], [[0.2, 0.8], [0.0, 1.0]]]])
    gradient = torch.tensor([[[[2.0, -4.0], [0.0, 1.0]], [[5.0, 1.0], [3.0, -1.0]]]])
    expected = torch.tensor([[1 + (1.0 + 1.0) / 2, (0.0 + 0.8) / 2], [0.0, 1.0]])
    torch.testing.assert_close(roll_relevance([weights], [gradient])[0], expected)


def test_two_layers_by_hand():
    """Ā₁ moves token 1 to token 0, Ā₂ moves token 2 to token 1 with half the weight: R₀ = (1, 1, 0), R₁ = (0, 1, ½).
    In the other order what went to token 1 goes on to token 0."""
    first, second = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    first[0, 0, 0, 1] = 1.0
    second[0, 0, 1, 2] = 0.5
    ones = torch.ones_like(first)
    assert roll_relevance([first, second], [ones, ones])[0, 0].tolist() == [1, 1, 0]
    assert roll_relevance([second, first], [ones, ones])[0, 0].tolist() == [1, 1, 0.5]


def plain_relevance(weights, gradients):
    """Equations 5 and 6 for one sample, with loops."""
    length = weights[0].shape[-1]
    r = np.eye(length)
    for a, g in zip(weights, gradients, strict=True):
        bar = np.zeros((length, length))
        for head in range(len(a)):
            for i in range(length):
                for j in range(length):
                    bar[i, j] += max(0.0, float(a[head, i, j] * g[head, i, j])) / len(a)
        r = r + bar @ r
    return r


def test_agrees_with_a_second_implementation(any_model, pixels, captions):
    parts = any_model.image_attention()
    with recorded_attention(parts.modules) as weights:
        score = any_model.consistency(pixels.clone().requires_grad_(), captions)
    gradients = dict(zip(weights, torch.autograd.grad(score.sum(), list(weights.values())), strict=True))
    found = relevance(any_model, pixels, captions)
    np.testing.assert_allclose(found.score, score.detach(), atol=1e-6)
    for k in range(3):
        r = plain_relevance(*([x[name][k].detach() for name in parts.blocks] for x in (weights, gradients)))
        if parts.pooler is not None:
            bar = (gradients["pooler"][k] * weights["pooler"][k].detach()).clamp(min=0).mean(dim=0).numpy()
            r = bar @ r
        else:
            r = r - np.eye(len(r))
        row = r[0] if parts.pool == "tok" else r[1:].mean(axis=0)
        np.testing.assert_allclose(found.map[k].ravel(), row[1:], rtol=1e-3, atol=1e-7)


def test_depends_on_the_caption_and_flow_says_that_it_does_not(any_model, pixels, captions):
    found = relevance(any_model, pixels[:1], captions)
    assert found.map.shape == (3, 4, 4) and (found.map >= 0).all() and found.depends_on_text
    assert not np.allclose(found.map[0], found.map[1], rtol=0.01)


def test_does_not_depend_on_the_batch_or_the_form_of_the_text(any_model, pixels, captions):
    whole = relevance(any_model, pixels, captions)
    with torch.no_grad():
        embedded = any_model.encode_text(captions)
    for other in (
        relevance(any_model, pixels, captions, batch_size=2),
        relevance(any_model, pixels, embedded),
        relevance(any_model, pixels, any_model.tokenize(captions)),
        relevance(any_model, pixels, captions, image_of_text=[0, 1, 2]),
    ):
        np.testing.assert_allclose(other.map, whole.map, rtol=1e-3, atol=1e-7)


def test_finds_the_square_the_caption_names(finder):
    model, test = finder
    found = relevance(model, test.pixels, test.captions)
    assert found.score.min() > 0.8
    assert (found.map.reshape(len(found), -1).argmax(axis=1) == test.cells.numpy()).mean() > 0.9


def test_relevance_follows_the_word_among_two_squares(finder, squares, generator):
    """Two images with differently coloured squares in different cells, pasted together: the caption decides."""
    model, _ = finder
    hits = []
    while len(hits) < 16:
        pair = squares(2, generator)
        if pair.captions[0] == pair.captions[1] or pair.cells[0] == pair.cells[1]:
            continue
        top, left = 8 * (int(pair.cells[1]) // 4), 8 * (int(pair.cells[1]) % 4)
        both = pair.pixels[:1].clone()
        both[..., top : top + 8, left : left + 8] = pair.pixels[1:, :, top : top + 8, left : left + 8]
        maps = relevance(model, both, pair.captions).map.reshape(2, -1)
        hits += [
            maps[0, int(pair.cells[0])] > maps[0, int(pair.cells[1])],
            maps[1, int(pair.cells[1])] > maps[1, int(pair.cells[0])],
        ]
    assert np.mean(hits) > 0.8


def test_grad_cam_is_its_definition(any_model, pixels, captions):
    norm = any_model.image_attention().last_norm
    kept = []
    handle = norm.register_forward_hook(lambda module, inputs, out: kept.append(out))
    score = any_model.consistency(pixels.clone().requires_grad_(), captions)
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept)
    weights = gradient[:, 1:].mean(dim=1)
    cam = torch.einsum("nc,npc->np", weights, kept[0][:, 1:]).clamp(min=0)
    found = grad_cam(any_model, pixels, captions)
    np.testing.assert_allclose(found.map.reshape(3, -1), cam.detach(), atol=1e-6)
    np.testing.assert_allclose(found.checks["share_positive"], (cam > 0).float().mean(dim=1), atol=1e-6)


def test_words_and_tokens_line_up(any_model, pixels, captions):
    found = text_relevance(any_model, pixels, captions)
    assert found.words[0] == ("a", "red", "cube", ".")
    assert found.tokens[0] == ("<start>", "a", "red", "cube", ".", "<end>")
    assert found.words[1] == ("naïve", "<", "eos", ">", "zebra", "!")
    for tokens, values, words, merged in zip(found.tokens, found.token_values, found.words, found.values, strict=True):
        assert len(tokens) == len(values) and len(words) == len(merged)
        assert (values >= 0).all()
        assert merged.sum() <= values.sum() + 1e-6
    np.testing.assert_allclose(found.values[0], found.token_values[0][1:5])


def test_text_relevance_agrees_with_a_second_implementation(any_model, pixels, captions):
    parts = any_model.text_attention()
    ids = any_model.tokenize(captions)
    embedded = parts.tower.token_embedding(ids).detach().requires_grad_()
    with recorded_attention(parts.blocks) as weights:
        text = parts.forward(ids, embedded).embedding
        score = (text * any_model.encode_image(pixels).detach()).sum()
    gradients = torch.autograd.grad(score, list(weights.values()))
    eos = any_model.token_ids()[2]
    found = text_relevance(any_model, pixels, captions)
    for k in range(3):
        r = plain_relevance([w[k].detach() for w in weights.values()], [g[k] for g in gradients])
        r = r - np.eye(len(r))
        end = ids[k].tolist().index(eos)
        row = -1 if parts.tower.cls_emb is not None else end
        np.testing.assert_allclose(found.token_values[k], r[row, : end + 1], rtol=1e-3, atol=1e-7)


def test_depth_is_stated(any_model, pixels, captions):
    one = relevance(any_model, pixels, captions, depth=1)
    assert one.depth == 1 and "1 of 2" in one.notes[1]
    assert text_relevance(any_model, pixels, captions, depth=1).depth == 1
    with pytest.raises(DataError):
        relevance(any_model, pixels, captions, depth=5)


def test_bad_input_is_named(any_model, resnet, pixels, captions):
    with pytest.raises(DataError, match=r"3.*2"):
        relevance(any_model, pixels, captions[:2])
    with pytest.raises(DataError, match=r"3.*3.*3"):
        relevance(any_model, pixels, captions, image_of_text=[0, 1, 7])
    with pytest.raises(DataError):
        text_relevance(any_model, pixels, torch.ones(3, 16))
    with pytest.raises(ModelError, match="ModifiedResNet"):
        relevance(resnet, pixels, captions)
    with pytest.raises(ModelError, match="ModifiedResNet"):
        grad_cam(resnet, pixels, captions)
    assert len(text_relevance(resnet, pixels, captions)) == 3  # its text tower is a transformer
