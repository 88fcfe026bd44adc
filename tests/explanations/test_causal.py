"""Causal traces with known answers: whole inputs, no patch, a model that looks at one token, a linear model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cmai_core.errors import DataError, ModelError
from cmai_core.explanations.causal import Gap, answer_gap, token_sets, trace_pair, trace_pairs, trace_words
from cmai_core.explanations.causal.attribution import estimated
from cmai_core.explanations.causal.passes import Patching, Run
from cmai_core.explanations.causal.sets import random_sets
from cmai_core.models.streams import Stream
from cmai_core.tasks.base import Choices, ChoiceTask


def seeded():
    return torch.Generator().manual_seed(0)


def towards(direction):
    """A gap that is a linear function of the embedding."""

    def make(clean, attacked):
        def measure(features):
            return 50 * features.embedding @ direction

        values = [float(measure(f)) for f in (clean, attacked)]
        return Gap("right", "wrong", *values, True, 0.001, measure)

    return make


@pytest.fixture
def traced(any_model, pixels):
    """A trace of every kind of model between two unrelated pictures, along what tells them apart."""
    model = any_model
    direction = torch.diff(model.encode_image(pixels[:2]).detach().flip(0), dim=0)[0]
    return trace_pair(model, pixels[:1], pixels[1:2], towards(direction), generator=seeded())


def test_the_whole_input_brings_everything_back_and_nothing_brings_nothing(traced):
    for effects in (traced.denoising, traced.noising):
        np.testing.assert_allclose(effects.everything, 1, atol=1e-3)
        assert effects.tokens.shape == (traced.depth + 1, 17) and effects.heads.shape[0] == traced.depth
    assert traced.passes > 2 * traced.depth * 17 and traced.maps().shape == (traced.depth + 1, 4, 4)


def test_what_is_read_off_at_the_end_holds_everything_after_the_last_layer(traced):
    if traced.summary:
        assert traced.denoising.summary[-1] == pytest.approx(1, abs=1e-3)
        assert traced.denoising.patches[-1] == pytest.approx(0, abs=1e-3)
        assert traced.denoising.summary[0] == pytest.approx(0, abs=1e-3)  # the class token begins the same
        assert traced.entry is not None
    else:
        np.testing.assert_allclose(traced.denoising.patches, traced.denoising.everything)


def test_the_last_layers_parts_are_exact(any_model, pixels):
    """What a layer adds at all tokens, with the stream before it, is the stream after it."""
    runs = [Run.of(any_model.image_stream(pixels[k : k + 1])) for k in range(2)]
    patching = Patching(*runs, lambda features: features.embedding[:, 0])
    everything = torch.ones(1, 17, dtype=torch.bool)
    none = patching.denoised("residual", 1, ~everything)
    assert none[0] == pytest.approx(float(runs[1].features.embedding[0, 0]), abs=1e-6)
    all_heads = torch.ones(1, runs[0].stream.heads, dtype=torch.bool)
    for layer in range(runs[0].stream.depth):
        by_part = patching.denoised("attention", layer, everything)
        torch.testing.assert_close(patching.denoised("heads", layer, all_heads), by_part, atol=1e-6, rtol=1e-5)


class OneToken(nn.Module):
    """A layer that adds nothing: the stream goes through as it is."""

    def __init__(self, width=4):
        super().__init__()
        self.ln_1 = self.ln_2 = self.ls_1 = self.ls_2 = nn.Identity()
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        nn.init.zeros_(self.attn.out_proj.weight)
        nn.init.zeros_(self.attn.out_proj.bias)
        self.mlp = nn.Linear(width, width)
        nn.init.zeros_(self.mlp.weight)
        nn.init.zeros_(self.mlp.bias)


def toy(start, read):
    """A stream of two empty layers whose features are a function of the last states."""
    return Stream([OneToken().requires_grad_(False) for _ in range(2)], 2, start, read, None, ())


def test_an_answer_that_depends_on_one_token_is_traced_to_it():
    clean, attacked = torch.randn(2, 1, 6, 4, generator=seeded())
    runs = [Run.of(toy(x, lambda x: x[:, 3].square().sum(dim=-1))) for x in (clean, attacked)]
    patching = Patching(*runs, lambda m: m)
    one = torch.eye(6, dtype=torch.bool)
    for layer in range(3):
        found = patching.denoised("residual", layer, one)
        assert found[3] == pytest.approx(float(runs[0].features[0]), rel=1e-6)
        others = [k for k in range(6) if k != 3]
        torch.testing.assert_close(found[others], runs[1].features.double().expand(5), rtol=1e-6, atol=0)
    random = random_sets(1, torch.arange(6) != 3, seeded())
    assert (random.sum(dim=1) == 1).all() and not random[:, 3].any()
    torch.testing.assert_close(
        patching.noised("residual", 0, random), runs[0].features.double().expand(len(random)), rtol=1e-6, atol=0
    )


def test_attribution_equals_exact_patching_where_everything_is_linear():
    clean, attacked, weights = torch.randn(3, 1, 6, 4, generator=seeded())
    runs = [Run.of(toy(x, lambda x: (x * weights).sum(dim=(1, 2)))) for x in (clean, attacked)]
    patching = Patching(*runs, lambda m: m)
    estimate = estimated(patching)
    before = float(runs[1].features)
    for layer in range(3):
        exact = patching.denoised("residual", layer, torch.eye(6, dtype=torch.bool)) - before
        np.testing.assert_allclose(estimate[layer], exact, atol=1e-5)


def test_the_cell_of_the_square_carries_an_attack_on_it(finder):
    """Painting the square another colour is an attack that acts at one patch, which a trained model must show."""
    model, squares = finder
    other = squares.pixels.clone().roll(1, dims=1)  # the colours change places; the noise is of all channels alike
    cells = squares.cells
    texts = model.encode_text(["a red cube.", "a green cube.", "a blue cube."])
    hits, controls = [], []
    for k in range(6):
        top, left = 8 * (int(cells[k]) // 4), 8 * (int(cells[k]) % 4)
        attacked = squares.pixels[k : k + 1].clone()
        attacked[..., top : top + 8, left : left + 8] = other[k : k + 1, :, top : top + 8, left : left + 8]
        own = ["a red cube.", "a green cube.", "a blue cube."].index(squares.captions[k])
        where = np.zeros((4, 4), bool)
        where.flat[int(cells[k])] = True
        direction = texts[own] - texts[(own + 1) % 3]
        trace = trace_pair(
            model, squares.pixels[k : k + 1], attacked, towards(direction), generator=seeded(), sets={"square": where}
        )
        assert trace.maps()[0].argmax() == int(cells[k])
        hits.append(trace.denoising.sets["square"][0])
        controls.append(trace.denoising.random["square"][0])
    np.testing.assert_allclose(hits, 1, atol=1e-3)
    assert np.mean(controls) < 0.3


class TwoClasses(ChoiceTask):
    """Which of two directions a picture lies in."""

    name = "two"

    def __init__(self, directions):
        self.directions = directions

    def prepare(self, model, pairs, dataset=None):
        target = torch.tensor([[True, False]] * len(pairs))
        return Choices(("first", "second"), target, torch.ones(len(pairs), dtype=torch.bool), ("",) * len(pairs))

    def scores(self, model, features, prepared):
        return 100 * features.embedding @ self.directions.T


def test_many_pairs_count_what_was_not_fooled_and_give_intervals(coca, pixels):
    model = coca()
    embedded = model.encode_image(pixels)
    task = TwoClasses(embedded[:2])
    image = (pixels[0].permute(1, 2, 0) * 255).byte().numpy()
    pair = SimpleNamespace(image=image, captions=("a cube",), scene=None)
    shown = torch.cat([pixels[1:2], pixels[:1], pixels[1:2]])
    found = trace_pairs(model, task, [pair] * 3, shown, None, generator=seeded())
    assert found.pairs == 3 and found.held + found.small + found.traced == 3 and found.held >= 1
    if found.traced:
        curve = next(c for c in found.curves if c.state == "class token" and c.direction == "denoising")
        assert curve.layers[-1].value == pytest.approx(1, abs=1e-3) and curve.layers[-1].n == found.traced
    assert {"effect", "low", "high", "random"} <= set(found.rows()[0]) if found.traced else not found.rows()


def test_a_gap_that_is_too_small_is_refused(coca, pixels):
    model = coca()
    task = TwoClasses(model.encode_image(pixels)[:2])
    prepared = task.prepare(model, [None])
    features = model.image_features(pixels[:1])
    gap = answer_gap(model, task, prepared, features, features)
    assert gap.span == 0 and not gap.fooled and "at least" in gap.why_not
    with pytest.raises(DataError, match="at least"):
        trace_pair(model, pixels[:1], pixels[:1], lambda *_: gap, generator=seeded())


def test_an_edit_of_words_enters_at_its_own_token(any_model, pixels):
    sentences = ("a red cube.", "a blue cube.")
    scores = any_model.consistency(pixels[:1], list(sentences))
    texts = sentences if scores[0] > scores[1] else sentences[::-1]
    try:
        trace = trace_words(any_model, pixels[:1], *texts, generator=seeded())
    except DataError as error:
        assert "at least" in str(error) or "tokens" in str(error)  # an untrained model may not tell them apart
        return
    assert trace.denoising.sets["edited tokens"][0] == pytest.approx(1, abs=1e-3)
    assert trace.denoising.random["edited tokens"][0] < 0.9 and trace.grid is None


def test_towers_without_a_stream_and_texts_of_other_lengths_are_refused(resnet, coca, pixels):
    with pytest.raises(ModelError, match="not covered"):
        trace_pair(resnet, pixels[:1], pixels[1:2], towards(None), generator=seeded())
    with pytest.raises(DataError, match="tokens"):
        trace_words(coca(), pixels[:1], "a cube.", "a big red cube.", generator=seeded())


def test_patches_of_a_scene_are_those_of_its_objects():
    from cmai_core.data import load_dataset

    pair = load_dataset("tabletop", split="test", limit=24)[23]
    found = token_sets(pair, (8, 8), pair.captions[0])
    groups = found["named objects"] | found["background"] | found.get("other objects", np.zeros((8, 8), bool))
    assert groups.all() and found["background"].sum() > 32
    single = [chosen for name, chosen in found.items() if name[0].isdigit()]
    assert single and (np.stack(single).sum(axis=0) <= 1).all()


def test_a_model_is_left_as_it_was_found(coca, pixels):
    model = coca(patch_dropout=0.5)
    clip = model.clip.requires_grad_(True).train()
    direction = torch.ones(model.embed_dim)
    before = [set(m.__dict__) for m in clip.modules()], [m.training for m in clip.modules()]
    clean, attacked = pixels[:1], pixels[1:2]
    with torch.no_grad():
        scores = model.clip.eval() and (model.image_features(pixels[:2]).embedding @ direction)
    clip.train()
    if scores[0] < scores[1]:
        clean, attacked = attacked, clean
    trace_pair(model, clean, attacked, towards(direction), generator=seeded())
    assert ([set(m.__dict__) for m in clip.modules()], [m.training for m in clip.modules()]) == before
    assert all(p.requires_grad and p.grad is None for p in clip.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in clip.modules())
