"""The models of the lab: which there are, and those that are in memory."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.access import permissions
from app.services import downloads
from cmai_core.data.registry import DATASETS, DEFAULT_DATASET, PHOTOGRAPHS
from cmai_core.errors import CmaiError, ModelError
from cmai_core.lab.experiment import DEFENDED, UNDEFENDED
from cmai_core.progress import Progress

if TYPE_CHECKING:
    from cmai_core.models import ModelCard

_log = logging.getLogger("cmai.app")

MODELS_IN_MEMORY = 4


class ModelCache:
    """The models used last, at most `capacity`; one thread at a time loads."""

    def __init__(self, capacity: int = MODELS_IN_MEMORY):
        self._capacity = capacity
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = ""

    def get(self, spec: str) -> Any:
        """Return the model of a specification, and load it if it is not in memory.

        Raises:
            ModelError: visitors may not use it, it is not on the disk, or it cannot be loaded.
        """
        permissions.require(spec)
        # Nothing is downloaded here: this lock, and the worker's thread, are everybody's.
        if spec not in self._models and not downloads.here(spec):
            raise ModelError(
                f"{permissions.display_name(spec)} has not been downloaded yet.",
                "Attack a pair with it first: that downloads it.",
            )
        with self._lock:
            if spec in self._models:
                self._models.move_to_end(spec)
                return self._models[spec]
            self._loading = spec
            try:
                model = _load(spec)
            finally:
                self._loading = ""
            self._models[spec] = model
            while len(self._models) > self._capacity:
                self._models.popitem(last=False)
            return model

    def in_memory(self, spec: str) -> Any:
        """Return the model of a specification if it is in memory, else None; asking is no use of it."""
        return self._models.get(spec)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Specifications of the models in memory."""
        return tuple(self._models)

    @property
    def loading(self) -> str:
        """Specification of the model that is being loaded, or ""."""
        return self._loading


def _load(spec: str) -> Any:
    """Load a model. If it is not a bundled one, what is wrong with its files goes to the log only."""
    from cmai_core.models import load_model

    try:
        model = load_model(spec)
    except CmaiError as error:
        if permissions.bundled(spec):
            raise
        _log.warning("%s cannot be loaded: %s %s", spec, error.message, error.hint)
        raise ModelError(
            f"{permissions.display_name(spec)} cannot be loaded.",
            "Choose another model; the lab's log says what is wrong.",
        ) from None
    model.name = permissions.display_name(spec)  # visitors are told no folder of this machine
    return model


@st.cache_resource(show_spinner=False)
def model_cache() -> ModelCache:
    """Return the one cache of this process."""
    return ModelCache()


def gpu_is_visible() -> bool:
    """Tell whether there is an NVIDIA device, without importing torch."""
    return Path("/dev/nvidia0").exists()


@st.cache_resource(show_spinner=False, ttl=60)
def model_cards() -> Mapping[str, ModelCard]:
    """Return name → card of the bundled models whose weights are on the disk, undefended ones first.

    Only cards are read. They are cached as a resource, not as data: data is copied for each reader, and a rerun has
    dozens of them.
    """
    from cmai_core.models import bundled_models

    found = (c for c in bundled_models() if c.path and (c.path / "open_clip_model.safetensors").is_file())
    return MappingProxyType({card.name: card for card in found})


def catalogue() -> tuple[ModelCard, ...]:
    """Return the cards of the bundled models, undefended ones first."""
    return tuple(model_cards().values())


def is_defended(spec: str) -> bool | None:
    """Whether a model was trained against attacks, as its card says; None of one that is not bundled."""
    found = model_cards().get(spec)
    return None if found is None else found.defended


def default_model(defended: bool) -> str:
    """Return the name of the first bundled model of a kind, "" if there is none."""
    preferred = DEFENDED if defended else UNDEFENDED
    names = [entry.name for entry in catalogue() if entry.defended == defended and not entry.problem]
    return preferred if preferred in names else (names[0] if names else "")


def domain_of(spec: str) -> str:
    """Return the kind of pictures that a model was trained on, as far as its card tells, without loading it."""
    found = model_cards().get(spec)
    return PHOTOGRAPHS if found is None else str(found.card.get("domain", DATASETS[DEFAULT_DATASET].kind))


def gives_attention(spec: str) -> bool:
    """Whether a model's image tower gives out its attention; True of a model that is not in memory: nobody knows."""
    model = model_cache().in_memory(spec)
    return model is None or model.capabilities.image_attention


@st.cache_data(show_spinner=False)
def input_size(spec: str) -> tuple[int, int] | None:
    """Return (height, width) in pixels that a bundled model reads, None for others: they would have to be loaded."""
    card = model_cards().get(spec)
    if card is None or card.path is None:
        return None
    from cmai_core.models.configuration import CONFIG_FILE, read_config

    try:
        size = read_config(card.path / CONFIG_FILE)["model_cfg"]["vision_cfg"].get("image_size", 224)
    except ModelError:  # reported when it is loaded
        return None
    return (size, size) if isinstance(size, int) else tuple(size)


def load_models(specs: Mapping[str, str], cache: ModelCache, progress: Callable[[Progress], None]) -> dict[str, Any]:
    """Return role → model; each is named in the progress before it is loaded. Runs in the worker thread."""
    models = {}
    for role, spec in specs.items():
        progress(Progress(0, 0, f"Loading {permissions.display_name(spec)}"))
        models[role] = cache.get(spec)
    return models


def require_model(spec: str, role: str) -> str:
    """Return the specification if visitors may use it.

    Raises:
        ModelError: none is chosen, or it is not offered to visitors.
    """
    spec = spec.strip()
    if not spec:
        raise ModelError(f"No model {role} is chosen.", "Pick one from the list.")
    return permissions.require(spec)
