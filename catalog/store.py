"""Read and write the parquet tables of a data set, in batches; create folders atomically."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.schema import OPTIONAL_TABLES, TABLES, DataError


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Write a folder that appears at `path` only when it is complete.

    Yields the folder `.NAME.partial` next to it, which is renamed to `path` on success and left as it is on failure.
    It may hold files of an earlier, killed attempt; see `resume_if_same` and `new_atomic_dir`.

    Raises:
        DataError: if the folder cannot be written.
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
def new_atomic_dir(path: Path) -> Iterator[Path]:
    """Like `atomic_dir`, but starts with an empty folder."""
    with atomic_dir(path) as partial:
        clear_dir(partial)
        yield partial


def clear_dir(folder: Path) -> None:
    """Delete the content of a folder."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def resume_if_same(partial: Path, provenance: Mapping[str, Any]) -> bool:
    """Keep the files of an earlier attempt if it had the same provenance; otherwise delete them.

    Args:
        partial: The unfinished folder of `atomic_dir`; gets the file `made_from.json`.
        provenance: Parameters and fingerprints of the inputs, as JSON values.

    Returns:
        Whether the earlier attempt can be resumed.
    """
    path, content = partial / "made_from.json", json.dumps(provenance, indent=2, sort_keys=True) + "\n"
    if path.exists() and path.read_text() == content:
        return True
    clear_dir(partial)
    path.write_text(content)
    return False


def list_files(data: Path, table: str) -> list[Path]:
    """List the parquet files of a table, sorted by name.

    Raises:
        DataError: if a required table has none.
    """
    paths = sorted((data / table).glob("*.parquet"))
    if not paths and table not in OPTIONAL_TABLES:
        raise DataError(
            f"{data / table}: no parquet files; a data set needs products/, queries/ and judgements/"
        )
    return paths


def open_file(path: Path) -> pq.ParquetFile:
    """Open one parquet file.

    Raises:
        DataError: if it is empty, truncated or not parquet.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}); write it again") from error


def read_batches(
    data: Path, table: str, columns: Sequence[str] | None = None, rows: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Stream a table in batches of at most `rows`, in the schema's column order and types.

    Missing optional columns are null; columns that are not in the schema are dropped.

    Raises:
        DataError: if a required column is missing, a column has another type, or a file is unreadable.
    """
    for path in list_files(data, table):
        yield from read_file(path, table, columns, rows)


def read_file(
    path: Path, table: str, columns: Sequence[str] | None = None, rows: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Stream one file of a table; arguments and errors as for `read_batches`."""
    schema = _select_columns(table, columns)
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


def read_table(data: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table into memory; columns and errors are those of `read_batches`."""
    batches = list(read_batches(data, table, columns, rows=65536))
    return pa.Table.from_batches(
        batches, schema=batches[0].schema if batches else _select_columns(table, columns)
    )


def _select_columns(table: str, columns: Sequence[str] | None) -> pa.Schema:
    schema = TABLES[table]
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def _conform(batch: pa.RecordBatch, schema: pa.Schema, path: Path) -> pa.RecordBatch:
    """Bring a batch to the columns and types of a schema."""
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
    """Hash the names and contents of files and folders: 32 hex digits, independent of the order on disk."""
    digest = hashlib.blake2b(digest_size=16)
    for root in paths:
        for path in sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]:
            digest.update(
                str(path.relative_to(root)).encode() + b"\0" + str(path.stat().st_size).encode() + b"\0"
            )
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


class TableWriter:
    """Streams rows into the parquet files of one table; holds one row group in memory.

    Use it as a context manager inside `atomic_dir` or `new_atomic_dir`.

    Args:
        data: The data set's folder.
        table: A name of `schema.TABLES`.
        rows_per_file: Number of rows after which a new file starts.
        rows_per_group: Number of rows held in memory.
        metadata: Of the files' schema.
    """

    def __init__(
        self,
        data: Path,
        table: str,
        rows_per_file: int = 50_000,
        rows_per_group: int = 1_000,
        metadata: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.schema = TABLES[table].with_metadata(metadata)
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
        """Add one row; missing columns are null."""
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
        previous_rows, self.rows = self.rows, self.rows + len(self._pending)
        self._pending.clear()
        if self.rows // self.rows_per_file > previous_rows // self.rows_per_file:
            writer.close()
            self._writer = None
