"""Importers of published formats and of your own tables: one file per format, registered by name.

Formats outside of this package are files in `plugins/`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, TypeVar

import plugins
from catalog.columns import format_header
from catalog.conversion import EmptyDataError, Rejection, Row, convert
from catalog.download import Downloader
from catalog.files import Files
from catalog.schema import HUMAN, DataError
from catalog.splits import assign_splits

Importer = TypeVar("Importer", bound=Callable[..., Iterator[Row | Rejection]])

# Name → function(files: Files, *, option=default, …) that yields products, then queries, then judgements; a rejection
# for what it leaves out. The first line of its docstring is the help of the format, "Args:" is that of the options.
# Look names up with `load_sources`.
SOURCES: dict[str, Callable[..., Iterator[Row | Rejection]]] = {}

# Name → function of the same arguments that yields lines: how the source would be imported.
PREVIEWS: dict[str, Callable[..., Iterator[str]]] = {}


def source(name: str) -> Callable[[Importer], Importer]:
    """Register a format: `python -m catalog import NAME SRC --out DIR`."""

    def register(importer: Importer) -> Importer:
        SOURCES[name] = importer
        return importer

    return register


def preview_data(name: str, source: Path, **options: Any) -> Iterator[str]:
    """Describe how a source would be imported, line by line; writes nothing.

    Args:
        name: Name of a format of `PREVIEWS`.
        source: The file, zip or folder as published.
        options: Options of the format.

    Raises:
        DataError: if the source does not have the layout of the format.
    """
    with Files(source) as files:
        yield from PREVIEWS[name](files, **options)


def load_sources() -> Mapping[str, Callable[..., Iterator[Row | Rejection]]]:
    """Load the plugins, and return all importers by the name of their format."""
    plugins.load()
    return SOURCES


def importer_options(name: str) -> Mapping[str, inspect.Parameter]:
    """The options of a format by name: the keyword-only arguments of its importer."""
    return {
        key: parameter
        for key, parameter in inspect.signature(load_sources()[name]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def query_rows(where: str, query_ids: Mapping[str, str], judged_by: str = HUMAN) -> Iterator[Row]:
    """Yield the queries of a source that has no splits; assigns the splits.

    Args:
        where: The file of the queries.
        query_ids: Normalised text → id.
        judged_by: One of `catalog.schema.JUDGED_BY`.
    """
    splits = assign_splits(query_ids)
    for text, query_id in query_ids.items():
        values = {"query_id": query_id, "text": text, "split": splits[text], "judged_by": judged_by}
        yield Row("queries", where, values)


def import_data(name: str, source: Path, out: Path, private: bool = False, **options: Any) -> dict[str, int]:
    """Import a data set; the same source and options give the same bytes.

    Args:
        name: Name of the format; see `load_sources`.
        source: The file, zip or folder as published.
        out: The new data set.
        private: Whether pictures may be downloaded from servers with private addresses.
        options: Options of the format.

    Returns:
        Number of rows by table, and of rejections; see `catalog.conversion.convert`.

    Raises:
        DataError: if the source does not have the layout of the format.
    """
    importer = load_sources()[name]
    paths = [source, *(sorted(source.iterdir()) if source.is_dir() else [])]
    provenance = {
        "format": name,
        "options": {key: str(value) for key, value in options.items()},
        "files": [
            [str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths if path.exists()
        ],
    }
    with Downloader(out.with_name(f".{out.name}.downloads"), private) as downloader:
        with Files(source, downloader) as files:
            try:
                counts = convert(name, importer(files, **options), files.faults, out, provenance)
            except EmptyDataError as error:
                downloader.clear()
                raise _add_header(error, files) from error
        downloader.clear()
    return counts


def _add_header(error: EmptyDataError, files: Files) -> DataError:
    """Add the header of the source's table, if it has one, and what to do."""
    header = files.headers.get(files.source.name)
    columns = f"; the header is {format_header(header)}" if header else ""
    return DataError(f"{error}{columns}; see --dry-run, and name columns with --map OURS=THEIRS")


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
