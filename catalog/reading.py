"""Reads tables (CSV, JSON lines, parquet) and JSON documents row by row, within limits."""

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.files import READ_ERRORS, Fault, Files
from catalog.privacy import SAMPLE_ROWS, looks_personal
from catalog.schema import DataError

MAX_LINE_BYTES = 16 << 20
MAX_FIELD_CHARS = 1 << 20
SNIFF_BYTES = 1 << 20  # read to detect the encoding
DELIMITERS = ",;\t|"


class Record(NamedTuple):
    """A row of a file, and its place in the file."""

    where: str
    values: dict[str, Any]


def read_rows(
    files: Files,
    name: str,
    columns: Sequence[str] = (),
    optional: Sequence[str] = (),
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Record]:
    """Read the rows of a .csv, .tsv, .jsonl, .json, .ndjson or .parquet file, each also as .gz.

    Rows that cannot be read are added to the faults of the files.

    Args:
        files: The files of the source.
        name: The table's name in these files.
        columns: Required columns.
        optional: Columns that a CSV or parquet file must have, but that a row of JSON may omit.
        encoding: Encoding of a CSV; by default detected from its first bytes.
        delimiter: Delimiter of a CSV; by default detected from its first line.

    Raises:
        DataError: if the file cannot be read, or lacks a column.
    """
    suffix = PurePosixPath(name.removesuffix(".gz").lower()).suffix
    if suffix not in READERS:
        raise DataError(f"{files.source}: {name} is not one of {', '.join(READERS)}")
    style = {"encoding": encoding, "delimiter": delimiter} if suffix in {".csv", ".tsv"} else {}
    required = columns if READERS[suffix] is _read_json_lines else [*columns, *optional]
    with _open_readable(files, name) as stream:
        for row in READERS[suffix](stream, name, required, **style):
            if isinstance(row, Fault):
                files.add_fault(*row)
            else:
                yield row


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
            file = re.sub(r" (line|row) \d+$", "", sample[0].where)
            raise DataError(
                f"{file}: a column {reason}, which looks like personal data; remove it, "
                f"or allow it: --personal {name}"
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
    with _open_readable(files, name) as stream:
        try:
            yield from ijson.items(stream, path, use_float=True)
        except (ijson.JSONError, UnicodeDecodeError, ValueError) as error:
            raise DataError(
                f"{files.source}: {name} is not JSON ({_join_lines(error)}); download it again"
            ) from error


@contextmanager
def _open_readable(files: Files, name: str) -> Iterator[IO[bytes]]:
    """Open a file; errors while it is read become a `DataError`."""
    try:
        with files.open(name) as stream:
            yield stream
    except DataError:
        raise
    except READ_ERRORS as error:
        raise DataError(
            f"{files.source}: {name} cannot be read ({_join_lines(error)}); download it again"
        ) from error


def _join_lines(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_csv(
    stream: IO[bytes],
    name: str,
    columns: Sequence[str],
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Record | Fault]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines = _read_lines(_decode(stream, encoding))
    header_line = next(lines, "")
    delimiter = delimiter or _detect_delimiter(header_line)
    header = [column.strip() for column in next(csv.reader([header_line], delimiter=delimiter), [])]
    reader = csv.reader(lines, delimiter=delimiter)
    _check_header(name, header, columns)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Fault(f"{name} line {reader.line_num + 1}", str(error))
            continue
        where = f"{name} line {reader.line_num + 1}"
        if not any(fields):
            continue
        if len(fields) != len(header):
            yield Fault(where, f"{len(fields)} values, but the header has {len(header)}")
            continue
        yield Record(where, dict(zip(header, fields, strict=True)))


def _decode(stream: IO[bytes], encoding: str | None) -> IO[str]:
    buffered = io.BufferedReader(stream, SNIFF_BYTES)  # type: ignore[type-var]
    head = buffered.peek(SNIFF_BYTES)[:SNIFF_BYTES]
    try:
        codec = codecs.lookup(encoding or _detect_encoding(head)).name
    except LookupError as error:
        raise DataError(f"--encoding {encoding}: Python does not know this encoding") from error
    return io.TextIOWrapper(buffered, codec, errors="surrogateescape", newline="")


def _detect_encoding(head: bytes) -> str:
    """Detect the encodings that Excel writes: UTF-8 with a byte order mark, UTF-16, or cp1252; else UTF-8."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _detect_delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)


def _read_lines(text: IO[str]) -> Iterator[str]:
    """Read lines; a line that is too long is cut."""
    while line := text.readline(MAX_LINE_BYTES):
        yield line
        while len(line) == MAX_LINE_BYTES and not line.endswith("\n"):
            line = text.readline(MAX_LINE_BYTES)


def _read_json_lines(stream: IO[bytes], name: str, columns: Sequence[str]) -> Iterator[Record | Fault]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES):
        number += 1
        where = f"{name} line {number}"
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            yield Fault(where, f"longer than {MAX_LINE_BYTES:,} bytes")
            while (line := stream.readline(MAX_LINE_BYTES)) and not line.endswith(b"\n"):
                pass
            continue
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Fault(where, f"not JSON ({error})")
            continue
        if not isinstance(values, dict):
            yield Fault(where, "not a JSON object")
        elif missing := [column for column in columns if column not in values]:
            yield Fault(where, f"lacks {', '.join(missing)}")
        else:
            yield Record(where, values)


def _read_parquet(stream: IO[bytes], name: str, columns: Sequence[str]) -> Iterator[Record | Fault]:
    number = 0
    try:
        parquet = pq.ParquetFile(pa.PythonFile(stream, mode="r"))
        _check_header(name, parquet.schema_arrow.names, columns)
        for batch in parquet.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Record(f"{name} row {number}", values)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"{name}: not a parquet file, or damaged ({_join_lines(error)}); download it again"
        ) from error


def _check_header(name: str, header: Sequence[str], columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in header]:
        raise DataError(f"{name}: no column {', '.join(missing)}; it has {', '.join(header[:20])}")
    if len(set(header)) < len(header):
        duplicate = next(column for column in header if header.count(column) > 1)
        raise DataError(f"{name}: two columns are named '{duplicate}'; rename one")


READERS: Mapping[str, Any] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}
