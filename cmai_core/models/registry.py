"""Models by name: the bundled ones, and everything that open_clip loads, by open_clip's own names.

| spec | what |
|---|---|
| `tabletop` | a bundled model: a folder of `assets/models` |
| `ViT-B-32/laion2b_s34b_b79k` | an architecture and a pretrained tag of open_clip |
| `ViT-B-32/random`, `ViT-B-32/random-7` | random weights of seed 0 or 7, for tests and demonstrations |
| `hf-hub:org/repo` | an open_clip repository on the Hugging Face Hub |
| `local-dir:/path` | a folder with `open_clip_config.json` and weights |

A folder or repository is data and never code: its configuration is read key by key (`configuration`), its tokenizer's
files as well (`tokenizer_files`), and weights are read from safetensors, or by `torch.load(weights_only=True)`
(`weights`). What is too large for the machine is refused before it is built (`sizes`), what cannot be run before it is
handed out.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.errors import ModelError
from cmai_core.models.cards import ModelCard, card_of, card_or_problem
from cmai_core.models.configuration import CONFIG_FILE, read_config
from cmai_core.models.devices import pick_device
from cmai_core.models.hub import fetch, weight_files
from cmai_core.models.weights import HEADS_FILE, checked_weights, weights_in
from cmai_core.paths import assets_dir

if TYPE_CHECKING:
    import torch

    from cmai_core.models.wrapper import VisionLanguageModel

_LIST_HINT = "`cmai models` lists what can be loaded."


def bundled_dir() -> Path:
    """The folder of the bundled models."""
    return assets_dir() / "models"


def bundled_models() -> list[ModelCard]:
    """The bundled models, undefended first, then by name. Reads only the cards; one that is damaged has a `problem`."""
    folders = [path.parent for path in bundled_dir().glob(f"*/{CONFIG_FILE}")]
    cards = [card_or_problem(folder) for folder in folders if folder.name[0] not in "._"]
    return sorted(cards, key=lambda c: (c.defended, c.name))


def load_model(spec: str, device: str | torch.device | None = None) -> VisionLanguageModel:
    """Load a model in evaluation mode, in float32, with parameters that ask for no gradient; with its consistency heads
    where its folder holds some.

    Args:
        spec: see the module's table.
        device: where to compute; None takes CUDA if there is one, else the CPU.

    Raises:
        ModelError: unknown name, weights that cannot be had or read, unknown device; the hint says what to do.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise ModelError("No model named.", _LIST_HINT)
    spec = spec.strip()
    chosen = pick_device(device)
    if spec.startswith("local-dir:"):
        model = _load_folder(Path(spec.removeprefix("local-dir:")), spec)
    elif spec.startswith("hf-hub:"):
        model = _load_hub(spec)
    elif (folder := _bundled_folder(spec)) is not None:
        model = _load_bundled(folder, spec)
    elif "/" in spec:
        model = _load_open_clip(spec)
    else:
        raise _unknown(spec)
    model.clip.eval().requires_grad_(False)
    _refuse_damaged(model)
    model.to(chosen)
    _rehearse(model)
    return model


def new_model(
    architecture: str, generator: torch.Generator | None = None, device: str | torch.device | None = "cpu"
) -> VisionLanguageModel:
    """A freshly initialised bundled architecture, in training mode and with gradients on, to be trained and saved.

    Args:
        architecture: a key of `architectures.ARCHITECTURES`.
        generator: source of the initial weights (None: seed 0).
        device: where to put it.
    """
    from cmai_core.models.architectures import build, model_config
    from cmai_core.models.wrapper import VisionLanguageModel

    model = VisionLanguageModel(
        build(architecture, generator),
        bundled_tokenizer(),
        spec=architecture,
        card={"domain": "tabletop", "architecture": architecture},
        config=model_config(architecture),
    )
    return model.to(pick_device(device))


