"""Files of Hugging Face repositories: from the cache without asking the network, else fetched, else a clear error."""

from __future__ import annotations

from pathlib import Path

from cmai_core.errors import ModelError

_PROBE_SECONDS = 5.0


def weight_files(filename: str) -> list[str]:
    """Return the names to try for open_clip weights, safetensors first. "" stands for open_clip's default name."""
    if filename in ("", "open_clip_pytorch_model.bin"):
        return ["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"]
    stem, dot, suffix = filename.rpartition(".")
    return [f"{stem}.safetensors", filename] if dot and suffix in ("bin", "pth", "pt") else [filename]


def fetch(repository: str, *names: str) -> Path:
    """Return the first of the named files that the repository has, as a local path.

    Args:
        repository: "organisation/name" on the Hugging Face Hub.
        names: file names in order of preference.

    Raises:
        ModelError: neither cached nor to be had; says which file, from where, and how to place it by hand.
    """
    for name in names:
        if (path := cached(repository, name)) is not None:
            return path
    reason = _unreachable()
    if reason is None:
        from huggingface_hub import hf_hub_download

        for name in names:
            try:
                return Path(hf_hub_download(repository, name))
            except Exception as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    raise ModelError(
        f"Could not fetch {names[0]} from https://huggingface.co/{repository}: {reason}",
        f"With a network: `hf download {repository}`, then copy its cache folder ($HF_HOME, by default "
        "~/.cache/huggingface) to this machine. Or put open_clip_config.json and the weights into a folder and load "
        "local-dir:<folder>.",
    )


def cached(repository: str, name: str) -> Path | None:
    """Return the local path of a repository's file; None where it is not in the cache, or the name is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, name)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _unreachable() -> str | None:
    """Say why the hub cannot be asked; None where it can. One short request, without the library's long retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set."
    try:
        from huggingface_hub.utils import get_session

        get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception as error:
        return f"no connection to {constants.ENDPOINT} ({type(error).__name__})."
    return None
