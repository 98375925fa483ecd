"""Name → implementation, filled by a decorator: what `ENCODERS`, `FUSIONS` and `LOSSES` are."""

from collections.abc import Callable
from typing import Generic, TypeVar

import plugins

T = TypeVar("T")


class PluginRegistry(Generic[T]):
    """The implementations that params.yaml can name. Plugins are imported at the first lookup.

    Args:
        kind: What it holds, for the error message.
        other_names: Names that are accepted besides the entries, for the error message.
    """

    def __init__(self, kind: str, *other_names: str) -> None:
        self.kind, self.other_names = kind, other_names
        self._entries: dict[str, T] = {}

    def __call__(self, name: str) -> Callable[[T], T]:
        """Decorate a class or function to register it under `name`."""

        def add(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return add

    @property
    def entries(self) -> dict[str, T]:
        """All entries by name, including those of plugins."""
        plugins.load()
        return self._entries

    def __getitem__(self, name: str) -> T:
        entries = self.entries
        if name not in entries:
            known = ", ".join((*entries, *self.other_names))
            raise ValueError(f"unknown {self.kind} '{name}'; known are {known}")
        return entries[name]
