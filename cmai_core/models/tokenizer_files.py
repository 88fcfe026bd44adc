"""A model's tokenizer and the configuration of its text tower, from files that a stranger may have written.

Hugging Face's tokenizer files can name Python files to import (`auto_map`), other files of this machine to read, and
text transformations that never end or never stop growing. What is read here is checked first, against lists of what the
tokenizers of vision-language models use, and is then loaded from its folder alone: no network, no remote code.

A tokenizer that is to be fetched comes from the model's own repository, or from one that open_clip's own configurations
name. A missing file is an error at once, which names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmai_core.errors import ModelError
from cmai_core.models.configuration import known_repositories
from cmai_core.models.guard import guarded
from cmai_core.models.hub import fetch
from cmai_core.models.jsonfile import read_object

TOKENIZER_FILE = "tokenizer.json"
_CONFIG, _SETTINGS = "config.json", "tokenizer_config.json"
_EXTRAS = (_CONFIG, "special_tokens_map.json", "added_tokens.json")
_SENTENCEPIECE = {"google/mt5-base": "spiece.model", "google/mt5-xl": "spiece.model"}  # have no tokenizer.json
_MOST_VOCABULARY, _MOST_SMALL, _MOST_FILES = 64 << 20, 4 << 20, 1000
_AGAIN = "Save the tokenizer again with Hugging Face's own classes, or choose another model."


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FAMILIES = _names("""
    Albert Bert CLIP DistilBert Electra Gemma GPT2 Llama M2M100 MBart MPNet MT5 Nllb Roberta Siglip Siglip2 T5
    XLMRoberta
""")
_CLASSES = _names("PreTrainedTokenizerFast TokenizersBackend") | {
    f"{family}Tokenizer{fast}" for family in _FAMILIES for fast in ("", "Fast")
}
_MODEL_TYPES = _names("""
    albert bert clip clip_text_model distilbert electra gemma gemma2 gpt2 llama m2m_100 mbart mpnet mt5 nllb roberta
    siglip siglip_text_model siglip2 t5 xlm-roberta
""")
_TOKENS = _names("""
    bos_token eos_token unk_token sep_token pad_token cls_token mask_token additional_special_tokens
    extra_special_tokens added_tokens_decoder
""")
_FLAGS = _names("""
    add_bos_token add_eos_token add_prefix_space clean_up_tokenization_spaces do_basic_tokenize do_lower_case
    do_split_on_punc is_local legacy legacy_behaviour local_files_only spaces_between_special_tokens
    split_special_tokens strip_accents tokenize_chinese_chars trim_offsets use_default_system_prompt use_fast
""")
_WORDS = _names("""
    backend errors name_or_path padding_side processor_class special_tokens_map_file src_lang tgt_lang
    transformers_version truncation_side truncation_strategy
""")
_NUMBERS = _names("extra_ids max_length model_max_length pad_to_multiple_of pad_token_type_id stride")
_OTHERS = _names("chat_template init_inputs model_input_names never_split sp_model_kwargs tokenizer_class")
_ALLOWED = _TOKENS | _FLAGS | _WORDS | _NUMBERS | _OTHERS

_STEPS = _names("""
    Sequence NFC NFD NFKC NFKD Nmt Lowercase Strip StripAccents BertNormalizer Precompiled Replace Prepend ByteLevel
    WhitespaceSplit Whitespace Punctuation BertPreTokenizer Metaspace Split Digits
    TemplateProcessing BertProcessing RobertaProcessing WordPiece Fuse ByteFallback BPEDecoder CTC
