"""Writes the files of a request log, merges small ones, and deletes old ones."""

import io
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.request_log import COLUMNS, HOUR, LogFile, LogFolder, split_replaced

MERGED_ROWS = 50_000  # at most, of a merged file
MERGE_AFTER = 2 * HOUR  # from the start of an hour: no writer has rows of it any more
RECENT = timedelta(days=3)  # days whose files are merged
DELETE_AFTER = 3 * HOUR  # replaced files; who began to read before they were merged needs them


def file_path(log: LogFolder, table: str, hour: datetime, writer: str, first: int, last: int) -> str:
    """The path of a file; see `catalog.request_log`."""
    return f"{log.root}/{table}/date={hour:%Y-%m-%d}/{hour:%H}-{writer}-{first}-{last}.parquet"


def write_table(log: LogFolder, path: str, rows: pa.Table) -> None:
    """Write a file that appears whole, or not at all; an existing file is replaced.

    Raises:
        DataError: where it cannot be written.
    """
    stream = io.BytesIO()
    pq.write_table(rows, stream, compression="zstd")
    with log.access(path):
        if not is_local(log):
            log.files.pipe_file(path, stream.getvalue())  # one request; a store shows it when it is complete
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            partial.write_bytes(stream.getbuffer())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def is_local(log: LogFolder) -> bool:
    """Whether the folder is on this machine's disk."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(log.files, LocalFileSystem)


def clean_log(log: LogFolder, retention_days: int, now: datetime) -> None:
    """Delete the files of hours that ended before the retention, and merge the small files of past hours.

    Processes may do this at the same time, and may be killed. A file is merged only with files of its writer, so all
    processes make the same files; readers ignore those that a merged file replaces.

    Args:
        log: The folder.
        retention_days: Of `log.retention_days`.
        now: The time, with a time zone.

    Raises:
        DataError: where the store cannot be reached or refuses.
    """
    oldest = now - timedelta(days=retention_days)
    for table in COLUMNS:
        for day, folder in log.list_days(table).items():
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
            if now - midnight < RECENT:
                _merge_day(log, table, folder, day, now)
            if midnight < oldest:
                files = log.list_day(day, folder)
                _delete(log, [file.path for file in files if file.hour + HOUR <= oldest])
                _delete_remains(log, folder)


def _merge_day(log: LogFolder, table: str, folder: str, day: date, now: datetime) -> None:
    """Delete files that were merged earlier, and merge others."""
    current, replaced = split_replaced(log.list_day(day, folder))
    _delete(log, [file.path for file in replaced if file.hour + DELETE_AFTER <= now])
    for group in _group_small(log, [file for file in current if file.hour + MERGE_AFTER <= now]):
        _merge(log, table, group)


def _group_small(log: LogFolder, files: Sequence[LogFile]) -> Iterator[list[LogFile]]:
    """Group consecutive files of a writer and an hour with at most `MERGED_ROWS` together; groups of two or more."""
    for _, same in groupby(sorted(files), key=lambda file: (file.hour, file.writer)):
        of_writer = list(same)
        if len(of_writer) == 1:
            continue
        group: list[LogFile] = []
        rows = 0
        for file in of_writer:
            count = log.open_parquet(file.path).metadata.num_rows
            if rows + count > MERGED_ROWS:
                if len(group) > 1:
                    yield group
                group, rows = [], 0
            group.append(file)
            rows += count
        if len(group) > 1:
            yield group


def _merge(log: LogFolder, table: str, files: Sequence[LogFile]) -> None:
    tables = []
    for file in files:
        parquet = log.open_parquet(file.path)
        with log.access(file.path):
            tables.append(parquet.read())
    first, last = files[0], files[-1]
    path = file_path(log, table, first.hour, first.writer, first.first, last.last)
    write_table(log, path, pa.concat_tables(tables).sort_by("time"))


def _delete(log: LogFolder, paths: Sequence[str]) -> None:
    for path in paths:
        with log.access(path), suppress(FileNotFoundError):  # another process was faster
            log.files.rm_file(path)


def _delete_remains(log: LogFolder, folder: str) -> None:
    """Delete what killed writers left in the folder of a past day, and the folder if it is empty."""
    if not is_local(log):
        return  # a store has neither
    with log.access(folder):
        for path in Path(folder).glob(".*.partial"):
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()
