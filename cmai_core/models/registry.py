"""Models by name: the bundled ones, and everything that open_clip loads, by open_clip's own names.

| spec | what |
|---|---|
| `tabletop` | a bundled model: a folder of `assets/models` |
| `ViT-B-32/laion2b_s34b_b79k` | an architecture and a pretrained tag of open_clip |
| `ViT-B-32/random`, `ViT-B-32/random-7` | random weights of seed 0 or 7, for tests and demonstrations |
| `hf-hub:org/repo` | an open_clip repository on the Hugging Face Hub |
| `local-dir:/path` | a folder with `open_clip_config.json` and weights |

Weights are read from safetensors, or by `torch.load(weights_only=True)`; a pickle that needs more is refused.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmai_core.errors import ModelError
from cmai_core.models.hub import fetch, weight_files
from cmai_core.paths import assets_dir

if TYPE_CHECKING:
    import torch

    from cmai_core.models.wrapper import VisionLanguageModel

_CONFIG_FILE = "open_clip_config.json"
_CARD_FILE = "card.json"
HEADS_FILE = "consistency_heads.safetensors"
"""Beside the weights, where a model has consistency heads (see `sidecar`)."""
_LIST_HINT = "`cmai models` lists what can be loaded."


@dataclass(frozen=True)
class ModelCard:
    """What is known of a bundled model without loading it.

    Attributes:
        name: its spec.
        defended: whether it was trained against attacks.
        description: one sentence.
        training: command, data, seed, time (as its training wrote them).
        results: figures by task and threat model.
        card: everything in card.json.
        verifier: whether consistency heads lie beside the weights.
    """

    name: str
    defended: bool
    description: str
    training: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    verifier: bool = False


def bundled_dir() -> Path:
    """The folder of the bundled models."""
    return assets_dir() / "models"


def bundled_models() -> list[ModelCard]:
    """The bundled models, undefended first, then by name. Reads only the cards."""
    cards = [card_of(path.parent) for path in bundled_dir().glob(f"*/{_CONFIG_FILE}")]
    return sorted((c for c in cards if c.name[0] not in "._"), key=lambda c: (c.defended, c.name))


def card_of(folder: Path) -> ModelCard:
    """The card of the model in a folder, empty where it has none.

    Raises:
        ModelError: it is not JSON.
    """
    path = folder / _CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise ModelError(
            f"The model card {path} is not valid JSON: {error}.", "Restore or retrain the model."
        ) from error
    return ModelCard(
        name=folder.name,
        defended=bool(card.get("defended", False)),
        description=str(card.get("description", "")),
        training=dict(card.get("training") or {}),
        results=dict(card.get("results") or {}),
        card=card,
        path=folder,
        verifier=(folder / HEADS_FILE).is_file(),
    )


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device to compute on: as asked for, else the first CUDA device, else the CPU.

    Raises:
        ModelError: no such device.
    """
    import torch

    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ModelError(f"Unknown device {device!r}.", "Use cpu or cuda.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"The device {device} is not available here.", "Use cpu.")
    return chosen


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
        model = _load_folder(Path(spec.removeprefix("local-dir:")), spec, spec)
    elif spec.startswith("hf-hub:"):
        model = _load_hub(spec)
    elif (folder := _bundled_folder(spec)) is not None:
        model = _load_folder(folder, spec, spec)
    elif "/" in spec:
        model = _load_open_clip(spec)
    else:
        raise _unknown(spec)
    model.clip.eval().requires_grad_(False)
    return model.to(chosen)


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

    from cmai_core.models.tokenizer import CONTEXT_LENGTH, bundled_tokenizer_dir

    return HFTokenizer(str(bundled_tokenizer_dir()), context_length=CONTEXT_LENGTH)


def _bundled_folder(name: str) -> Path | None:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
        return None
    folder = bundled_dir() / name
    return folder if (folder / _CONFIG_FILE).is_file() else None


def _load_folder(folder: Path, spec: str, name: str) -> VisionLanguageModel:
    import open_clip

    from cmai_core.models.sidecar import read_heads
    from cmai_core.models.wrapper import VisionLanguageModel

    config_path = folder / _CONFIG_FILE
    if not folder.is_dir() or not config_path.is_file():
        what = "is not a folder" if not folder.is_dir() else f"has no {_CONFIG_FILE}"
        raise ModelError(f"{folder} {what}.", "Give a folder as open_clip saves it: config, weights, tokenizer files.")
    config = _read_config(config_path)
    weights = _weights_in(folder)
    source = f"local-dir:{folder}"
    clip = _create(source, f"the weights {weights.name} of {folder}")
    tokenizer = _guarded(lambda: open_clip.get_tokenizer(source), f"the tokenizer of {folder}")
    card = card_of(folder).card
    known = {"card": card, "config": config, "weights_file": weights}
    if (folder / HEADS_FILE).is_file():
        known |= {"heads": read_heads(folder / HEADS_FILE), "heads_file": folder / HEADS_FILE}
    return VisionLanguageModel(clip, tokenizer, spec=spec, name=name, **known)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}.", "Save or fetch the model again.") from error


