"""Your own fusions, metrics and importers: put a module into this folder, and its names can be used everywhere.

A module registers a name with a decorator, as `@FUSIONS("mean")`, `@metric("name")` or `@source("name")`. The modules
are imported when a name is looked up for the first time. The stages that look up names depend on this folder, the
image holds it, and it is logged with each model, together with the packages that a plugin may import: catalog,
vitrine_judge and fusion.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules


def load() -> None:
    """Import every module of this folder, in alphabetical order; a second call does nothing."""
    _import_modules(tuple(__path__))


@cache  # names are looked up in each step of training, and listing a folder takes time
def _import_modules(folders: tuple[str, ...]) -> None:
    for module in sorted(iter_modules(folders), key=lambda module: module.name):
        import_module(f"plugins.{module.name}")
