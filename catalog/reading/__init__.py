"""Reads tables (CSV, JSON, parquet) and JSON documents row by row, within limits."""

import itertools
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from catalog.files import READ_ERRORS, Fault, Files
from catalog.privacy import SAMPLE_ROWS, looks_personal
from catalog.reading.delimited import read_delimited
from catalog.reading.encodings import detect_encoding, open_text
from catalog.reading.json_rows import HEAD_CHARS, is_document, read_document, read_items, read_lines
from catalog.reading.parquet import read_parquet
from catalog.reading.records import MAX_FIELD_CHARS, Header, Record, join_lines
from catalog.schema import DataError

__all__ = ["MAX_FIELD_CHARS", "Record", "read_json_items", "read_rows", "refuse_personal_columns"]

DELIMITED = (".csv", ".tsv", ".txt")
JSON = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*DELIMITED, *JSON, ".parquet")
JSON_START = re.compile(r'\s*(\{\s*["}]|\[\s*[{\]])')
ARCHIVE = b"PK\x03\x04"


def read_rows(
    files: Files,
    name: str,
    columns: Sequence[str] = (),
    optional: Sequence[str] = (),
    encoding: str | None = None,
    delimiter: str | None = None,
    header: Sequence[str] = (),
) -> Iterator[Record]:
    """Read the rows of a .csv, .tsv, .txt, .jsonl, .ndjson, .json or .parquet file, each also as .gz.

    A text file is read as what it contains, whatever its suffix. Rows that cannot be read are added to the faults of
    the files; the columns of a CSV or parquet file to `files.headers`.

    Args:
        files: The files of the source.
        name: The table's name in these files.
        columns: Required columns.
        optional: Columns that a CSV or parquet file must have, but that a row of JSON may omit.
        encoding: Encoding of a text file; by default detected.
        delimiter: Delimiter of a CSV; by default detected.
        header: Columns of a CSV without a header.

    Raises:
        DataError: if the file cannot be read, or lacks a column.
    """
    suffix = PurePosixPath(name.removesuffix(".gz").lower()).suffix
    if suffix not in SUFFIXES:
        raise DataError(f"{files.source}: {name} is not one of {', '.join(SUFFIXES)}")
    with _explain_errors(files, name):
        if suffix == ".parquet":
            with files.open(name) as stream:
                yield from _check_items(files, name, read_parquet(stream, name), columns, optional)
        else:
            items = _read_text(
                files, name, encoding, partial(read_delimited, delimiter=delimiter, header=header)
            )
            yield from _check_items(files, name, items, columns, optional)


def _read_text(
    files: Files,
    name: str,
    encoding: str | None,
    read_table: Callable[..., Iterator[Header | Record | Fault]],
) -> Iterator[Header | Record | Fault]:
    """Read a text file; its content decides whether it is JSON."""
    if not encoding:
        with files.open(name) as stream:
            encoding = detect_encoding(stream, name)
    with files.open(name) as stream, open_text(stream, encoding) as text:
        head = text.read(HEAD_CHARS)
    if head.encode("latin-1", "replace").startswith(ARCHIVE):
        raise DataError(f"{name} is an archive or an Excel workbook, not text; export it as CSV in UTF-8")
    is_json = bool(JSON_START.match(head)) or name.removesuffix(".gz").lower().endswith(JSON)
    if is_json and is_document(head):
        with ExitStack() as stack:
            yield from read_document(
                lambda: stack.enter_context(open_text(stack.enter_context(files.open(name)), encoding)), name
            )
        return
    with files.open(name) as stream, open_text(stream, encoding) as text:
        yield from (read_lines if is_json else read_table)(text, name)


def _check_items(
    files: Files,
    name: str,
    items: Iterator[Header | Record | Fault],
    columns: Sequence[str],
    optional: Sequence[str],
) -> Iterator[Record]:
    """Yield the rows; checks the header, or the columns of each row if there is none."""
    has_header = False
    for item in items:
        if isinstance(item, Record):
            if not has_header and (missing := [column for column in columns if column not in item.values]):
                files.add_fault(item.where, f"lacks {', '.join(missing)}")
                continue
            yield item
        elif isinstance(item, Header):
            has_header = True
            files.headers[name] = item.columns
            _check_header(name, item.columns, [*columns, *optional])
        else:
            files.add_fault(*item)


def _check_header(name: str, header: Sequence[str], columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in header]:
        raise DataError(f"{name}: no column {', '.join(missing)}; it has {', '.join(header[:20])}")
    if duplicate := next((column for column in columns if header.count(column) > 1), None):
        raise DataError(f"{name}: two columns are named '{duplicate}'; rename one")


def refuse_personal_columns(
    records: Iterable[Record], used: Collection[str], allowed: Collection[str]
) -> Iterator[Record]:
    """Pass the rows of a table through, unless an unused column looks personal.

    Args:
        records: The rows; the check reads the first `SAMPLE_ROWS`.
        used: Columns that we import.
        allowed: Columns that the user allows.

    Raises:
        DataError: if a column looks personal.
    """
    stream = iter(records)
    sample = list(itertools.islice(stream, SAMPLE_ROWS))
    for name in dict.fromkeys(name for record in sample for name in record.values):
        if name in used or name in allowed:
            continue
        if reason := looks_personal(name, (record.values.get(name) for record in sample)):
            file = re.sub(r" (line|row|item) \d+$", "", sample[0].where)
            raise DataError(
                f"{file}: a column {reason}, which looks like personal data; remove it, "
                f"or allow it: --personal {shlex.quote(name)}"
            )
    yield from itertools.chain(sample, stream)


def read_json_items(files: Files, name: str, path: str) -> Iterator[Any]:
    """Read the items of a large JSON document one by one.

    Args:
        files: The files of the source.
        name: The document's name in these files.
        path: ijson path of the items: "item", "annotations.item".

    Raises:
        DataError: if the document cannot be read.
    """
    with _explain_errors(files, name), files.open(name) as stream:
        yield from read_items(stream, name, path)


@contextmanager
def _explain_errors(files: Files, name: str) -> Iterator[None]:
    """Errors while a file is read become a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(
            f"{files.source}: {name} cannot be read ({join_lines(error)}); download it again"
        ) from error
