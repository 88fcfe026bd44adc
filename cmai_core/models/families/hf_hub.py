"""`hf-hub:organisation/repository`: an open_clip repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cmai_core.errors import ModelError
from cmai_core.models.configuration import CONFIG_FILE, known_repositories, read_config
from cmai_core.models.families.family import Family, shown
from cmai_core.models.hub import cached, fetch, weight_files

if TYPE_CHECKING:
    from cmai_core.models.download import Fetch
    from cmai_core.models.open_clip_model import OpenClipModel


def _load(spec: str) -> OpenClipModel:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from cmai_core.models.families.local_dir import load_folder
    from cmai_core.models.sizes import check_memory
    from cmai_core.models.tokenizer_files import fetch_tokenizer, load_tokenizer, repository_tokenizer

    repository = _repository(spec)
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise _no_repository(spec) from error
    if "/" not in repository:
        raise _no_repository(spec)
    config_path = fetch(repository, CONFIG_FILE)
    model_cfg = read_config(config_path)["model_cfg"]
    check_memory(model_cfg, spec)  # before anything large is fetched
    text_cfg = model_cfg["text_cfg"]
    where, tokenizer = f"The tokenizer of {spec}", None
    if name := text_cfg.get("hf_tokenizer_name"):
        # Its own files come first: what open_clip saves is complete. Another repository only where open_clip names it.
        try:
            folder = fetch_tokenizer(repository, where)
        except ModelError:
            if name not in known_repositories():
                raise
            folder = repository_tokenizer(name, where)
        tokenizer = load_tokenizer(text_cfg, where, folder)
    fetch(repository, *weight_files(""))
    # All lie in one snapshot folder of the cache, which is read like any local folder.
    return load_folder(config_path.parent, spec, tokenizer, card=False)


def _is_here(spec: str) -> bool:
    repository = _repository(spec)
    return cached(repository, CONFIG_FILE) is not None and any(cached(repository, n) for n in weight_files(""))


def _fetch(spec: str, download: Fetch) -> None:
    repository = _repository(spec)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is None:
        raise _no_repository(spec)
    download.repository(repository, weight_files(""))
    _fetch_others(repository, download)
    download.run()


def _fetch_others(repository: str, download: Fetch) -> None:
    """Add what the configuration says lies elsewhere, of repositories that `load_model` follows.

    A vocabulary that is not beside the weights, and the configuration of a Hugging Face text tower.
    """
    from cmai_core.models.download import SMALL_FILES, TOWER_FILES

    try:
        text = download.config(repository)["model_cfg"]["text_cfg"]
        vocabulary, tower = text.get("hf_tokenizer_name"), text.get("hf_model_name")
    except (KeyError, TypeError, AttributeError, ValueError):
        return  # `load_model` says what is wrong with it
    own = any(entry[:2] == (repository, "tokenizer.json") for entry in download.wanted)
    wanted = [] if own or cached(repository, "tokenizer.json") else [(vocabulary, SMALL_FILES)]
    for name, small in [*wanted, (tower, TOWER_FILES)]:
        if isinstance(name, str) and name in known_repositories():
            download.repository(name, None, small)


def _repository(spec: str) -> str:
    return spec.removeprefix("hf-hub:")


def _no_repository(spec: str) -> ModelError:
    return ModelError(f"{shown(spec)!r} names no repository.", "Write hf-hub:organisation/repository.")


FAMILY = Family(
    _load,
    "hf-hub:organisation/repository",
    "an open_clip repository on the Hugging Face Hub",
    is_here=_is_here,
    fetch=_fetch,
)
