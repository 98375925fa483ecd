"""Files that others made, read row by row and within limits. Nothing is unpacked, and nothing outside is followed."""

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.download import Web
from catalog.images import Limits
from catalog.privacy import LOOKED_AT, looks_personal
from catalog.schema import DataError

LINE = 16 << 20  # bytes of a line, at most
FIELD = 1 << 20  # characters of a value, at most
FAULTS = 100_000  # rows, at a stretch, that cannot be read
SNIFFED = 1 << 20  # bytes that an encoding is told by
DELIMITERS = ",;\t|"
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    gzip.BadGzipFile,
    OSError,
    NotImplementedError,
    RuntimeError,
)


class Record(NamedTuple):
    """A row of a file, and where it stands."""

    where: str
    values: dict[str, Any]


class Picture(NamedTuple):
    """A picture or clip that is read when its row is written.

    Attributes:
        name: Under which it is kept.
        read: Its bytes; raises ValueError where it cannot be had.
    """

    name: str
    read: Callable[[], bytes]


class Fault(NamedTuple):
    """A row that cannot be read, where it stands, and why."""

    where: str
    reason: str


class Files:
    """A folder, a zip, or a single file with the folder that it is in; names are POSIX paths below it.

    Symbolic links that lead out of the folder are not there, nor are links within a zip.
    """

    def __init__(self, source: Path, web: Web | None = None) -> None:
        """
        Args:
            source: The folder, zip or file.
            web: Where pictures and clips are fetched from that are given by address.

        Raises:
            DataError: where there is none, or a zip cannot be read.
        """
        if not source.exists():
            raise DataError(f"{source}: no such file or folder")
        self.source, self.web = source, web
        self.zip: zipfile.ZipFile | None = None
        self.faults: list[Fault] = []
        self._besides: list[Files] = []
        self.root = (source if source.is_dir() else source.parent).resolve()
        if source.suffix.lower() == ".zip":
            try:
                self.zip = zipfile.ZipFile(source)
            except BROKEN as error:
                raise DataError(f"{source}: not a readable zip ({error}); fetch it again") from error

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self, *self._besides):
            if one.zip:
                one.zip.close()

    def beside(self, source: Path) -> "Files":
        """Other files, whose faults are told with those of these, and that are open for as long."""
        other = Files(source, self.web)
        other.faults = self.faults
        self._besides.append(other)
        return other

    def fault(self, where: str, reason: str) -> None:
        """Note a row that cannot be read; whoever writes what can be takes the list.

        Raises:
            DataError: where there are too many to be of use.
        """
        self.faults.append(Fault(where, reason))
        if len(self.faults) > FAULTS:
            raise DataError(
                f"{self.source}: more than {FAULTS:,} rows at a stretch cannot be read; {where}: {reason}"
            )

    def find(self, *patterns: str) -> str | None:
        """The name of the first file that a pattern fits, at the top or one folder down; patterns in their order."""
        return next((name for pattern in patterns for name in self.all(pattern)), None)

    def need(self, *patterns: str) -> str:
        """As `find`.

        Raises:
            DataError: where there is none.
        """
        if found := self.find(*patterns):
            return found
        raise DataError(f"{self.source}: no {' or '.join(patterns)}, at the top or one folder down")

    def all(self, pattern: str) -> list[str]:
        """The names of the files that a pattern fits, at the top or, where there are none, one folder down; sorted."""
        if self.zip:
            names = (PurePosixPath(name) for name in self.zip.namelist() if not name.endswith("/"))
            fits = [name for name in names if name.match(pattern)]
            depth = len(PurePosixPath(pattern).parts)
            for more in (0, 1):
                if found := sorted(str(name) for name in fits if len(name.parts) == depth + more):
                    return found
            return []
        for prefix in ("", "*/"):
            found = sorted(
                path.relative_to(self.root).as_posix()
                for path in self.root.glob(prefix + pattern)
                if path.is_file() and self._path(path.relative_to(self.root).as_posix())
            )
            if found:
                return found
        return []

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        if self.zip:
            return name in self.zip.NameToInfo
        path = self._path(name)
        try:
            return path is not None and path.is_file()
        except OSError:  # no file can have this name: it is too long
            return False

    def read(self, name: str, most: int = Limits().max_bytes) -> bytes:
        """A whole file.

        Raises:
            ValueError: where there is none, or it is larger than `most`, or cannot be read.
        """
        try:
            with self.open(name) as stream:
                content = stream.read(most + 1)
        except FileNotFoundError as error:
            raise ValueError(f"{name}: no such file") from error
        except BROKEN as error:
            raise ValueError(f"{name}: cannot be read ({error})") from error
        if len(content) > most:
            raise ValueError(f"{name}: more than {most:,} bytes")
        return content

    def picture(self, name: str) -> Picture:
        """A picture or clip that is read when it is needed: by its name here, or by an address that begins with http.

        Raises:
            DataError: where it has an address, and these files have no web.
        """
        if name.startswith(("http://", "https://")):
            if self.web is None:
                raise DataError(f"{self.source}: {name} would have to be downloaded")
            return Picture(PurePosixPath(urlsplit(name).path).name, partial(self.web.get, name))
        return Picture(PurePosixPath(name).name, partial(self.read, name))

    def open(self, name: str) -> IO[bytes]:
        """A file as a stream of bytes; `.gz` is unpacked on the way.

        Raises:
            FileNotFoundError: where there is none.
        """
        if self.zip:
            info = self.zip.NameToInfo.get(name)
            if info is None or stat.S_ISLNK(info.external_attr >> 16):
                raise FileNotFoundError(2, "no such file in the zip", name)
            stream: IO[bytes] = self.zip.open(info)
        else:
            path = self._path(name)
            if path is None or not path.is_file():
                raise FileNotFoundError(2, "no such file", name)
            stream = path.open("rb")
        return gzip.open(stream) if name.endswith(".gz") else stream  # type: ignore[return-value]

    def _path(self, name: str) -> Path | None:
        """Where a name leads; None where that is not below the folder."""
        try:
            path = (self.root / name).resolve()
        except (OSError, ValueError, RuntimeError):
            return None
        return path if path.is_relative_to(self.root) else None


