"""Cross-Modal Adversarial Immunization: attacks, defences and trustworthy evaluation for vision-language models.

    import cmai_core as cmai

    report = cmai.attack("tabletop", "tabletop", recipe="pgd", epsilon=4, limit=16)

The names below are loaded when they are first used: importing the package alone imports no heavy library.
"""

from typing import TYPE_CHECKING

from cmai_core.lazy import lazily

if TYPE_CHECKING:
    from cmai_core.data import load_dataset
    from cmai_core.data.memory import InMemory
    from cmai_core.face import attack, consistency, evaluate, explain
    from cmai_core.models import load_model
    from cmai_core.models.wrap import wrap

__version__ = "0.1.0"
__all__ = ["InMemory", "attack", "consistency", "evaluate", "explain", "load_dataset", "load_model", "wrap"]

_HOME = {
    "InMemory": "cmai_core.data.memory",
    "attack": "cmai_core.face",
    "consistency": "cmai_core.face",
    "evaluate": "cmai_core.face",
    "explain": "cmai_core.face",
    "load_dataset": "cmai_core.data",
    "load_model": "cmai_core.models",
    "wrap": "cmai_core.models.wrap",
}

__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
