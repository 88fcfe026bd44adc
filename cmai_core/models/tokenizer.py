"""The vocabulary of the bundled models: 1,024 byte-level tokens, every word of Tabletop one of them.

A text is normalised (NFKC, lower case), split at white space and around punctuation, and each piece gets a leading
space, so that a word is the same token wherever it stands ("a cube", "(cube)", "cube,"). A piece that is in the
vocabulary is one token (`ignore_merges` of Hugging Face's BPE); any other is put together from merges (byte pair
encoding: Sennrich et al. 2016, arXiv 1508.07909; on bytes: Radford et al. 2019). All 256 bytes are present, so nothing
is ever unknown. Ids: 0 `<pad>`, 1 `<bos>`, 2 `<eos>`, 3–258 the bytes, then whole words, then merges.

The literal strings "<pad>", "<bos>" and "<eos>" in a text are ordinary text and never become special tokens
(`split_special_tokens`), so that a caption cannot be cut short by what it says.

`python -m cmai_core.models.tokenizer` rebuilds the files under `assets/models/_tokenizer`, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.errors import ModelError
from cmai_core.files import write_text
from cmai_core.models.integrity import record
from cmai_core.paths import assets_dir

if TYPE_CHECKING:
    import torch

VOCABULARY_SIZE = 1024
CONTEXT_LENGTH = 48
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>")
PUNCTUATION = ("?", ".", ",", "!", "'", "-", ":", ";", '"', "(", ")")
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

_HERE = Path(__file__).resolve().parent


def bundled_tokenizer_dir() -> Path:
    """Return the folder of the bundled models' vocabulary."""
    return assets_dir() / "models" / "_tokenizer"


def ids_of(tokenizer: Any, texts: list[str], context_length: int) -> torch.Tensor:
    """Return token ids of an open_clip tokenizer, int64 T×context_length.

    As `tokenizer(texts, context_length=context_length)`; Hugging Face's are padded here, which takes half the time.
    """
    import torch
    from open_clip.tokenizer import HFTokenizer

    inner = getattr(tokenizer, "tokenizer", None)
    usual = type(tokenizer) is HFTokenizer and not tokenizer.tokenizer_mode and not tokenizer.strip_sep_token
    if not usual or inner.padding_side != "right" or inner.pad_token_id is None:
        return tokenizer(texts, context_length=context_length)
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    rows = inner(cleaned, max_length=context_length, truncation=True, return_attention_mask=False)["input_ids"]
    pad = inner.pad_token_id
    return torch.tensor([row + [pad] * (context_length - len(row)) for row in rows], dtype=torch.int64)


def word_list(name: str) -> list[str]:
    """Read the words of a text asset of this package ("tabletop" or "common"), in order, each once."""
    lines = (_HERE / f"words_{name}.txt").read_text(encoding="utf-8").splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    return list(dict.fromkeys(words))


def _pipeline(model):
    """Make a `tokenizers.Tokenizer` around `model` with this vocabulary's normaliser, splitter and decoder."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    closing = [decoders.Replace(f" {mark}", mark) for mark in "?.,!:;)"]
    joining = [decoders.Replace(" ' ", "'"), decoders.Replace(" - ", "-"), decoders.Replace("( ", "(")]
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), *closing, *joining, decoders.Strip(" ", 1, 0)])
    return tokenizer


def _pieces(word: str) -> list[str]:
    from tokenizers import models

    pipeline = _pipeline(models.BPE())
    text = pipeline.normalizer.normalize_str(word)
    return [piece for piece, _ in pipeline.pre_tokenizer.pre_tokenize_str(text)]


def build_tokenizer(corpus: Iterable[str], path: str | Path, required_words: Sequence[str] = ()) -> Path:
    """Build the vocabulary and save it in Hugging Face's form.

    Args:
        corpus: texts from which the merges are learned.
        path: folder to write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into.
        required_words: words and marks that must be one token each.

    Returns:
        The folder.

    Raises:
        ModelError: a required word is not one piece, they do not fit, or the corpus gives too few merges.
    """
    vocabulary = _whole_tokens(required_words)
    merges = _learn_merges(corpus, vocabulary)
    pad, bos, eos = SPECIAL_TOKENS
    special = {"pad_token": pad, "bos_token": bos, "eos_token": eos}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_LENGTH,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    contents = (_serialised(vocabulary, merges), json.dumps(config, indent=2), json.dumps(special, indent=2))
    for name, text in zip(FILES, contents, strict=True):
        write_text(path / name, text + "\n")
    return path


def _alphabet() -> list[str]:
    """Return the characters that stand for the 256 bytes."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _whole_tokens(required_words: Sequence[str]) -> dict[str, int]:
    """Return token → id of the special tokens, the bytes and the required words."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *_alphabet()))}
    for word in required_words:
        pieces = _pieces(word)
        if len(pieces) != 1:
            raise ModelError(f"The required word {word!r} is split into {len(pieces)} pieces.", "Give single words.")
        vocabulary.setdefault(pieces[0], len(vocabulary))
    if len(vocabulary) > VOCABULARY_SIZE:
        raise ModelError(
            f"{len(required_words)} required words make {len(vocabulary)} tokens, {VOCABULARY_SIZE} fit.",
            "Shorten the word lists.",
        )
    return vocabulary


def _learn_merges(corpus: Iterable[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Learn merges from texts and fill the vocabulary with their tokens, until it is full."""
    from tokenizers import models, trainers

    learner = _pipeline(models.BPE())
    learner.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=4 * VOCABULARY_SIZE, initial_alphabet=_alphabet(), show_progress=False),
    )
    merges = []
    for left, right in json.loads(learner.to_str())["model"]["merges"]:
        if left + right not in vocabulary:
            if len(vocabulary) == VOCABULARY_SIZE:
                break
            vocabulary[left + right] = len(vocabulary)
        merges.append((left, right))
    if len(vocabulary) < VOCABULARY_SIZE:
        raise ModelError(f"The corpus yields only {len(vocabulary)} of {VOCABULARY_SIZE} tokens.", "Give more text.")
    return merges


def _serialised(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> str:
    """Return the contents of tokenizer.json."""
    from tokenizers import AddedToken, models, processors

    tokenizer = _pipeline(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    _, bos, eos = SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, BOS_ID), (eos, EOS_ID)]
    )
    return tokenizer.to_str(pretty=False)


def build_bundled_tokenizer(path: str | Path | None = None) -> Path:
    """Rebuild the bundled vocabulary (default: in place) from this package's two word lists."""
    words = list(dict.fromkeys([*word_list("tabletop"), *PUNCTUATION, *word_list("common")]))
    if path is not None:
        return build_tokenizer(words, path, words)
    folder = build_tokenizer(words, bundled_tokenizer_dir(), words)
    record(folder)
    return folder


if __name__ == "__main__":
    print(f"Vocabulary of {VOCABULARY_SIZE} tokens written to {build_bundled_tokenizer()}")
