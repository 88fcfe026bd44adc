"""Named parts, the project's own and those that other installed packages bring.

    TASKS = Registry("task", "cmai.tasks", {"vqa": "cmai_core.tasks.vqa:VQA", ...})
    TASKS.find("vqa")

A package joins by an entry point in its own `pyproject.toml` (`[project.entry-points."cmai.tasks"]`), without a line
changed here. Nothing but installed packages is ever looked at: a dataset, a model folder or a link brings no code.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, Generic, TypeVar

from cmai_core.errors import CmaiWarning, OptionError

T = TypeVar("T")


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> Any:
    return importlib.metadata.entry_points()  # EntryPoints; Python 3.11 has another class with the same `select`


def entry_points(group: str) -> EntryPoints:
    """Return the entry points of a group; what is installed is read once for all groups, which takes a while."""
    return _installed(tuple(sys.path)).select(group=group)


def imported(name: str) -> Any:
    """Return what "module:attribute" names.

    Raises:
        ImportError, AttributeError: there is no such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


class Registry(Mapping[str, T], Generic[T]):
    """Parts of one kind by name: the built-in ones in their order, then those of other packages by name.

    Args:
        kind: what a part is, in messages ("task").
        group: the entry point group of other packages ("cmai.tasks").
        parts: name → part, or "module:attribute" of a part that is imported when it is asked for.
        refuse: (name, part) → why a package's part cannot be used, or "" where it can.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        parts: Mapping[str, T | str],
        refuse: Callable[[str, Any], str] = lambda name, part: "",
    ):
        self.kind, self.group = kind, group
        self._parts: dict[str, Any] = dict(parts)
        self._refuse = refuse
        self._lock = threading.RLock()
        self._complete = self._discovering = False

    def add(self, name: str, part: T) -> None:
        """Add a part in this process.

        Raises:
            OptionError: the name is taken, or the part cannot be used.
        """
        if reason := self._refuse(name, part):
            raise OptionError(f"{name!r} is no {self.kind} that can be used: {reason}")
        with self._lock:
            if name in self._discovered():
                raise OptionError(f"There is a {self.kind} {name!r} already.", "Choose another name.")
            self._parts[name] = part

    def find(self, name: str) -> T:
        """Return the part of a name.

        Raises:
            OptionError: there is none; the message lists those there are.
        """
        if isinstance(name, str) and name in self:
            return self[name]
        parts = self._discovered()
        close = difflib.get_close_matches(str(name), parts, n=1)
        raise OptionError(
            f"There is no {self.kind} {str(name)[:200]!r}" + (f"; did you mean {close[0]!r}?" if close else "."),
            f"Accepted: {', '.join(parts)}.",
        )

    def __getitem__(self, name: str) -> T:
        # Reading what is installed takes time, which a built-in part need not wait for: nobody can take its name.
        part = self._parts[name] if name in self._parts else self._discovered()[name]
        if isinstance(part, str):
            part = self._parts[name] = imported(part)
        return part

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._discovered()

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._discovered()))

    def __len__(self) -> int:
        return len(self._discovered())

    def _discovered(self) -> dict[str, Any]:
        if not self._complete:
            with self._lock:
                if not self._complete and not self._discovering:
                    self._discovering = True  # a package's module may read the registry: it gets the parts so far
                    for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
                        self._take(entry)
                    self._complete = True
        return self._parts

    def _take(self, entry: EntryPoint) -> None:
        """Take a package's part, or leave it out with a warning: a broken package must not end the rest."""
        package = entry.dist.name if entry.dist else entry.value
        try:
            if entry.name in self._parts:
                raise OptionError(f"there is a {self.kind} of that name already.")
            part = entry.load()
            if reason := self._refuse(entry.name, part):
                raise OptionError(reason)
        except Exception as error:
            warnings.warn(
                f"The {self.kind} {entry.name!r} of the package {package} is left out: {error}",
                CmaiWarning,
                stacklevel=4,
            )
        else:
            self._parts[entry.name] = part
