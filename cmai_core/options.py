"""Options that refuse what they do not know: every check names the accepted values."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Sequence
from typing import TypeVar

from cmai_core.errors import OptionError

T = TypeVar("T")


def strict_options(cls: type[T]) -> type[T]:
    """Make a dataclass refuse unknown keywords with `OptionError` and the accepted names (a class decorator)."""
    assert dataclasses.is_dataclass(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    plain_init = cls.__init__

    @functools.wraps(plain_init)
    def __init__(self: T, *args: object, **options: object) -> None:
        unknown = sorted(set(options) - set(names))
        if unknown:
            raise OptionError(
                f"{cls.__name__} has no option {', '.join(map(repr, unknown))}.", f"Accepted: {', '.join(names)}."
            )
        plain_init(self, *args, **options)

    setattr(cls, "__init__", __init__)  # noqa: B010 (assigned plainly, a type checker takes it for a mistake)
    return cls


def one_of(name: str, value: object, accepted: Sequence[object]) -> None:
    """Raise unless the value is among the accepted ones."""
    if value not in accepted:
        raise OptionError(f"{name}={value!r} is not known.", f"Accepted: {', '.join(map(str, accepted))}.")


def whole(name: str, value: object, least: int) -> None:
    """Raise unless the value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name}={value!r} is not accepted.", f"Accepted: whole numbers from {least}.")


def number(name: str, value: object, low: float, high: float = math.inf, *, above_low: bool = False) -> None:
    """Raise unless the value is a finite number in [low, high] (or in (low, high] with `above_low`)."""
    # Compared, not converted: a whole number may be too large for a float.
    fits = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
        and low <= value <= high
        and not (above_low and value == low)
    )
    if not fits:
        start = f"above {low:g}" if above_low else f"from {low:g}"
        end = f" to {high:g}" if math.isfinite(high) else ""
        raise OptionError(f"{name}={value!r} is not accepted.", f"Accepted: numbers {start}{end}.")


def flag(name: str, value: object) -> None:
    """Raise unless the value is True or False."""
    if not isinstance(value, bool):
        raise OptionError(f"{name}={value!r} is not accepted.", "Accepted: True, False.")
