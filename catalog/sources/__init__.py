"""Public data sets as Vitrine data sets: one file per format, one function per file, found by name in `SOURCES`."""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

Importer = TypeVar("Importer", bound=Callable[..., None])

# name → function(source: Path, out: Path, …), which writes a data set.
SOURCES: dict[str, Callable[..., None]] = {}


def source(name: str) -> Callable[[Importer], Importer]:
    """Register an importer: `python -m catalog import NAME SRC --out DIR`."""

    def register(importer: Importer) -> Importer:
        SOURCES[name] = importer
        return importer

    return register


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
