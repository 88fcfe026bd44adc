"""How the attack of a recipe is made from options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Maker:
    """A function that makes attacks, with what is known of its options.

    Attributes:
        make: options → attack.
        options: names of the options.
        sources: functions and dataclasses whose defaults hold for options that are not given, the first that has one.
    """

    make: Callable[..., Any]
    options: tuple[str, ...]
    sources: tuple[Callable[..., Any], ...] = ()

    def __call__(self, **options: Any) -> Any:
        return self.make(**options)


def options_of(make: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a maker's options: a `Maker`'s, or the keywords of a plain function but for `threat`."""
    if isinstance(make, Maker):
        return make.options
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(make).parameters.values()
    return tuple(p.name for p in parameters if p.kind in named and p.name != "threat")


def default_of(make: Callable[..., Any], name: str) -> Any:
    """Return the default of an option of a maker, None where it has none."""
    for source in make.sources if isinstance(make, Maker) else (make,):
        if dataclasses.is_dataclass(source):
            known = {field.name: field.default for field in dataclasses.fields(source)}
            absent = dataclasses.MISSING
        else:
            known = {p.name: p.default for p in inspect.signature(source).parameters.values()}
            absent = inspect.Parameter.empty
        if known.get(name, absent) is not absent:
            return known[name]
    return None


def option_names(*kinds: type, without: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of the options of some dataclasses, in order, each once."""
    found = dict.fromkeys(f.name for kind in kinds for f in dataclasses.fields(kind) if f.init)
    return tuple(name for name in found if name not in set(without))
