"""Written-out attention equals the untouched model, and everything is put back."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from cmai_core import explanations as explain
from cmai_core.errors import ModelError
from cmai_core.explanations.recording import recording_mode
from cmai_core.models.recording import explicit_attention, recorded_attention, recorded_output

MASKS = {
    "none": lambda n, h, q, k: None,
    "causal": lambda n, h, q, k: torch.full((q, k), float("-inf")).triu(1),
    "boolean": lambda n, h, q, k: torch.ones(q, k, dtype=torch.bool).triu(1),
    "per head": lambda n, h, q, k: torch.randn(n * h, q, k, generator=torch.Generator().manual_seed(4)),
}


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("widths", [(24, 24), (24, 10)], ids=["self", "other keys"])
@pytest.mark.parametrize("bias", [True, False])
def test_explicit_attention_is_the_modules_own(mask, batch_first, widths, bias, generator):
    width, other = widths
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = nn.MultiheadAttention(width, 4, kdim=other, vdim=other, batch_first=batch_first, bias=bias)
    query = torch.randn(2, 7, width, generator=generator)
    key = torch.randn(2, 9, other, generator=generator)
    value = torch.randn(2, 9, other, generator=generator)
    attn_mask = MASKS[mask](2, 4, 7, 9)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 6:] = True
    if not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    expected, expected_weights = module(
        query, key, value, attn_mask=attn_mask, average_attn_weights=False, key_padding_mask=_like(padding, attn_mask)
    )
    out, weights = explicit_attention(module, query, key, value, attn_mask, padding)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=1e-6, rtol=0)


def _like(padding, mask):
    """PyTorch wants both masks of one type."""
    if mask is None or mask.dtype == torch.bool:
        return padding
    return torch.zeros(padding.shape).masked_fill(padding, float("-inf"))


def test_towers_give_the_same_with_their_attention_recorded(any_model, pixels, captions):
    parts, text = any_model.image_attention(), any_model.text_attention()
    with torch.no_grad():
        image, words = any_model.encode_image(pixels), any_model.encode_text(captions)
        with recorded_attention(parts.modules) as weights:
            torch.testing.assert_close(any_model.encode_image(pixels), image, atol=1e-6, rtol=0)
        with recorded_attention(text.blocks) as text_weights:
            torch.testing.assert_close(any_model.encode_text(captions), words, atol=1e-6, rtol=0)
    assert set(weights) == set(parts.modules) and set(text_weights) == set(text.blocks)
    for found in [*weights.values(), *text_weights.values()]:
        torch.testing.assert_close(found.sum(dim=-1), torch.ones(found.shape[:-1]))
    assert torch.equal(any_model.encode_image(pixels), any_model.encode_image(pixels))


def test_the_decoder_gives_the_same_with_its_attention_recorded(any_coca, pixels, captions):
    ids = any_coca.trim(any_coca.tokenize(captions))
    with torch.no_grad():
        tokens = any_coca.image_features(pixels).tokens
        expected = any_coca.fusion_logits(tokens, ids)
        with recorded_attention(any_coca.decoder_attention()) as weights:
            torch.testing.assert_close(any_coca.fusion_logits(tokens, ids), expected, atol=1e-6, rtol=1e-6)
    assert weights["layer 0"].shape == (3, 4, ids.shape[1], tokens.shape[1])


def test_the_text_tower_from_embeddings_is_the_wrappers_own(any_model, captions):
    parts = any_model.text_attention()
    ids = any_model.tokenize(captions)
    with torch.no_grad():
        ours = parts.forward(ids, parts.tower.token_embedding(ids)).embedding
    torch.testing.assert_close(ours, any_model.encode_text(captions), atol=1e-6, rtol=0)


def test_weights_are_part_of_the_graph(any_model, pixels):
    with recorded_attention(any_model.image_attention().modules) as weights:
        out = any_model.encode_image(pixels.requires_grad_())
    gradients = torch.autograd.grad(out[:, 0].sum(), list(weights.values()))
    assert all(g.abs().sum() > 0 for g in gradients)


def test_forward_is_restored_after_an_error_too(any_model):
    modules = any_model.image_attention().modules
    with pytest.raises(RuntimeError, match="on purpose"), recorded_attention(modules):
        assert all("forward" in module.__dict__ for module in modules.values())
        raise RuntimeError("on purpose")
    assert not any("forward" in module.__dict__ for module in modules.values())


def test_a_replacement_made_by_others_comes_back():
    module = nn.MultiheadAttention(8, 2, batch_first=True)
    own = module.forward = lambda *a, **k: "own"
    with recorded_attention({"it": module}):
        assert module.forward is not own
    assert module.forward is own


def test_other_threads_are_neither_recorded_nor_disturbed(any_model, pixels):
    """A second thread uses the model within the recording of the first; its batch of one must not be seen."""
    with torch.no_grad():
        expected = any_model.encode_image(pixels[:1])
        found = {}

        def other():
            with torch.no_grad():
                found["embedding"] = any_model.encode_image(pixels[:1])

        with recorded_attention(any_model.image_attention().modules) as weights:
            any_model.encode_image(pixels)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
    torch.testing.assert_close(found["embedding"], expected, atol=0, rtol=0)
    assert all(len(w) == 3 for w in weights.values())


def test_many_threads_explain_one_model_at_once(any_model, pixels, captions):
    with torch.no_grad():
        expected = [explain.relevance(any_model, pixels[k : k + 1], captions[k : k + 1]).map for k in range(3)]
    found = [None] * 12

    def work(k):
        found[k] = explain.relevance(any_model, pixels[k % 3 : k % 3 + 1], captions[k % 3 : k % 3 + 1]).map

    threads = [threading.Thread(target=work, args=(k,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[k] == expected[k % 3]).all() for k in range(12))


def test_an_output_without_graph_becomes_the_graphs_beginning():
    layer = nn.Linear(3, 3).requires_grad_(False)
    with recorded_output(layer) as kept:
        out = layer(torch.ones(1, 3)) * 2
    assert torch.autograd.grad(out.sum(), kept)[0].tolist() == [[2, 2, 2]]
    assert "forward" not in layer.__dict__


def test_evaluation_restores_every_submodules_mode():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    net[1].train(False)
    net[1][0].train(True)
    net[1].grad_checkpointing = True
    before = [m.training for m in net.modules()]
    with pytest.raises(KeyError), recording_mode(net):
        assert not any(m.training for m in net.modules())
        assert net[1].grad_checkpointing is False
        raise KeyError
    assert [m.training for m in net.modules()] == before
    assert net[1].grad_checkpointing is True


def test_extra_keys_are_refused():
    module = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    with pytest.raises(ModelError, match=r"\bit\b"), recorded_attention({"it": module}):
        pass


METHODS = {
    "attention flow": lambda m, x, t: explain.attention_flow(m, x),
    "last-layer attention": lambda m, x, t: explain.last_layer_attention(m, x),
    "relevance": explain.relevance,
    "text relevance": explain.text_relevance,
    "grad-cam": explain.grad_cam,
    "pixel attribution": explain.pixel_attribution,
    "token attribution": explain.token_attribution,
    "decoder attention": explain.decoder_attention,
    "randomisation": lambda m, x, t: explain.cascading_randomisation(
        explain.relevance, m, x, t, generator=torch.Generator().manual_seed(0)
    ),
    "sensitivity": lambda m, x, t: explain.max_sensitivity(
        explain.relevance, m, x, t, generator=torch.Generator().manual_seed(0), samples=2
    ),
}


@pytest.mark.parametrize("method", list(METHODS))
def test_a_model_in_training_is_left_as_found(method, coca, pixels, captions):
    """Trainable parameters, some frozen, gradients of an earlier step, training mode, dropout, checkpointing."""
    model = coca(patch_dropout=0.5)
    clip = model.clip.requires_grad_(True).train()
    clip.text.ln_final.eval().requires_grad_(False)
    clip.set_grad_checkpointing(True)
    for k, parameter in enumerate(clip.parameters()):
        parameter.grad = torch.full_like(parameter, float(k))
    state = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    identity = model.hash
    modes = [m.training for m in clip.modules()]
    attributes = [set(m.__dict__) for m in clip.modules()]
    flags = [p.requires_grad for p in clip.parameters()]
    versions = [p._version for p in clip.parameters()]
    random_state = torch.get_rng_state()

    METHODS[method](model, pixels, captions)

    assert [m.training for m in clip.modules()] == modes
    assert [set(m.__dict__) for m in clip.modules()] == attributes
    assert [p.requires_grad for p in clip.parameters()] == flags
    assert [p._version for p in clip.parameters()] == versions
    assert all((p.grad == k).all() for k, p in enumerate(clip.parameters()))
    assert all(torch.equal(tensor, state[name]) for name, tensor in clip.state_dict().items())
    assert model.hash == identity
    assert clip.visual.transformer.grad_checkpointing is True
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in clip.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not pixels.requires_grad and pixels.grad is None


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("randomisation", "sensitivity")])
def test_frozen_and_trainable_models_are_explained_alike(method, any_coca, pixels, captions):
    """The parameters' flags must not matter, nor a surrounding no_grad."""
    first = METHODS[method](any_coca, pixels, captions)
    try:
        any_coca.clip.requires_grad_(True)
        with torch.no_grad():
            second = METHODS[method](any_coca, pixels, captions)
    finally:
        any_coca.clip.requires_grad_(False)
    name = "map" if hasattr(first, "map") else "values" if hasattr(first, "values") else "maps"
    for a, b in zip(getattr(first, name), getattr(second, name), strict=True):
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), atol=1e-6, rtol=1e-4)