""")  # normalisers; splitters; what is put around a text, and how it is put together again
_PATTERNS = frozenset(
    # Regular expressions can take for ever; these are the ones that the tokenizers of CLIP, T5 and GPT-2 have.
    [
        r"\s+",
        r" {2,}",
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    ]
)
_MOST_GROWTH = 64
_MOST_CHARMAP = 2 << 20


def load_tokenizer(text_cfg: Mapping[str, Any], where: str, folder: Path | None = None) -> Any:
    """Load open_clip's tokenizer object of a checked `text_cfg`.

    Args:
        text_cfg: of a checked configuration, or of open_clip's own. where: what to call it in errors.
        folder: where Hugging Face's files lie; None: they are fetched from the repository that `text_cfg` names, if
            open_clip's own configurations name it too.

    Raises:
        ModelError: a file that is missing, cannot be fetched, or holds what is not allowed.
    """
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    length = text_cfg.get("context_length") or DEFAULT_CONTEXT_LENGTH
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    name = text_cfg.get("hf_tokenizer_name")
    if not name:
        options.pop("strip_sep_token", None)
        return guarded(lambda: SimpleTokenizer(context_length=length, **options), where)
    if folder is None:
        folder = repository_tokenizer(name, where)
    check_folder(folder, where, needs_vocabulary=name not in _SENTENCEPIECE)
    options |= {"tokenizer_mode": text_cfg.get("tokenizer_mode"), "trust_remote_code": False, "local_files_only": True}
    tokenizer = guarded(lambda: HFTokenizer(str(folder), context_length=length, **options), where)
    inner = tokenizer.tokenizer
    end = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
    if inner.pad_token_id is None or end is None:
        raise ModelError(f"{where} has no padding or no end token.", _AGAIN)
    return tokenizer


def repository_tokenizer(name: str, where: str) -> Path:
    """Return the folder of a known repository's tokenizer files: from the cache, else fetched.

    Raises:
        ModelError: a repository that open_clip's own configurations do not name, or files that cannot be had.
    """
    if name not in known_repositories():
        raise ModelError(
            f"{where} is said to be that of another repository, {name!r}, which is not followed.",
            f"Put its {TOKENIZER_FILE} and {_SETTINGS} beside open_clip_config.json.",
        )
    return fetch_tokenizer(name, where, (TOKENIZER_FILE, _SENTENCEPIECE.get(name, TOKENIZER_FILE)))


def fetch_tokenizer(repository: str, where: str, vocabulary: tuple[str, ...] = (TOKENIZER_FILE,)) -> Path:
    """Return the folder of a repository's tokenizer files: from the cache, else fetched.

    The vocabulary comes last, so that where it is in the cache the others are as well.

    Raises:
        ModelError: neither cached nor to be had; says which file, from where, and where to put it.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in vocabulary:
        if isinstance(path := try_to_load_from_cache(repository, name), str):
            return Path(path).parent
    wanted = " ".join(dict.fromkeys((*vocabulary, _SETTINGS, *_EXTRAS)))
    try:
        fetch(repository, _SETTINGS)
        for name in _EXTRAS:
            try:
                fetch(repository, name)
            except ModelError:  # most repositories lack one of them
                continue
        return fetch(repository, *vocabulary).parent
    except ModelError as error:
        raise ModelError(
            f"{where} is not here. {error.message}",
            f"With a network: `hf download {repository} {wanted}`, then copy its cache folder ($HF_HOME, by default "
            f"~/.cache/huggingface) to this machine. Or put these files, {TOKENIZER_FILE} among them, beside "
            "open_clip_config.json and the weights and load local-dir:<folder>.",
        ) from error


def tower_folder(name: str) -> Path:
    """Return the folder with the checked `config.json` of a Hugging Face text tower: from the cache, else fetched.

    Raises:
        ModelError: a tower that open_clip's own configurations do not name, or a configuration that cannot be had or
            holds what is not allowed.
    """
    from open_clip.hf_configs import arch_dict

    if name not in known_repositories():
        raise ModelError(
            f"The text tower {name!r} is not followed.", "Only those of open_clip's own configurations are."
        )
    path = fetch(name, _CONFIG)
    config = read_object(path, _MOST_SMALL)
    _check_model_type(config, path, arch_dict)
    for key, value in config.items():
        if any(part in key for part in ("implementation", "kernel", "quantization", "auto_map")):
            raise ModelError(f"{path} has the key {key!r}, which is not allowed.", _AGAIN)
        if isinstance(value, int) and not 0 <= value <= (256 if "layers" in key else 1 << 22):
            raise ModelError(f"{path}: {key} is {value}.", _AGAIN)
    return path.parent