def rows(
    files: Files,
    name: str,
    columns: Sequence[str] = (),
    optional: Sequence[str] = (),
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Record]:
    """The rows of a table by what its name ends with: .csv, .tsv, .jsonl, .json, .ndjson or .parquet, each also .gz.

    Rows that cannot be read are noted as faults of the files.

    Args:
        files: Where it is.
        name: Its name.
        columns: That it must have.
        optional: That its header must have, if there is one; a row of JSON leaves out what it has no value for.
        encoding: Of a CSV; by default told from its beginning.
        delimiter: Of a CSV; by default told from its first line.

    Raises:
        DataError: where the file as a whole cannot be read, or lacks a column.
    """
    kind = PurePosixPath(name.removesuffix(".gz").lower()).suffix
    if kind not in READERS:
        raise DataError(f"{files.source}: {name} is none of {', '.join(READERS)}")
    more = {"encoding": encoding, "delimiter": delimiter} if kind in {".csv", ".tsv"} else {}
    needed = columns if READERS[kind] is _json_lines else [*columns, *optional]
    with _readable(files, name) as stream:
        for one in READERS[kind](stream, name, needed, **more):
            if isinstance(one, Fault):
                files.fault(*one)
            else:
                yield one


def screened(records: Iterable[Record], used: Collection[str], allowed: Collection[str]) -> Iterator[Record]:
    """Rows of a table, unless one of its other columns looks personal.

    Args:
        records: The rows; the first of them are looked at.
        used: Columns that are asked for.
        allowed: Columns that somebody named on purpose.

    Raises:
        DataError: where a column looks personal.
    """
    stream = iter(records)
    first = list(itertools.islice(stream, LOOKED_AT))
    for name in dict.fromkeys(name for one in first for name in one.values):
        if name in used or name in allowed:
            continue
        if reason := looks_personal(name, (one.values.get(name) for one in first)):
            place = re.sub(r" (line|row) \d+$", "", first[0].where)
            raise DataError(
                f"{place}: a column {reason}, which looks like personal data; remove it, "
                f"or name it on purpose: --personal {name}"
            )
    yield from itertools.chain(first, stream)


