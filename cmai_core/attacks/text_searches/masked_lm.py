"""Substitutes from a masked language model (BERT-Attack, Li et al. 2020), and the small one that belongs to Tabletop.

`MaskedLMProposer` works with any backend: `HuggingFaceMaskedLM` for whatever masked LM is on this machine, and
`TabletopMaskedLM`, a two-layer bidirectional transformer on the bundled vocabulary, trained on Tabletop's captions by

    cmai masked-lm

`mode="as_published"` repeats an error of the code published with Co-Attack and SGA, which most later work shares: the
spans of words are counted without the start token, so that the substitutes for a word are the predictions for the token
before it. "corrected" is the default; published numbers were made with the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from cmai_core.attacks.text_searches.lexicon import Lexicon, bundled_lexicon
from cmai_core.attacks.text_searches.proposers import Candidate
from cmai_core.attacks.text_searches.token_words import align, token_words
from cmai_core.data.words import Words
from cmai_core.errors import ModelError
from cmai_core.files import write_text
from cmai_core.models.building import refuse_non_finite
from cmai_core.models.integrity import verify
from cmai_core.options import flag, number, one_of, strict_options, whole

MODES = ("corrected", "as_published")
Span = tuple[int, int]


class MaskedLM(Protocol):
    """What a proposer needs of a masked language model."""

    name: str

    def scores(self, texts: Sequence[str], masked: Sequence[int | None]) -> tuple[torch.Tensor, list[list[Span]]]:
        """Return logits T×L×V, and for each text the span (start, end) of each word's tokens, the start token counted.

        `masked`: for each text the word to hide behind the mask token, or None.
        """
        ...

    def words(self) -> tuple[tuple[int, str], ...]:
        """Return (id, word) of the tokens that are whole words; sub-words and special tokens are not among them."""
        ...


@strict_options
@dataclass(frozen=True, kw_only=True)
class MaskedLMProposer:
    """For each word, the words that a masked LM thinks likeliest in its place.

    Only words of a single token are replaced (the paper's search over combinations of sub-words is left out), and only
    by whole words; opposites and members of one family (`Lexicon.excludes`) are left out where a lexicon is given.

    Attributes:
        model: the masked LM; None: Tabletop's own. top: substitutes for a word (the paper's K; SGA uses 10).
        mode: "corrected" or "as_published" (see the module's docstring).
        masked: hide the word behind the mask token; the paper leaves it in, so that substitutes stay near it.
        least: logits below this are no substitutes (0.3 in Co-Attack's and SGA's code); None: no bound.
        lexicon: None: antonyms are not filtered, as published.
    """

    model: MaskedLM | None = None
    top: int = 10
    mode: str = "corrected"
    masked: bool = False
    least: float | None = None
    lexicon: Lexicon | None = field(default_factory=bundled_lexicon)

    def __post_init__(self) -> None:
        whole("top", self.top, 1)
        one_of("mode", self.mode, MODES)
        flag("masked", self.masked)
        if self.least is not None:
            number("least", abs(self.least), 0.0)

    def describe(self) -> str:
        name = "tabletop" if self.model is None else self.model.name
        return f"masked LM {name}, top {self.top}, {self.mode}" + (", masked" if self.masked else "")

    def propose(
        self, texts: Sequence[str], words: Sequence[Sequence[int] | None], randoms: Sequence[random.Random]
    ) -> list[list[Candidate]]:
        model = self.model or load_masked_lm()
        split = [Words.split(text) for text in texts]
        wanted = [
            list(range(len(s))) if w is None else [i for i in w if i < len(s)]
            for s, w in zip(split, words, strict=True)
        ]
        jobs = [
            (k, i if self.masked else None)
            for k, own in enumerate(wanted)
            for i in (own if self.masked else [0])
            if own
        ]
        ids, names = zip(*model.words(), strict=True)
        columns = torch.tensor(ids)
        out: list[list[Candidate]] = [[] for _ in texts]
        for start in range(0, len(jobs), 128):
            part = jobs[start : start + 128]
            logits, spans = model.scores([texts[k] for k, _ in part], [hidden for _, hidden in part])
            chosen = logits[:, :, columns.to(logits.device)]
            best = chosen.topk(min(8 * self.top, len(names)), dim=-1)
            values, places = best.values.cpu(), best.indices.cpu()
            for row, (k, hidden) in enumerate(part):
                for i in wanted[k] if hidden is None else [hidden]:
                    first, end = spans[row][i]
                    at = first - 1 if self.mode == "as_published" else first
                    if end - first == 1 and 0 <= at < logits.shape[1]:
                        likely = [
                            (names[p], v)
                            for p, v in zip(places[row, at].tolist(), values[row, at].tolist(), strict=True)
                        ]
                        out[k] += self._candidates(split[k], i, likely)
        return out

    def _candidates(self, text: Words, index: int, likely: list[tuple[str, float]]) -> list[Candidate]:
        old, found = text.words[index].lower(), []
        for word, score in likely:
            if self.least is not None and score < self.least:
                break
            if word.lower() == old or (self.lexicon is not None and self.lexicon.excludes(old, word)):
                continue
            found.append(Candidate(str(text.replace(index, word)), index, "masked LM"))
            if len(found) == self.top:
                break
        return found


class HuggingFaceMaskedLM:
    """A masked LM of Hugging Face's, from this machine (no download unless asked for).

    Args:
        model: a name or folder, or a model already loaded (`BertForMaskedLM`, …); tokenizer: its fast tokenizer, where
            the model is given loaded. download: allow the hub to be asked. device: where it runs.

    Raises:
        ModelError: it is not here, or its tokenizer is no fast one (spans of words are needed).
    """

    def __init__(self, model: Any, tokenizer: Any = None, *, download: bool = False, device: str | None = None):
        if isinstance(model, (str, Path)):
            from transformers import AutoModelForMaskedLM, AutoTokenizer

            self.name = str(model)
            options = {"local_files_only": not download, "trust_remote_code": False}
            try:
                tokenizer = AutoTokenizer.from_pretrained(model, use_fast=True, **options)
                model = AutoModelForMaskedLM.from_pretrained(model, **options)
            except (OSError, ValueError) as error:
                if "trust_remote_code" in str(error):
                    raise ModelError(
                        f"The masked language model {self.name} asks to run Python code of its own.",
                        "Code of a model is never run. Choose one that Hugging Face's own classes load.",
                    ) from error
                raise ModelError(
                    f"The masked language model {self.name} is not on this machine.",
                    "Give a local folder, download it first, or use the bundled one (model=None).",
                ) from error
        else:
            self.name = type(model).__name__
        if tokenizer is None or not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"{self.name} has no fast tokenizer.", "Give a tokenizer with is_fast=True.")
        self.model = model.eval() if device is None else model.eval().to(device)
        self.tokenizer = tokenizer
        self._words: tuple[tuple[int, str], ...] | None = None

    def scores(self, texts: Sequence[str], masked: Sequence[int | None]) -> tuple[torch.Tensor, list[list[Span]]]:
        words = [list(Words.split(text).words) for text in texts]
        coded = self.tokenizer(words, is_split_into_words=True, return_tensors="pt", padding=True, truncation=True)
        ids, spans = coded["input_ids"].clone(), []
        for row, (own, hidden) in enumerate(zip(words, masked, strict=True)):
            found: list[Span] = [(0, 0)] * len(own)
            for at, word in enumerate(coded.word_ids(row)):
                if word is not None:
                    first, end = found[word]
                    found[word] = (at if end == 0 else first, at + 1)
            if hidden is not None:
                first, end = found[hidden]
                ids[row, first:end] = self.tokenizer.mask_token_id
            spans.append(found)
        device = next(self.model.parameters()).device
        with torch.no_grad():
            out = self.model(input_ids=ids.to(device), attention_mask=coded["attention_mask"].to(device))
        return out.logits, spans

    def words(self) -> tuple[tuple[int, str], ...]:
        if self._words is None:
            vocabulary = self.tokenizer.get_vocab()
            mark = next((m for m in ("Ġ", "▁") if f"{m}the" in vocabulary or f"{m}a" in vocabulary), "")
            special = set(self.tokenizer.all_special_ids)
            found = []
            for token, index in vocabulary.items():
                word = token[len(mark) :] if token.startswith(mark) else ""
                if (
                    index not in special
                    and word.isascii()
                    and word.isalpha()
                    and (len(word) > 1 or word.lower() == "a")
                ):
                    found.append((index, word))
            self._words = tuple(sorted(found))
        return self._words


# ------------------------------------------------------------------------------------------- Tabletop's own masked LM

WIDTH, LAYERS, HEADS, CONTEXT = 128, 2, 4, 48


class TabletopMaskedLM(nn.Module):
    """A small bidirectional transformer on the bundled vocabulary; about half a million parameters.

    Width 128, two pre-norm layers of four heads, learned positions, output weights tied to the token embedding. The
    mask token is one more row of the embedding, behind the vocabulary.
    """

    name = "tabletop"

    def __init__(self, vocabulary: int = 1024, width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS):
        super().__init__()
        self.vocabulary_size, self.mask_id = vocabulary, vocabulary
        self.config = {"vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads}
        self.token = nn.Embedding(vocabulary + 1, width)
        self.position = nn.Parameter(torch.zeros(CONTEXT, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self._tokenizer: Any = None

    def initialise(self, generator: torch.Generator) -> None:
        """Set fresh weights: normal of 0.02, biases 0, norms 1."""
        with torch.no_grad():
            for parameter_name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
                else:
                    parameter.fill_(1.0 if "norm" in parameter_name and parameter_name.endswith("weight") else 0.0)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return logits T×L×V for ids T×L (0 is padding)."""
        x = self.token(ids) + self.position[: ids.shape[1]]
        x = self.norm(self.layers(x, src_key_padding_mask=ids == 0))
        return x @ self.token.weight[: self.vocabulary_size].T + self.bias

    # What `align` and `token_words` ask of a model

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            from cmai_core.models.families.bundled import bundled_tokenizer

            self._tokenizer = bundled_tokenizer()
        return self._tokenizer

    def token_ids(self) -> tuple[int, int, int]:
        from cmai_core.models.tokenizer import BOS_ID, EOS_ID, PAD_ID

        return PAD_ID, BOS_ID, EOS_ID

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        return self.tokenizer(list(texts), context_length=CONTEXT)

    def detokenize(self, ids: Sequence[int]) -> str:
        return self.tokenizer.tokenizer.decode(list(ids)).strip()

    # What a proposer asks

    def scores(self, texts: Sequence[str], masked: Sequence[int | None]) -> tuple[torch.Tensor, list[list[Span]]]:
        ids, positions = align(self, texts)
        ids = ids.clone()
        spans = [[(0, 0) if at is None else (at, at + 1) for at in row] for row in positions]
        for row, hidden in enumerate(masked):
            if hidden is not None and positions[row][hidden] is not None:
                ids[row, positions[row][hidden]] = self.mask_id
        ids = ids[:, : int((ids != 0).sum(dim=1).max())]
        device = self.position.device
        with torch.no_grad():
            return self(ids.to(device)), spans

    def words(self) -> tuple[tuple[int, str], ...]:
        return token_words(self)


def folder() -> Path:
    """Return where Tabletop's masked LM lies."""
    from cmai_core.paths import assets_dir

    return assets_dir() / "masked_lm"


def save_masked_lm(model: TabletopMaskedLM, path: str | Path, card: dict | None = None) -> Path:
    """Write weights in half precision (`model.safetensors`) and their description (`config.json`)."""
    from safetensors.torch import save_file

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to(torch.float16).cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = json.dumps({"architecture": model.config, **(card or {})}, indent=2)
    write_text(path / "config.json", config + "\n")
    return path


@lru_cache(maxsize=1)
def load_masked_lm(path: str | Path | None = None) -> TabletopMaskedLM:
    """Return tabletop's masked LM in float32, evaluation mode, on the CPU.

    Raises:
        ModelError: it is not there, cannot be read, or is not as it was bundled.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path is None:
        verify(folder())
    path = folder() if path is None else Path(path)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        model = TabletopMaskedLM(**config["architecture"])
        model.load_state_dict({k: v.float() for k, v in load_file(path / "model.safetensors").items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"Tabletop's masked language model cannot be read from {path.name}.",
            "Train it with `cmai masked-lm`, or choose another proposer, such as Synonyms().",
        ) from error
    refuse_non_finite(model.state_dict(), "Tabletop's masked language model")
    return model.eval().requires_grad_(False)
