"""Published formats, and tables of your own, as Vitrine data sets: one file per format, found by name in `SOURCES`."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, TypeVar

from catalog.conversion import Row, convert
from catalog.download import Web
from catalog.reading import Files
from catalog.schema import HUMAN
from catalog.splits import split

Importer = TypeVar("Importer", bound=Callable[..., Iterator[Row]])

# name → function(files: Files, *, …), which gives products, then queries, then judgements; its keyword arguments are
# the format's options, with their defaults, and the first line of its docstring says what it reads
SOURCES: dict[str, Callable[..., Iterator[Row]]] = {}


def source(name: str) -> Callable[[Importer], Importer]:
    """Register a format: `python -m catalog import NAME SRC --out DIR`."""

    def register(importer: Importer) -> Importer:
        SOURCES[name] = importer
        return importer

    return register


def options(name: str) -> Mapping[str, inspect.Parameter]:
    """The options of a format, by name."""
    return {
        key: one
        for key, one in inspect.signature(SOURCES[name]).parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY
    }


def own_queries(where: str, asked: Mapping[str, str], judged_by: str = HUMAN) -> Iterator[Row]:
    """The queries of a source that nobody split.

    Args:
        where: The file they are in.
        asked: Normalised text → id.
        judged_by: Of `catalog.schema.JUDGED_BY`.
    """
    splits = split(asked)
    for text, identity in asked.items():
        own = {"query_id": identity, "text": text, "split": splits[text], "judged_by": judged_by}
        yield Row("queries", where, own)


def import_from(name: str, source: Path, out: Path, private: bool = False, **chosen: Any) -> dict[str, int]:
    """Import a data set; the same source and options give the same bytes.

    Args:
        name: Of the format; see `SOURCES`.
        source: The file, zip or folder as published.
        out: Gets the data set.
        private: Whether pictures may be downloaded from addresses that only this network knows.
        chosen: Options of the format.

    Returns:
        Rows by table, and how many were left out; see `catalog.conversion.convert`.

    Raises:
        DataError: where the source is not what the format says.
    """
    looked = [source, *(sorted(source.iterdir()) if source.is_dir() else [])]
    made_from = {
        "format": name,
        "options": {key: str(value) for key, value in chosen.items()},
        "files": [[str(one), one.stat().st_size, one.stat().st_mtime_ns] for one in looked if one.exists()],
    }
    with Web(out.with_name(f".{out.name}.downloads"), private) as web:
        with Files(source, web) as files:
            counts = convert(name, SOURCES[name](files, **chosen), files.faults, out, made_from)
        web.forget()
    return counts


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