def document(files: Files, name: str, path: str) -> Iterator[Any]:
    """The items of a large JSON document, one at a time.

    Args:
        files: Where it is.
        name: Its name.
        path: To the items, as ijson has it: "item", "annotations.item".

    Raises:
        DataError: where the document cannot be read.
    """
    with _readable(files, name) as stream:
        try:
            yield from ijson.items(stream, path, use_float=True)
        except (ijson.JSONError, UnicodeDecodeError, ValueError) as error:
            raise DataError(f"{files.source}: {name} is no JSON ({_told(error)}); fetch it again") from error


@contextmanager
def _readable(files: Files, name: str) -> Iterator[IO[bytes]]:
    try:
        with files.open(name) as stream:
            yield stream
    except DataError:
        raise
    except BROKEN as error:
        raise DataError(f"{files.source}: {name} cannot be read ({_told(error)}); fetch it again") from error


def _told(error: Exception) -> str:
    """A library's words, on one line."""
    return " ".join(str(error).split())


def _csv(
    stream: IO[bytes],
    name: str,
    columns: Sequence[str],
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Iterator[Record | Fault]:
    buffered = io.BufferedReader(stream, SNIFFED)  # type: ignore[type-var]
    head = buffered.peek(SNIFFED)[:SNIFFED]
    try:
        codec = codecs.lookup(encoding or _encoding(head)).name
    except LookupError as error:
        raise DataError(f"--encoding {encoding}: Python knows no such encoding") from error
    text = io.TextIOWrapper(buffered, codec, errors="surrogateescape", newline="")
    csv.field_size_limit(FIELD)
    lines = _lines(text)
    first = next(lines, "")
    between = delimiter or _delimiter(first)
    header = [column.strip() for column in next(csv.reader([first], delimiter=between), [])]
    reader = csv.reader(lines, delimiter=between)
    _need(name, header, columns)
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
            yield Fault(where, f"{len(fields)} values, the header has {len(header)}")
            continue
        yield Record(where, dict(zip(header, fields, strict=True)))


def _encoding(head: bytes) -> str:
    """Excel writes UTF-8 with a mark at its beginning, UTF-16, or Windows' own code page."""
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


def _delimiter(header: str) -> str:
    """What stands most often between the names of columns."""
    return max(DELIMITERS, key=header.count)


def _lines(text: IO[str]) -> Iterator[str]:
    """Lines; of one that is too long, its beginning."""
    while line := text.readline(LINE):
        yield line
        while len(line) == LINE and not line.endswith("\n"):
            line = text.readline(LINE)


def _json_lines(stream: IO[bytes], name: str, columns: Sequence[str]) -> Iterator[Record | Fault]:
    number = 0
    while line := stream.readline(LINE):
        number += 1
        where = f"{name} line {number}"
        if len(line) == LINE and not line.endswith(b"\n"):
            yield Fault(where, f"longer than {LINE:,} bytes")
            while (line := stream.readline(LINE)) and not line.endswith(b"\n"):
                pass
            continue
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Fault(where, f"no JSON ({error})")
            continue
        if not isinstance(values, dict):
            yield Fault(where, "no JSON object")
        elif missing := [column for column in columns if column not in values]:
            yield Fault(where, f"lacks {', '.join(missing)}")
        else:
            yield Record(where, values)


def _parquet(stream: IO[bytes], name: str, columns: Sequence[str]) -> Iterator[Record | Fault]:
    number = 0
    try:
        parquet = pq.ParquetFile(pa.PythonFile(stream, mode="r"))
        _need(name, parquet.schema_arrow.names, columns)
        for batch in parquet.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Record(f"{name} row {number}", values)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{name}: not a parquet file that can be read to its end ({_told(error)})") from error


def _need(name: str, header: Sequence[str], columns: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in header]:
        found = ", ".join(header[:20])
        raise DataError(f"{name}: no column {', '.join(missing)}; it has {found}")
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise DataError(f"{name}: two columns are named '{twice}'")


READERS: Mapping[str, Any] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".parquet": _parquet,
}
