"""Models in SigLIP's manner: texts begin without a start token, are padded with the end token, and padding is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from open_clip.model import CustomTextCLIP, set_model_preprocess_cfg

from cmai_core.attacks.text_attack import TextAttack
from cmai_core.attacks.text_searches.token_words import align, token_words
from cmai_core.attacks.text_searches.tokens import HotFlip, RelaxedPGD
from cmai_core.attacks.threats.text import TextThreat
from cmai_core.data.pair import Batch, Pair
from cmai_core.data.words import Words
from cmai_core.errors import DataError
from cmai_core.explanations import token_attribution
from cmai_core.models import OpenClipModel, load_model, save_local_dir
from cmai_core.models.texts import NO_TOKEN
from cmai_core.models.tokenizer_files import load_tokenizer

LANGUAGE = "a the red blue green cube ball cone ring and left of small large two cats"
WORDS = LANGUAGE.split()
TEXTS = ["a red cube and the ball", "two cats left of a cone", "ring"]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A small model as `ViT-B-16-SigLIP` is made, with a small T5 vocabulary: `▁word` pieces and letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("vocabulary")
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS), "▁", *letters, "▁beyond"]
    scores = [0.0] * 3 + [-2.0 - 0.01 * k for k in range(len(WORDS))] + [-6.0] + [-8.0] * (len(letters) + 1)
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "</s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    text = {
        **{"context_length": 16, "vocab_size": len(pieces) - 1, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"},
        **{"tokenizer_kwargs": {"clean": "canonicalize"}, "width": 16, "heads": 2, "layers": 2},
        **{"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    }
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
    model_cfg = {"embed_dim": 16, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"size": [32, 32], "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        clip = CustomTextCLIP(16, vision, text, init_logit_bias=-10)
        for parameter in clip.text.parameters():  # positions and pads should matter
            parameter.data.add_(0.2 * torch.randn(parameter.shape))
    set_model_preprocess_cfg(clip, preprocess)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    model = OpenClipModel(clip.eval(), load_tokenizer(text, "vocabulary", folder), spec="siglip", config=config)
    return load_model(f"local-dir:{save_local_dir(model, tmp_path_factory.mktemp('m') / 'siglip')}", "cpu")


def batch(model):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (len(TEXTS), 3, 32, 32), generator=generator) / 255
    ids = tuple(f"pair/{k}" for k in range(len(TEXTS)))
    pairs = tuple(Pair(i, np.zeros((32, 32, 3), np.uint8), (text,)) for i, text in zip(ids, TEXTS, strict=True))
    return Batch(ids, pixels, tuple(TEXTS), tuple(range(len(TEXTS))), pairs)


def test_its_tokens(siglip):
    pad, bos, eos = siglip.token_ids()
    assert (pad, bos, eos) == (1, NO_TOKEN, 1)
    ids = siglip.tokenize(TEXTS)
    assert ids[2].tolist() == [3 + WORDS.index("ring"), *[1] * 15]
    assert siglip.detokenize(ids[0].tolist()) == TEXTS[0]
    assert {word for _, word in token_words(siglip)} == set(WORDS)


def test_a_shorter_text_is_the_same_as_a_padded_one_and_both_are_open_clips(siglip):
    ids = siglip.tokenize(TEXTS)
    with torch.no_grad():
        theirs = siglip.clip.encode_text(ids)
        whole, short = siglip.text_features(ids), siglip.text_features(siglip.trim(ids))
        soft = torch.nn.functional.one_hot(siglip.trim(ids), siglip.vocabulary_size).float()
        relaxed = siglip.text_features(soft)
    assert siglip.trim(ids).shape[1] < ids.shape[1]
    for found in (whole, short, relaxed):
        torch.testing.assert_close(found.pooled, theirs, atol=1e-5, rtol=1e-4)


def test_each_word_is_found_where_its_token_stands(siglip):
    ids, positions = align(siglip, TEXTS)
    for text, row, places in zip(TEXTS, ids.tolist(), positions, strict=True):
        words = Words.split(text)
        assert [siglip.detokenize([row[at]]) for at in places] == list(words.words)
        for index, at in enumerate(places):
            other = siglip.tokenize([str(words.spell(index, "blue"))])[0].tolist()
            assert [k for k, (a, b) in enumerate(zip(row, other, strict=True)) if a != b] == [at]


@pytest.mark.parametrize(
    "search",
    [HotFlip(words=tuple(WORDS)), RelaxedPGD(words=tuple(WORDS), steps=4, choices=8, random_start=True)],
    ids=["hotflip", "relaxed"],
)
def test_searches_over_tokens_work(siglip, search):
    threat = TextThreat(words=1, keep_case=True, truth="none")
    result = TextAttack(threat=threat, search=search)(siglip, batch(siglip), seed=3)
    assert bool((result.objective >= result.clean_objective - 1e-6).all())
    assert max(result.words_changed) == 1 and bool((result.objective > result.clean_objective).any())
    with torch.no_grad():
        scores = siglip.consistency(batch(siglip).pixels, list(result.texts))
    torch.testing.assert_close(-scores, result.objective.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("baseline", ["pad", "zero", "mean"])
def test_attributions_to_tokens(siglip, baseline):
    pixels = batch(siglip).pixels
    found = token_attribution(siglip, pixels, TEXTS, baseline=baseline, n_steps=40)
    assert found.words == tuple(tuple(text.split()) for text in TEXTS)
    for text, tokens, values in zip(TEXTS, found.tokens, found.token_values, strict=True):
        assert tokens == (*text.split(), "<end>") and values[-1] == 0 and np.abs(values[:-1]).max() > 0
    assert found.checks["completeness_error"].max() < 0.1
    if baseline == "pad":
        with torch.no_grad():
            empty = siglip.consistency(pixels, [""] * len(TEXTS))
        # All words replaced by the padding that an empty text consists of.
        np.testing.assert_allclose(found.checks["baseline_score"], empty, atol=1e-4)


def test_a_token_that_the_model_has_no_embedding_of_is_named(siglip):
    with pytest.raises(DataError, match="a ball beyond"):
        siglip.encode_text(["a ball", "a ball beyond"])