def _weights_in(folder: Path) -> Path:
    from open_clip.factory import _find_checkpoint_in_dir

    found = _find_checkpoint_in_dir(folder)
    if found is None or Path(found).name == HEADS_FILE:
        raise ModelError(f"{folder} holds no weights.", "Expected open_clip_model.safetensors beside the config.")
    return Path(found)


def _load_hub(spec: str) -> VisionLanguageModel:
    import open_clip

    from cmai_core.models.wrapper import VisionLanguageModel

    repository = spec.removeprefix("hf-hub:")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is None:
        raise ModelError(f"{spec!r} names no repository.", "Write hf-hub:organisation/repository.")
    config_path = fetch(repository, _CONFIG_FILE)
    weights = fetch(repository, *weight_files(""))
    # Both lie in one snapshot folder of the cache, which open_clip reads like any local folder.
    folder = config_path.parent
    config = _read_config(config_path)
    clip = _create(f"local-dir:{folder}", f"{weights.name} of {repository}")
    elsewhere = bool(config.get("model_cfg", {}).get("text_cfg", {}).get("hf_tokenizer_name"))
    source = spec if elsewhere and not (folder / "tokenizer.json").is_file() else f"local-dir:{folder}"
    tokenizer = _guarded(lambda: open_clip.get_tokenizer(source), f"the tokenizer of {spec}")
    return VisionLanguageModel(clip, tokenizer, spec=spec, config=config, weights_file=weights)


def _load_open_clip(spec: str) -> VisionLanguageModel:
    import open_clip

    from cmai_core.models.wrapper import VisionLanguageModel

    architecture, tag = spec.rsplit("/", 1)
    architecture = architecture.replace("/", "-")
    if architecture not in open_clip.list_models():
        raise _unknown(spec)
    seed = re.fullmatch(r"random(?:-(\d{1,9}))?", tag)
    weights = None
    if seed is not None:
        clip = _random(architecture, int(seed.group(1) or 0))
    else:
        from open_clip.pretrained import get_pretrained_cfg

        tag_config = get_pretrained_cfg(architecture, tag)
        if not tag_config:
            tags = open_clip.list_pretrained_tags_by_model(architecture)
            near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:5]
            raise ModelError(
                f"open_clip has no weights {tag!r} for {architecture}.",
                f"Known: {', '.join(near) or 'none'}; or {architecture}/random. {_LIST_HINT}",
            )
        clip, weights = _pretrained(architecture, tag, tag_config)
    tokenizer = _guarded(lambda: open_clip.get_tokenizer(architecture), f"the tokenizer of {architecture}")
    return VisionLanguageModel(clip, tokenizer, spec=spec, weights_file=weights)


