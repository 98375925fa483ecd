"""Read and write the tables of a data set: parquet, in batches, whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.schema import OPTIONAL_TABLES, TABLES, DataError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A folder that appears under `path` complete or not at all.

    Yields `.NAME.partial` beside it, which may hold what an earlier, killed attempt left: the caller decides
    whether to go on from there or to empty it. Renamed to `path` on success, left as it is on failure.

    Raises:
        DataError: where the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        if not os.access(partial, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise DataError(
            f"{path}: cannot write here ({error.strerror}); check the folder's owner and mode"
        ) from error
    yield partial
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)


@contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """As `whole`, but never goes on from what an earlier attempt left."""
    with whole(path) as partial:
        empty(partial)
        yield partial


def empty(folder: Path) -> None:
    """Remove all that is in a folder."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def go_on(partial: Path, made_from: Mapping[str, Any]) -> bool:
    """Keep what an earlier attempt left in a folder of `whole` if it was made from the same things, else empty it.

    Args:
        partial: The unfinished folder; `made_from.json` is written there.
        made_from: Parameters and fingerprints; plain JSON values.

    Returns:
        Whether there is something to go on from.
    """
    path, wanted = partial / "made_from.json", json.dumps(made_from, indent=2, sort_keys=True) + "\n"
    if path.exists() and path.read_text() == wanted:
        return True
    empty(partial)
    path.write_text(wanted)
    return False


def files(data: Path, table: str) -> list[Path]:
    """The parquet files of a table, in order of name.

    Raises:
        DataError: where a required table has none.
    """
    found = sorted((data / table).glob("*.parquet"))
    if not found and table not in OPTIONAL_TABLES:
        raise DataError(
            f"{data / table}: no parquet files; a data set needs products/, queries/ and judgements/"
        )
    return found


def open_file(path: Path) -> pq.ParquetFile:
    """Open one parquet file.

    Raises:
        DataError: where it is empty, truncated or not parquet.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}); write it again") from error


def batches(
    data: Path, table: str, columns: Sequence[str] | None = None, rows: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Stream a table in batches of at most `rows`, in the schema's column order and types.

    Optional columns that a file lacks come as nulls; columns that the schema does not know are left out.

    Raises:
        DataError: for a missing required column, a column of another type, or an unreadable file.
    """
    schema = TABLES[table]
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    for path in files(data, table):
        parquet = open_file(path)
        present = [name for name in schema.names if name in parquet.schema_arrow.names]
        for field in schema:
            if not field.nullable and field.name not in present:
                raise DataError(f"{path}: column '{field.name}' is missing; {table} needs it")
        try:
            for batch in parquet.iter_batches(batch_size=rows, columns=present):
                yield _conform(batch, schema, path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read to its end ({error}); write it again") from error


def read(data: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table; see `batches` for what is promised of its columns."""
    found = list(batches(data, table, columns, rows=65536))
    schema = TABLES[table]
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    return pa.Table.from_batches(found, schema=found[0].schema if found else schema)


def _conform(batch: pa.RecordBatch, schema: pa.Schema, path: Path) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        if field.name not in batch.schema.names:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(field.name)
        try:
            arrays.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column '{field.name}' is {column.type}, not {field.type} ({error})"
            ) from error
    return pa.record_batch(arrays, schema=pa.schema([field.with_nullable(True) for field in schema]))


def fingerprint(*paths: Path) -> str:
    """A hash of the names and contents of files and folders, 32 hex digits; the order on disk plays no part."""
    digest = hashlib.blake2b(digest_size=16)
    for root in paths:
        for path in sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]:
            digest.update(
                str(path.relative_to(root)).encode() + b"\0" + str(path.stat().st_size).encode() + b"\0"
            )
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


class TableWriter:
    """Stream rows into the parquet files of one table; memory stays at one row group.

    Use as a context manager inside `whole` or `fresh`, which make the result appear at once.

    Args:
        data: The data set's folder.
        table: A name of `schema.TABLES`.
        rows_per_file: Rows after which a new file is begun.
        rows_per_group: Rows held in memory.
        without: Optional columns to leave out of the files.
    """

    def __init__(
        self,
        data: Path,
        table: str,
        rows_per_file: int = 50_000,
        rows_per_group: int = 1_000,
        without: Collection[str] = (),
    ) -> None:
        self.schema = pa.schema([field for field in TABLES[table] if field.name not in without])
        self.folder = data / table
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows_per_file, self.rows_per_group = rows_per_file, rows_per_group
        self.rows = 0
        self._pending: list[Mapping[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            if self.rows == 0:  # a table without rows is still a table
                self._open()
        if self._writer is not None:
            self._writer.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row; absent columns are null."""
        self._pending.append(row)
        if len(self._pending) == self.rows_per_group:
            self._flush()

    def _open(self) -> pq.ParquetWriter:
        name = f"{self.rows // self.rows_per_file:05d}.parquet"
        self._writer = pq.ParquetWriter(self.folder / name, self.schema, compression="zstd")
        return self._writer

    def _flush(self) -> None:
        if not self._pending:
            return
        writer = self._writer or self._open()
        writer.write_table(pa.Table.from_pylist(self._pending, schema=self.schema))
        before, self.rows = self.rows, self.rows + len(self._pending)
        self._pending.clear()
        if self.rows // self.rows_per_file > before // self.rows_per_file:
            writer.close()
            self._writer = None
