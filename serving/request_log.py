"""Writes the log of requests and events: parquet files by hour, local or in an object store.

`catalog.request_log` has the columns and the names of the files. Several processes may write to one folder.
"""

import os
import queue
import random
import secrets
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from catalog.request_log import COLUMNS, EVENTS, SEARCHES, LogFolder, read_rows
from catalog.schema import DataError
from serving.log_files import clean_log, file_path, write_table
from serving.log_rows import KEY_VARIABLE, Event, Result, RowEncoder, Search
from serving.params import LogParams

__all__ = ["Event", "RequestLog", "Result", "Search", "read_events", "read_searches"]

QUEUE_ENTRIES = 20_000  # more are dropped; as many again may wait for a store that does not answer
PERIOD = 0.8  # of log.flush_seconds: the rest is left for writing
CLOSING_SECONDS = 20  # for the last file
ENCODING_ERRORS = (pa.ArrowException, AttributeError, OverflowError, TypeError, ValueError)
CLEANING_SECONDS = 3600  # on average between two cleanings


class RequestLog:
    """Writes entries in the background; a context manager.

    A process that is killed loses the entries of the last `log.flush_seconds`, if the store takes a fifth of that to
    write a file. `close` loses none.

    Args:
        params: Section `log`; without a folder, nothing is kept.

    Attributes:
        written: Number of entries in files.
        dropped: Number of entries that are lost: the queue was full, or they cannot be encoded.
        failures: Number of attempts to write that failed; their entries are written later.

    Raises:
        DataError: if the folder's address is not usable, or a key is needed and missing.
    """

    def __init__(self, params: LogParams) -> None:
        self.written = self.dropped = self.failures = 0
        self._params = params
        self._folder = LogFolder.open(params.folder) if params.folder else None
        self._encoder = RowEncoder(params.queries, os.environ.get(KEY_VARIABLE))
        self._queue: queue.Queue[Search | Event] = queue.Queue(QUEUE_ENTRIES)
        self._writer, self._number = secrets.token_hex(6), 0
        # table and hour → number of the file, and its rows; until it is written
        self._pending: dict[tuple[str, datetime], tuple[int, pa.Table]] = {}
        self._wake, self._closing = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=run, name=run.__name__, daemon=True)
            for run in ((self._write_log, self._clean_log) if self._folder else ())
        ]
        for thread in self._threads:
            thread.start()

    def add(self, entry: Search | Event) -> None:
        """Take an entry; never waits."""
        if self._folder is None:
            return
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self.dropped += 1
        if self._queue.qsize() == QUEUE_ENTRIES // 2:
            self._wake.set()

    def close(self) -> None:
        """Write all entries and stop; safe to call twice."""
        self._closing.set()
        self._wake.set()
        if self._threads:
            self._threads[0].join(CLOSING_SECONDS)  # the cleaning may be interrupted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_log(self) -> None:
        deadline = time.monotonic()
        while not self._closing.is_set():
            deadline = max(deadline + PERIOD * self._params.flush_seconds, time.monotonic())
            self._wake.wait(max(0.0, deadline - time.monotonic()))
            self._wake.clear()
            self._flush()
        self._flush()
        if lost := self._queue.qsize() + self._count_pending():
            self.dropped += lost
            print(f"log: {lost:,} entries are lost: {self._params.folder} cannot be written", file=sys.stderr)

    def _count_pending(self) -> int:
        return sum(rows.num_rows for _, rows in self._pending.values())

    def _flush(self) -> None:
        """Write the entries of the queue: a file per table and hour."""
        self._encode_entries(self._take_entries(QUEUE_ENTRIES - self._count_pending()))
        for (table, hour), (number, rows) in list(self._pending.items()):
            try:
                self._write_file(table, hour, number, rows)
            except DataError as error:
                if not self.failures:
                    print(f"log: {error}; entries wait in memory", file=sys.stderr)
                self.failures += 1
                return
            self.written += rows.num_rows
            del self._pending[table, hour]

    def _take_entries(self, most: int) -> list[Search | Event]:
        entries: list[Search | Event] = []
        with suppress(queue.Empty):
            while len(entries) < most:
                entries.append(self._queue.get_nowait())
        return entries

    def _encode_entries(self, entries: Sequence[Search | Event]) -> None:
        """Encode entries. One that cannot be stored is dropped, so that it does not stop the others."""
        rows: dict[tuple[str, datetime], list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            try:
                table, row = self._encoder.encode(entry)
                hour = entry.time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            except ENCODING_ERRORS as error:
                self._drop_entry(error)
            else:
                rows[table, hour].append(row)
        for (table, hour), group in rows.items():
            self._add_pending(table, hour, self._make_table(table, group))

    def _make_table(self, table: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
        try:
            return pa.Table.from_pylist(list(rows), schema=COLUMNS[table])
        except ENCODING_ERRORS as error:
            if len(rows) == 1:
                self._drop_entry(error)
                return COLUMNS[table].empty_table()
        middle = len(rows) // 2
        return pa.concat_tables([self._make_table(table, part) for part in (rows[:middle], rows[middle:])])

    def _drop_entry(self, error: Exception) -> None:
        self.dropped += 1
        print(f"log: an entry cannot be stored: {type(error).__name__}", file=sys.stderr)

    def _add_pending(self, table: str, hour: datetime, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        if (table, hour) in self._pending:
            number, waiting = self._pending[table, hour]
            self._pending[table, hour] = number, pa.concat_tables([waiting, rows])
        else:
            self._pending[table, hour] = self._number, rows
            self._number += 1

    def _write_file(self, table: str, hour: datetime, number: int, rows: pa.Table) -> None:
        assert self._folder is not None  # noqa: S101 - for the type checker: no thread runs without it
        path = file_path(self._folder, table, hour, self._writer, number, number)
        write_table(self._folder, path, rows.sort_by("time"))

    def _clean_log(self) -> None:
        """Tidy the folder at the start, and about hourly; at different times in each process."""
        assert self._folder is not None  # noqa: S101 - for the type checker: no thread runs without it
        while True:
            try:
                clean_log(self._folder, self._params.retention_days, datetime.now(UTC))
            except DataError as error:
                print(f"log: cannot be tidied: {error}", file=sys.stderr)
            if self._closing.wait(random.uniform(0.5, 1.5) * CLEANING_SECONDS):  # noqa: S311 - no secret
                return


def read_searches(folder: str, since: datetime | None = None, until: datetime | None = None) -> pa.Table:
    """Read the searches of a time, sorted by time.

    Args:
        folder: The log's folder or address.
        since, until: Start, and end that does not belong to it; None for no limit.

    Returns:
        The columns of `catalog.request_log.COLUMNS`.

    Raises:
        DataError: if the log cannot be read.
    """
    return read_rows(LogFolder.open(folder), SEARCHES, since, until)


def read_events(folder: str, since: datetime | None = None, until: datetime | None = None) -> pa.Table:
    """Read the events of a time, as `read_searches`."""
    return read_rows(LogFolder.open(folder), EVENTS, since, until)