def _pretrained(architecture: str, tag: str, tag_config: dict[str, Any]) -> tuple[torch.nn.Module, Path | None]:
    """An open_clip model with the weights of a tag, and the file they are in (None where open_clip fetches it itself).

    The activation is the one that the weights were trained with (open_clip only warns of a QuickGELU mismatch).
    """
    options = {"force_quick_gelu": bool(tag_config.get("quick_gelu"))}
    if not tag_config.get("hf_hub"):
        return _create(architecture, str(tag_config.get("url") or tag), pretrained=tag, **options), None
    repository, _, filename = tag_config["hf_hub"].rpartition("/")
    weights = fetch(repository, *weight_files(filename))
    keys = ("mean", "std", "interpolation", "resize_mode")
    options["force_preprocess_cfg"] = {key: tag_config[key] for key in keys if tag_config.get(key) is not None}
    return _create(architecture, f"{weights.name} of {repository}", pretrained=str(weights), **options), weights


def _random(architecture: str, seed: int) -> torch.nn.Module:
    """An open_clip architecture with random weights; the global random state is left as found."""
    import open_clip
    import torch

    from cmai_core.models.architectures import initialise_decoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            clip = open_clip.create_model(
                architecture, load_weights=False, force_custom_text=True, pretrained_text=False, pretrained_image=False
            )
        except Exception as error:
            raise ModelError(
                f"{architecture} cannot be built here: {_first_line(error)}", "Choose another model."
            ) from error
        if getattr(clip, "text_decoder", None) is not None:
            initialise_decoder(clip)
    return clip


def _create(source: str, where: str, pretrained: str | None = None, **options: Any) -> torch.nn.Module:
    import open_clip

    options |= {"force_custom_text": True, "require_pretrained": True, "weights_only": True, "precision": "fp32"}
    return _guarded(lambda: open_clip.create_model(source, pretrained, **options), where)


def _guarded(action: Any, where: str) -> Any:
    """Run `action`, turning what goes wrong in open_clip and below into a ModelError that says what to do."""
    try:
        return action()
    except ModelError:
        raise
    except Exception as error:
        raise _explained(error, where) from error


def _explained(error: BaseException, where: str) -> ModelError:
    chain, current = [], error
    while current is not None and len(chain) < 10:
        chain.append(current)
        current = current.__cause__ or current.__context__
    text = " ".join(f"{type(e).__name__} {e}" for e in chain)
    if "UnpicklingError" in text or "weights_only" in text or "Weights only load failed" in text:
        return ModelError(
            f"Refused to read {where}: it is a Python pickle that could run code.",
            "Convert it to safetensors on a machine you trust it on.",
        )
    if "Safetensor" in text or "PytorchStreamReader" in text or "EOFError" in text:
        return ModelError(f"Could not read {where}: the file is damaged or incomplete.", "Fetch or save it again.")
    if "loading state_dict" in text or "size mismatch" in text:
        return ModelError(f"The weights do not fit the architecture: {where}.", "Check open_clip_config.json.")
    network = ("Failed to download", "URLError", "HTTPError", "ConnectionError", "LocalEntryNotFound", "connect to")
    if any(sign in text for sign in network):
        return ModelError(
            f"Could not fetch {where}.",
            f"Fetch it on a machine with a network and put it into a folder with {_CONFIG_FILE}: local-dir:<folder>.",
        )
    return ModelError(f"Could not load {where}: {_first_line(error)}", "Check the model's files.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _unknown(spec: str) -> ModelError:
    """The error for a name that is neither bundled nor open_clip's, with the nearest names that are."""
    import open_clip

    architectures = open_clip.list_models()
    bundled = [card.name for card in bundled_models()]
    if spec in architectures:
        tags = open_clip.list_pretrained_tags_by_model(spec)
        options = [f"{spec}/{tag}" for tag in tags[:4]] + [f"{spec}/random"]
        return ModelError(f"{spec} is an architecture, not a model.", f"Say which weights: {', '.join(options)}.")
    base = spec.split("/")[0]
    by_case = {name.lower(): name for name in [*bundled, *architectures]}
    matches = difflib.get_close_matches(base.lower(), by_case, n=4, cutoff=0.5)
    near = f"Did you mean {', '.join(by_case[match] for match in matches)}? " if matches else ""
    known = f"Bundled: {', '.join(bundled)}. " if bundled else ""
    return ModelError(f"Unknown model {spec!r}.", f"{near}{known}{_LIST_HINT}")
