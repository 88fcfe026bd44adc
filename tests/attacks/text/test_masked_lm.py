"""Substitutes from masked language models: Hugging Face's, Tabletop's own, and the published error."""

from __future__ import annotations

import contextlib
import json
import math
import random

import pytest
import torch

from cmai_core.attacks.text_searches.lexicon import Lexicon
from cmai_core.attacks.text_searches.masked_lm import (
    HuggingFaceMaskedLM,
    MaskedLMProposer,
    TabletopMaskedLM,
    load_masked_lm,
    save_masked_lm,
)
from cmai_core.data.words import Words
from cmai_core.errors import ModelError, OptionError
from cmai_core.training.masked_lm import mask_tokens, train_masked_lm

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cube", "##s", "ball", "big", "green", "left"]


def propose(proposer, text, words=None):
    return proposer.propose([text], [words], [random.Random(0)])[0]


class Marks:
    """A masked LM that predicts, at position p, word number p first, then the next: positions can be told apart."""

    name = "marks"
    known = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot")

    def __init__(self):
        self.seen = []

    def scores(self, texts, masked):
        self.seen += list(zip(texts, masked, strict=True))
        counts = [len(Words.split(text)) for text in texts]
        logits = torch.zeros(len(texts), 1 + max(counts), len(self.known))
        for p in range(logits.shape[1]):
            for k in range(len(self.known)):
                logits[:, p, (p + k) % len(self.known)] = float(len(self.known) - k)
        return logits, [[(i + 1, i + 2) for i in range(count)] for count in counts]

    def words(self):
        return tuple(enumerate(self.known))


def test_the_published_spans_are_one_token_early():
    """Word i is token i + 1, behind the start token; published code takes token i."""
    for mode, first in (("corrected", ["bravo", "charlie", "delta"]), ("as_published", ["alpha", "bravo", "charlie"])):
        proposer = MaskedLMProposer(model=Marks(), top=1, mode=mode, lexicon=None)
        found = propose(proposer, "one two three")
        assert [Words.split(c.text).words[c.word] for c in found] == first
        assert [c.word for c in found] == [0, 1, 2]


def test_options_of_the_proposer():
    model = Marks()
    found = propose(MaskedLMProposer(model=model, top=2, lexicon=None), "Bravo two", [0])
    assert [c.text for c in found] == ["Charlie two", "Delta two"]  # not itself, and its case kept
    assert propose(MaskedLMProposer(model=model, top=5, least=5.5, lexicon=None), "one")[0].text == "bravo"
    assert len(propose(MaskedLMProposer(model=model, top=5, least=5.5, lexicon=None), "one")) == 1
    opposite = Lexicon((), [["one", "bravo"]])
    assert propose(MaskedLMProposer(model=model, top=1, lexicon=opposite), "one")[0].text == "charlie"
    model.seen.clear()
    propose(MaskedLMProposer(model=model, masked=True), "one two")
    assert model.seen == [("one two", 0), ("one two", 1)]
    assert propose(MaskedLMProposer(model=model), "") == []
    for options in ({"top": 0}, {"mode": "published"}, {"masked": 1}, {"least": float("nan")}, {"k": 3}):
        with pytest.raises(OptionError):
            MaskedLMProposer(**options)


@pytest.fixture(scope="module")
def bert():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.WordPiece({t: k for k, t in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **{f"{k}_token": v for k, v in special.items()})
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForMaskedLM(config)
    return model, tokenizer


def test_bert_spans_words_and_predictions(bert):
    model, tokenizer = bert
    masked = HuggingFaceMaskedLM(model, tokenizer)
    assert [w for _, w in masked.words()] == ["a", "red", "cube", "ball", "big", "green", "left"]
    texts = ["a red cubes", "big ball"]
    logits, spans = masked.scores(texts, [None, 1])
    assert spans == [[(1, 2), (2, 3), (3, 5)], [(1, 2), (2, 3)]]
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 10, 4, 3, 0, 0]])  # the second text's word 1 is masked
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    assert torch.allclose(logits, expected, atol=1e-6)


def test_bert_substitutes_in_both_modes_and_no_pieces(bert):
    model, tokenizer = bert
    masked = HuggingFaceMaskedLM(model, tokenizer)
    text, whole = "a red cubes", [5, 6, 7, 9, 10, 11, 12]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[2, 5, 6, 7, 8, 3]])).logits[0]
    for mode, shift in (("corrected", 1), ("as_published", 0)):
        found = propose(MaskedLMProposer(model=masked, top=3, mode=mode, lexicon=None), text)
        assert {c.word for c in found} == {0, 1}  # "cubes" is two tokens
        for word, own in ((0, 5), (1, 6)):
            order = [whole[k] for k in logits[word + shift, whole].argsort(descending=True).tolist()]
            expected = [VOCABULARY[t] for t in order if t != own][:3]
            assert [Words.split(c.text).words[word] for c in found if c.word == word] == expected