def bundled_tokenizer() -> Any:
    """open_clip's tokenizer object for the bundled vocabulary."""
    from open_clip.tokenizer import HFTokenizer

    from cmai_core.models.integrity import verify
    from cmai_core.models.tokenizer import CONTEXT_LENGTH, bundled_tokenizer_dir

    verify(bundled_tokenizer_dir())
    options = {"context_length": CONTEXT_LENGTH, "trust_remote_code": False, "local_files_only": True}
    return HFTokenizer(str(bundled_tokenizer_dir()), **options)


def _bundled_folder(name: str) -> Path | None:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is None:
        return None
    folder = bundled_dir() / name
    return folder if (folder / CONFIG_FILE).is_file() else None


def _load_bundled(folder: Path, name: str) -> VisionLanguageModel:
    """A bundled model, once its files are found to be those that were bundled."""
    from cmai_core.models.integrity import verify

    verify(folder)
    return _load_folder(folder, name)


def _load_folder(folder: Path, spec: str, tokenizer: Any = None, card: bool = True) -> VisionLanguageModel:
    """The model in a folder; `tokenizer` where it has been found elsewhere; with its card and heads, or without."""
    from cmai_core.models.building import build_model
    from cmai_core.models.sidecar import read_heads
    from cmai_core.models.tokenizer_files import load_tokenizer
    from cmai_core.models.wrapper import VisionLanguageModel

    config_path = folder / CONFIG_FILE
    try:
        what = "" if config_path.is_file() else f"has no {CONFIG_FILE}" if folder.is_dir() else "is not a folder"
    except (OSError, ValueError) as error:  # no right to look, or a name that no folder can have
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if what:
        raise ModelError(
            f"{_shown(str(folder))} {what}.", "Give a folder as open_clip saves it: config, weights, tokenizer files."
        )
    config = read_config(config_path)
    weights = weights_in(folder)
    known: dict[str, Any] = {"config": config, "weights_file": weights}
    if card:
        known["card"] = card_of(folder).card
        if os.path.lexists(folder / HEADS_FILE):
            known |= {"heads": read_heads(folder / HEADS_FILE), "heads_file": folder / HEADS_FILE}
    if tokenizer is None:
        tokenizer = load_tokenizer(config["model_cfg"]["text_cfg"], f"the tokenizer of {folder}", folder)
    where = f"the weights {weights.name} of {folder}"
    clip = build_model(config["model_cfg"], config["preprocess_cfg"], where, weights)
    return VisionLanguageModel(clip, tokenizer, spec=spec, name=spec, **known)


def _load_hub(spec: str) -> VisionLanguageModel:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from cmai_core.models.configuration import known_repositories
    from cmai_core.models.sizes import check_memory
    from cmai_core.models.tokenizer_files import fetch_tokenizer, load_tokenizer, repository_tokenizer

    repository = spec.removeprefix("hf-hub:")
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
    return _load_folder(config_path.parent, spec, tokenizer, card=False)


def _no_repository(spec: str) -> ModelError:
    return ModelError(f"{_shown(spec)!r} names no repository.", "Write hf-hub:organisation/repository.")


def _load_open_clip(spec: str) -> VisionLanguageModel:
    import open_clip

    from cmai_core.models.building import build_model
    from cmai_core.models.tokenizer_files import load_tokenizer
    from cmai_core.models.wrapper import VisionLanguageModel

    architecture, tag = spec.rsplit("/", 1)
    architecture = architecture.replace("/", "-")
    if architecture not in open_clip.list_models():
        raise _unknown(spec)
    model_cfg = open_clip.get_model_config(architecture)
    seed = re.fullmatch(r"random(?:-(\d{1,9}))?", tag)
    # The tokenizer first: it is the smaller part to find missing.
    tokenizer = load_tokenizer(model_cfg["text_cfg"], f"The tokenizer of {architecture}")
    if seed is not None:
        clip = build_model(model_cfg, {}, architecture, seed=int(seed.group(1) or 0))
        return VisionLanguageModel(clip, tokenizer, spec=spec)
    from open_clip.pretrained import get_pretrained_cfg

    tag_config = get_pretrained_cfg(architecture, tag)
    if not tag_config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:5]
        raise ModelError(
            f"open_clip has no weights {tag!r} for {architecture}.",
            f"Known: {', '.join(near) or 'none'}; or {architecture}/random. {_LIST_HINT}",
        )
    weights, where = _published(tag, tag_config)
    # The activation that the weights were trained with.
    model_cfg |= {"quick_gelu": True} if tag_config.get("quick_gelu") else {}
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = {key: tag_config[key] for key in keys if tag_config.get(key) is not None}
    clip = build_model(model_cfg, preprocess, where, weights)
    return VisionLanguageModel(clip, tokenizer, spec=spec, weights_file=weights)


