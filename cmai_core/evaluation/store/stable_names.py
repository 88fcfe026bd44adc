"""Names of classes and functions in addresses, which do not change when code moves to another module.

An address hashes what an attack is made of, and so the names of its parts. Were these names dotted paths of modules, a
moved file would silently orphan everything that a store on somebody's disk holds.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from cmai_core.errors import CmaiError

PACKAGE = "cmai_core"


class AmbiguousName(CmaiError):
    """Two classes of the project share one name in addresses."""


@cache
def first_modules() -> dict[str, tuple[str, ...]]:
    """Map a class's name to the modules in which classes of that name were when names were fixed."""
    found: dict[str, tuple[str, ...]] = {}
    for line in files(__package__).joinpath("stable_names.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            module, _, names = line.partition(": ")
            for name in names.split():
                found[name] = (*found.get(name, ()), module)
    return found


def stable_name(code: Any) -> str:
    """Name a class or function for an address.

    Args:
        code: a class or function. Of the project's own, the name is independent of the module: the one that it had when
            names were fixed; `cmai_core.<qualified name>` for what came later. Where several had one name, the class
            says which it is by an attribute `stable_name`. Of other packages it is the dotted path.

    Raises:
        AmbiguousName: several classes had this name and this one does not say which it is.
    """
    if code.__module__.partition(".")[0] != PACKAGE:
        return f"{code.__module__}.{code.__qualname__}"
    declared = vars(code).get("stable_name")
    if isinstance(declared, str):
        return declared
    first = code.__qualname__.partition(".")[0]
    modules = first_modules().get(first, (PACKAGE,))
    if len(modules) > 1:
        raise AmbiguousName(
            f"{code.__module__}.{code.__qualname__} shares its name with a class of {' and '.join(modules)}.",
            f"Give it a class attribute stable_name, such as '{modules[0]}.{code.__qualname__}'.",
        )
    return f"{modules[0]}.{code.__qualname__}"
