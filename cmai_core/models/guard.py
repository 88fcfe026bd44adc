"""Errors of open_clip and of what lies below it, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cmai_core.errors import CmaiError, ModelError

_Result = TypeVar("_Result")
_NETWORK = ("Failed to download", "URLError", "HTTPError", "ConnectionError", "LocalEntryNotFound", "connect to")


def guarded(action: Callable[[], _Result], where: str) -> _Result:
    """Run `action`, turning what goes wrong in open_clip and below into a ModelError.

    Args:
        action: a call that reads or builds something of a model. where: what it reads or builds, for the error.

    Raises:
        ModelError: whatever `action` raised, explained.
    """
    try:
        return action()
    except (CmaiError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic in Rust (tokenizers, safetensors) is not an Exception
        raise _explained(error, where) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


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
    if any(sign in text for sign in _NETWORK):
        return ModelError(
            f"Could not fetch {where}.",
            "Fetch it on a machine with a network and put it into a folder with open_clip_config.json: "
            "local-dir:<folder>.",
        )
    return ModelError(f"Could not load {where}: {first_line(error)}", "Check the model's files.")
