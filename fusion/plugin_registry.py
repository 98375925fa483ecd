"""Name → thing, filled by a decorator: what `ENCODERS` and `FUSIONS` are."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """What can be chosen by name in params.yaml.

    Args:
        kind: What it holds, for the error message.
        others: What can be chosen besides, likewise.
    """

    def __init__(self, kind: str, *others: str) -> None:
        self.kind, self.others = kind, others
        self.entries: dict[str, T] = {}

    def __call__(self, name: str) -> Callable[[T], T]:
        """Decorate a class or function to register it under `name`."""

        def add(entry: T) -> T:
            self.entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self.entries[name]
        except KeyError:
            known = ", ".join((*self.entries, *self.others))
            raise ValueError(f"unknown {self.kind} '{name}'; known are {known}") from None