def test_a_masked_lm_that_is_not_here_says_what_to_do(bert, tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        HuggingFaceMaskedLM(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="is_fast"):
        HuggingFaceMaskedLM(bert[0])
    with pytest.raises(ModelError, match="cmai masked-lm"):
        load_masked_lm(tmp_path)


def test_tabletop_masked_lm_round_trip_and_size(tmp_path):
    model = TabletopMaskedLM()
    model.initialise(torch.Generator().manual_seed(0))
    save_masked_lm(model, tmp_path, {"steps": 0})
    assert (tmp_path / "model.safetensors").stat().st_size < 1_500_000
    loaded = load_masked_lm(tmp_path)
    texts = ["A small red cube.", "rings"]
    logits, spans = loaded.scores(texts, [None, None])
    assert spans == [[(1, 2), (2, 3), (3, 4), (4, 5)], [(1, 2)]] and logits.shape[0] == 2
    model.half().float()
    assert torch.allclose(model.eval().scores(texts, [None, None])[0], logits, atol=1e-5)
    alone, _ = loaded.scores(texts[1:], [None])
    assert torch.allclose(alone[0, :3], logits[1, :3], atol=1e-5)  # padding is not seen
    hidden, _ = loaded.scores(texts, [3, None])
    assert not torch.allclose(hidden[0], logits[0]) and torch.allclose(hidden[1], logits[1], atol=1e-6)
    found = propose(MaskedLMProposer(model=loaded, top=4), texts[0])
    assert found and all(Words.split(c.text).gaps == Words.split(texts[0]).gaps for c in found)


def test_masking_is_berts():
    ids = torch.randint(3, 1024, (400, 48), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, 30:] = 1, 0
    corrupted, asked = mask_tokens(ids, 1024, 1024, torch.Generator().manual_seed(1))
    assert not asked[:, 0].any() and not asked[:, 30:].any() and torch.equal(corrupted[~asked], ids[~asked])
    share = asked[:, 1:30].float().mean()
    hidden = (corrupted[asked] == 1024).float().mean()
    same = (corrupted[asked] == ids[asked]).float().mean()
    assert abs(share - 0.15) < 0.01 and abs(hidden - 0.8) < 0.03 and abs(same - 0.1) < 0.03


def test_training_learns_and_can_be_repeated(monkeypatch):
    captions = [f"a {c} {s} on the table" for c in ("red", "blue") for s in ("cube", "ball", "ring")] * 8
    monkeypatch.setattr(
        "cmai_core.training.masked_lm.caption_ids",
        lambda scenes, seed: TabletopMaskedLM().tokenize(captions),
    )
    seen = []
    options = {"batch_size": 8, "scenes": 1, "learning_rate": 5e-3}
    _, report = train_masked_lm(steps=8, progress=lambda p: seen.append(p.data["loss"]), **options)
    assert report["held_out_loss"] < math.log(1024) - 1 and len(seen) == 2
    assert train_masked_lm(steps=2, **options)[1] == train_masked_lm(steps=2, **options)[1]


def test_code_beside_a_masked_lm_is_not_run(bert, tmp_path, monkeypatch):
    model, tokenizer = bert
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    assert HuggingFaceMaskedLM(tmp_path).scores(["a red cube"], [None])[0].shape[0] == 1
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name, code in (
        ("tokenizer_config.json", {"AutoTokenizer": [None, "evil.Evil"]}),
        ("config.json", {"AutoConfig": "evil.Evil", "AutoModelForMaskedLM": "evil.Evil"}),
    ):
        settings = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(settings | {"auto_map": code, "tokenizer_class": "Evil"}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    with contextlib.suppress(ModelError):  # refused, or Hugging Face's own classes are taken instead
        HuggingFaceMaskedLM(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_masked_lm_is_found(tmp_path):
    import shutil

    from cmai_core.attacks.text_searches import masked_lm
    from cmai_core.models.integrity import verify

    assert set(verify(masked_lm.folder())) == {"config.json", "model.safetensors"}
    load_masked_lm.cache_clear()
    copy = tmp_path / "masked_lm"
    shutil.copytree(masked_lm.folder(), copy)
    shutil.copy(masked_lm.folder().parent / "hashes.json", tmp_path)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ModelError, match="masked_lm is damaged"):
        patch.setattr(masked_lm, "folder", lambda: copy)
        load_masked_lm()