def check_folder(folder: Path, where: str, needs_vocabulary: bool = True) -> None:
    """Refuse a folder whose tokenizer files run code, read other files, or hold what no tokenizer here needs.

    Args:
        folder: where the files lie. where: what to call them in errors.
        needs_vocabulary: whether tokenizer.json has to be there.

    Raises:
        ModelError: says what in which file.
    """
    _check_entries(folder)
    if (folder / TOKENIZER_FILE).exists():
        _check_vocabulary(read_object(folder / TOKENIZER_FILE, _MOST_VOCABULARY, strict=False), folder / TOKENIZER_FILE)
    elif needs_vocabulary:
        raise ModelError(
            f"{where} is missing: {folder} has no {TOKENIZER_FILE}.", "Put the tokenizer's files beside the weights."
        )
    for name in (_SETTINGS, *_EXTRAS):
        path = folder / name
        if not path.exists():
            continue
        content = read_object(path, _MOST_SMALL)
        if name == _SETTINGS:
            _check_settings(content, path)
        elif name == _CONFIG:
            _check_model_type(content, path, _MODEL_TYPES)
        elif name == "special_tokens_map.json":
            _check_tokens({key: content.get(key) for key in content}, path)
        else:
            _check_ids(content, path)


def _check_entries(folder: Path) -> None:
    """Refuse pipes, devices and huge files: loaders open whatever has one of their names."""
    try:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}.", "Check the folder.") from error
    if len(entries) > _MOST_FILES:
        raise ModelError(f"{folder} has {len(entries):,} entries.", "Give a folder that holds one model.")
    for name, info in entries:
        if stat.S_ISDIR(info.st_mode):
            continue
        if not stat.S_ISREG(info.st_mode):
            raise ModelError(f"{folder / name} is not an ordinary file.", "Remove it.")
        if name.endswith((".json", ".txt", ".jinja", ".model")) and info.st_size > _MOST_VOCABULARY:
            raise ModelError(f"{folder / name} is too large.", "Remove it.")


def _check_model_type(config: Mapping[str, Any], path: Path, known: Any) -> None:
    """Check the type in a `config.json`, by which Hugging Face's loaders look up classes."""
    if "auto_map" in config:
        raise _code(path)
    kind = config.get("model_type")
    if kind is not None and (not isinstance(kind, str) or kind not in known):
        raise ModelError(f"{path}: model_type is {str(kind)[:80]!r}, which is not known.", _AGAIN)
    _check_class(config, path)


def _check_class(config: Mapping[str, Any], path: Path) -> None:
    kind = config.get("tokenizer_class")
    if kind is not None and (not isinstance(kind, str) or kind not in _CLASSES):
        raise ModelError(f"{path}: tokenizer_class is {str(kind)[:80]!r}, which is not known.", _AGAIN)


def _check_settings(config: Mapping[str, Any], path: Path) -> None:
    if "auto_map" in config:
        raise _code(path)
    if unknown := sorted(set(config) - _ALLOWED):
        raise ModelError(f"{path} has the key {unknown[0][:80]!r}, which is not allowed.", _AGAIN)
    _check_class(config, path)
    for key in _FLAGS:
        if not isinstance(config.get(key), (bool, type(None))):
            raise ModelError(f"{path}: {key} is {str(config[key])[:80]!r}; it must be true or false.", _AGAIN)
    for key in _WORDS:
        if not isinstance(config.get(key), (str, type(None))):
            raise ModelError(f"{path}: {key} must be a string.", _AGAIN)
    for key in _NUMBERS:
        value = config.get(key)
        bounded = key == "model_max_length" or (isinstance(value, int) and 0 <= value <= 1 << 20)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not bounded):
            raise ModelError(f"{path}: {key} is {str(value)[:80]}, which cannot be.", _AGAIN)
    if isinstance(config.get("extra_ids"), int) and config["extra_ids"] > 1000:
        raise ModelError(f"{path}: extra_ids is {config['extra_ids']}, at most 1000 can be.", _AGAIN)
    if config.get("sp_model_kwargs") or config.get("init_inputs"):
        raise ModelError(f"{path}: sp_model_kwargs and init_inputs must be empty.", _AGAIN)
    for key in ("model_input_names", "never_split"):
        value = config.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ModelError(f"{path}: {key} must be a list of strings.", _AGAIN)
    _check_tokens({key: config[key] for key in _TOKENS if key in config}, path)


