"""What users add from modules of their own: the registries, and the import of a module that the config names.

Owns names. What a method, a solver or a metric is, is said where its registry is made (`methods`, `mixer.surgery`). Only modules
that the user names are imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Generic, TypeVar

from compact_ds.errors import ConfigError

T = TypeVar("T")

_ADDED: dict[str, dict[str, object]] = {}


class Registry(Generic[T]):
    """Things of one kind that users added, by name; `taken` are the names that the package itself has."""

    def __init__(self, kind: str, taken: Sequence[str] = ()) -> None:
        self._kind, self._taken = kind, taken
        self._items: dict[str, T] = {}
        _ADDED[kind] = self._items  # type: ignore[assignment]

    def add(self, name: str, item: T) -> None:
        """Make `item` known by `name`. The same name again replaces it, as a notebook's cell does that is run twice.

        Raises ConfigError for a name that the package has or that could not be written in a config.
        """
        if name in self._taken or not name.isidentifier():
            expected = f"a name of letters, digits and _ that no {self._kind} of the package has"
            raise ConfigError(self._kind, name, expected, "choose another name")
        self._items[name] = item

    def get(self, name: str) -> T | None:
        """What was added by that name, or None."""
        return self._items.get(name)


def added(kind: str) -> tuple[str, ...]:
    """Names that were added to the registry of that kind, in order; none when nobody imported it."""
    return tuple(_ADDED.get(kind, ()))


def imported(key: str, module: str) -> ModuleType:
    """The user's module that config key `key` names. Raises ConfigError when it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = f"install it or put its folder on PYTHONPATH ({error})"
        raise ConfigError(key, module, "a module that Python finds", remedy) from error
    except ValueError as error:
        raise ConfigError(key, module, "a module's dotted name", str(error)) from None