def _published(tag: str, tag_config: dict[str, Any]) -> tuple[Path, str]:
    """The file with the weights of a tag of open_clip, fetched where it is not cached, and its name for errors."""
    from cmai_core.models.guard import guarded

    if not tag_config.get("hf_hub"):
        from open_clip.pretrained import download_pretrained

        where = str(tag_config.get("url") or tag)
        return checked_weights(Path(guarded(lambda: download_pretrained(tag_config), where))), where
    repository, _, filename = tag_config["hf_hub"].rpartition("/")
    weights = checked_weights(fetch(repository, *weight_files(filename)))
    return weights, f"{weights.name} of {repository}"


def _refuse_damaged(model: VisionLanguageModel) -> None:
    from cmai_core.models.building import refuse_non_finite

    refuse_non_finite(model.clip, model.name)
    if model.heads is not None:
        refuse_non_finite(model.heads, f"the consistency heads of {model.name}")


def _rehearse(model: VisionLanguageModel) -> None:
    """One pass of everything that a model has, so that one which cannot run is refused here and not in mid-work.

    Raises:
        ModelError: a pass fails, or answers with what is no number.
    """
    import torch

    from cmai_core.models.guard import guarded

    def passes() -> list[torch.Tensor]:
        images = model.image_features(torch.full((1, 3, model.image_size, model.image_size), 0.5, device=model.device))
        ids = model.trim(model.tokenize(["a photo of a cat"]))
        texts = model.text_features(ids)
        found = [images.pooled, texts.pooled, images.embedding @ texts.embedding.T, model.logit_scale]
        if model.has_decoder:
            found.append(model.fusion_logits(images.tokens, ids))
        if model.heads is not None:
            found += [model.consistency(images, ids), model.verify(images, ids)]
        return found

    with torch.no_grad():
        found = guarded(passes, f"{model.name}: it cannot be run")
    if not all(bool(torch.isfinite(value).all()) for value in found):
        raise ModelError(
            f"{model.name} is damaged: a grey picture and a short text already give values that are not finite.",
            "Fetch or save the model again.",
        )


def _shown(name: str) -> str:
    """A name as an error repeats it: its beginning, where it is long."""
    return name if len(name) <= 300 else f"{name[:300]}…"


def _unknown(spec: str) -> ModelError:
    """The error for a name that is neither bundled nor open_clip's, with the nearest names that are."""
    import open_clip

    architectures = open_clip.list_models()
    bundled = [card.name for card in bundled_models()]
    if spec in architectures:
        tags = open_clip.list_pretrained_tags_by_model(spec)
        options = [f"{spec}/{tag}" for tag in tags[:4]] + [f"{spec}/random"]
        return ModelError(f"{spec} is an architecture, not a model.", f"Say which weights: {', '.join(options)}.")
    base = spec.split("/")[0][:200]
    by_case = {name.lower(): name for name in [*bundled, *architectures]}
    matches = difflib.get_close_matches(base.lower(), by_case, n=4, cutoff=0.5)
    near = f"Did you mean {', '.join(by_case[match] for match in matches)}? " if matches else ""
    known = f"Bundled: {', '.join(bundled)}. " if bundled else ""
    return ModelError(f"Unknown model {_shown(spec)!r}.", f"{near}{known}{_LIST_HINT}")