def _check_tokens(tokens: Mapping[str, Any], path: Path) -> None:
    for key, value in tokens.items():
        if key not in _TOKENS:
            raise ModelError(f"{path} has the key {key[:80]!r}, which is not allowed.", _AGAIN)
        if isinstance(value, list):
            fits = all(_is_token(item) for item in value)
        elif key in ("added_tokens_decoder", "extra_special_tokens") and isinstance(value, dict):
            fits = all(_is_token(item) for item in value.values())
            fits = fits and (key != "added_tokens_decoder" or all(name.isdecimal() for name in value))
        else:
            fits = value is None or _is_token(value)
        if not fits:
            raise ModelError(f"{path}: {key} holds what is not a token.", _AGAIN)


def _is_token(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 1000
    if not isinstance(value, dict) or not isinstance(value.get("content"), str) or len(value["content"]) > 1000:
        return False
    rest = {key: item for key, item in value.items() if key not in ("content", "id", "__type")}
    return all(isinstance(item, bool) for item in rest.values()) and value.get("__type") in (None, "AddedToken")


def _check_ids(content: Mapping[str, Any], path: Path) -> None:
    if not all(isinstance(item, int) and 0 <= item < 1 << 22 for item in content.values()):
        raise ModelError(f"{path} must give each token a number.", _AGAIN)


def _check_vocabulary(content: Mapping[str, Any], path: Path) -> None:
    """Check the steps that a text goes through: known ones with known regular expressions, without growth."""
    growth = 1
    sections = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    pending: list[tuple[Any, int]] = [(content.get(section), 0) for section in sections]
    while pending:
        step, depth = pending.pop()
        if step is None:
            continue
        if not isinstance(step, dict) or step.get("type") not in _STEPS or depth > 8:
            kind = step.get("type") if isinstance(step, dict) else step
            raise ModelError(f"{path} has the step {str(kind)[:80]!r}, which is not known.", _AGAIN)
        for key in ("normalizers", "pretokenizers", "processors", "decoders"):
            inner = step.get(key) or []
            if not isinstance(inner, list) or len(inner) > 32:
                raise ModelError(f"{path}: {key} must be a short list of steps.", _AGAIN)
            pending += [(item, depth + 1) for item in inner]
        pattern = step.get("pattern")
        if isinstance(pattern, dict) and pattern.get("Regex") is not None and pattern["Regex"] not in _PATTERNS:
            raise ModelError(
                f"{path} has the regular expression {str(pattern['Regex'])[:80]!r}, not a known one.", _AGAIN
            )
        added = [step.get(key) for key in ("content", "prepend") if step.get("type") in ("Replace", "Prepend")]
        growth *= max([1, *(len(text) for text in added if isinstance(text, str))])
        if growth > _MOST_GROWTH:
            raise ModelError(f"{path} makes texts more than {_MOST_GROWTH} times as long.", _AGAIN)
        if len(str(step.get("precompiled_charsmap") or "")) > _MOST_CHARMAP:
            raise ModelError(f"{path} has too large a table of characters.", _AGAIN)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") not in ("BPE", "Unigram", "WordPiece", "WordLevel", None):
        raise ModelError(f"{path} has no vocabulary of a known kind.", _AGAIN)
    if model.get("dropout"):
        raise ModelError(f"{path} drops merges at random, so that a text has no certain tokens.", _AGAIN)
    added_tokens = content.get("added_tokens") or []
    if not isinstance(added_tokens, list) or len(added_tokens) > 100_000:
        raise ModelError(f"{path}: added_tokens must be a list.", _AGAIN)


def _code(path: Path) -> ModelError:
    return ModelError(
        f"{path} asks to run Python code of its own (auto_map).",
        "Code of a model is never run. Choose a model that Hugging Face's own classes load.",
    )
