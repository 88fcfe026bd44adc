"""`ViT-B-32/laion2b_s34b_b79k`: an architecture of open_clip with a pretrained tag, or with random weights."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.errors import ModelError
from cmai_core.models.families.bundled import unknown_model
from cmai_core.models.families.family import LIST_HINT, Family
from cmai_core.models.hub import cached, fetch, weight_files
from cmai_core.models.weights import checked_weights

if TYPE_CHECKING:
    from cmai_core.models.download import Fetch
    from cmai_core.models.open_clip_model import OpenClipModel

_RANDOM = re.compile(r"random(?:-(\d{1,9}))?")


def _load(spec: str) -> OpenClipModel:
    import open_clip

    from cmai_core.models.building import build_model
    from cmai_core.models.open_clip_model import OpenClipModel
    from cmai_core.models.tokenizer_files import load_tokenizer

    architecture, tag = _parts(spec)
    if architecture not in open_clip.list_models():
        raise unknown_model(spec)
    model_cfg = open_clip.get_model_config(architecture)
    # The tokenizer first: it is the smaller part to find missing.
    tokenizer = load_tokenizer(model_cfg["text_cfg"], f"The tokenizer of {architecture}")
    if seed := _RANDOM.fullmatch(tag):
        clip = build_model(model_cfg, {}, architecture, seed=int(seed.group(1) or 0))
        return OpenClipModel(clip, tokenizer, spec=spec)
    tag_config = _tag_config(architecture, tag)
    weights, where = _published(tag, tag_config)
    # The activation that the weights were trained with.
    model_cfg |= {"quick_gelu": True} if tag_config.get("quick_gelu") else {}
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = {key: tag_config[key] for key in keys if tag_config.get(key) is not None}
    clip = build_model(model_cfg, preprocess, where, weights)
    return OpenClipModel(clip, tokenizer, spec=spec, weights_file=weights)


def _tag_config(architecture: str, tag: str) -> dict[str, Any]:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    found = get_pretrained_cfg(architecture, tag)
    if not found:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:5]
        raise ModelError(
            f"open_clip has no weights {tag!r} for {architecture}.",
            f"Known: {', '.join(near) or 'none'}; or {architecture}/random. {LIST_HINT}",
        )
    return found


def _published(tag: str, tag_config: dict[str, Any]) -> tuple[Path, str]:
    """Return the file with a tag's weights, fetched where it is not cached, and its name for errors."""
    from cmai_core.models.guard import guarded

    if not tag_config.get("hf_hub"):
        from open_clip.pretrained import download_pretrained

        where = str(tag_config.get("url") or tag)
        return checked_weights(Path(guarded(lambda: download_pretrained(tag_config), where))), where
    repository, _, filename = tag_config["hf_hub"].rpartition("/")
    weights = checked_weights(fetch(repository, *weight_files(filename)))
    return weights, f"{weights.name} of {repository}"


def _is_here(spec: str) -> bool:
    if re.search(r"/random(-\d+)?$", spec):
        return True
    repository, filename, url = _tag(spec)
    if repository:
        return any(cached(repository, name) for name in weight_files(filename))
    return not url or url_file(url).is_file()


def _fetch(spec: str, download: Fetch) -> None:
    import open_clip

    repository, filename, url = _tag(spec)
    if not repository and not url:
        raise ModelError(f"open_clip has no weights for {spec}.", "Choose another model.")
    config = open_clip.get_model_config(_parts(spec)[0]) or {}
    name = (config.get("text_cfg") or {}).get("hf_tokenizer_name")
    if name:
        download.repository(str(name), None)
    if repository:
        download.repository(repository, weight_files(filename))
    download.run()
    if not repository:
        download.url(url, url_file(url))


def _parts(spec: str) -> tuple[str, str]:
    """Split a specification into the architecture and the tag."""
    architecture, tag = spec.rsplit("/", 1)
    return architecture.replace("/", "-"), tag


def _tag(spec: str) -> tuple[str, str, str]:
    """Return (repository, file name, URL) of an architecture's tag; empty where there is none."""
    from open_clip.pretrained import get_pretrained_cfg

    found = get_pretrained_cfg(*_parts(spec)) or {}
    repository, _, filename = (found.get("hf_hub") or "").rpartition("/")
    return repository, filename, str(found.get("url") or "")


def url_file(url: str) -> Path:
    """Return where open_clip keeps what it fetches by URL."""
    return Path("~/.cache/clip").expanduser() / url.rsplit("/", 1)[-1]


FAMILY = Family(
    _load,
    "ViT-B-32/laion2b_s34b_b79k",
    "an architecture and a pretrained tag of open_clip; `/random` for random weights",
    prefixed=False,
    is_here=_is_here,
    fetch=_fetch,
)
