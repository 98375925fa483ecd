"""The log of a search service: its columns, the names of its files, and how it is read.

The service writes it (`serving.request_log`); `catalog.logs` makes judgements of it.

    LOG/searches/date=YYYY-MM-DD/HH-WRITER-FIRST-LAST.parquet
    LOG/events/ the same

HH is the hour, UTC, in which the rows were made; WRITER is one process of the service, and numbers its files. A file
that covers several numbers was merged from them, and replaces them.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.schema import DataError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SEARCHES, EVENTS = "searches", "events"
CLICK, CART = "click", "cart"
HOUR = timedelta(hours=1)
BATCH_ROWS = 65_536

_TIME = pa.timestamp("us", tz="UTC")
_RESULTS = pa.list_(
    pa.struct([("product_id", pa.string()), ("score", pa.float32()), ("version", pa.string())])
)
COLUMNS: dict[str, pa.Schema] = {
    SEARCHES: pa.schema(
        [
            pa.field("request_id", pa.string(), nullable=False),
            pa.field("time", _TIME, nullable=False),
            pa.field("session", pa.string()),  # keyed hash
            pa.field("text", pa.string()),  # null where it is withheld
            pa.field("text_hash", pa.string()),  # keyed hash of a withheld text, after normalisation
            pa.field("withheld", pa.string()),  # why the text is: "log.queries", or a kind of personal data
            pa.field("characters", pa.int32()),  # of the text; null without one
            pa.field("words", pa.int32()),
            pa.field("has_picture", pa.bool_()),
            pa.field("filters", pa.string()),  # JSON
            pa.field("k", pa.int32()),
            pa.field("version", pa.string()),  # of the model
            pa.field("index", pa.string()),  # data fingerprint of the index
            pa.field("experiment", pa.string()),
            pa.field("arm", pa.string()),
            pa.field("champion", pa.string()),  # version, of the experiment
            pa.field("challenger", pa.string()),
            pa.field("results", _RESULTS),  # as shown, best first; version: of the model that placed it
            pa.field("latency_ms", pa.float32()),
            pa.field("unknown_tokens", pa.float32()),  # share of the text's tokens
            pa.field("status", pa.int16()),  # of HTTP
            pa.field("shadow_results", _RESULTS),  # of a challenger, never shown
            pa.field("shadow_ms", pa.float32()),  # until the challenger's answer
        ]
    ),
    EVENTS: pa.schema(
        [
            pa.field("request_id", pa.string(), nullable=False),
            pa.field("time", _TIME, nullable=False),
            pa.field("product_id", pa.string()),
            pa.field("kind", pa.string()),  # "click" or "cart"
            pa.field("session", pa.string()),  # keyed hash
        ]
    ),
}

_DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)")
_FILE = re.compile(r"(\d\d)-([0-9a-f]+)-(\d+)-(\d+)\.parquet")


class LogFile(NamedTuple):
    """A file of a log.

    Attributes:
        hour: Its start, UTC.
        writer: Hex digits.
        first, last: The numbers of its writer that it covers; equal unless it was merged.
        path: In the file system of the log.
    """

    hour: datetime
    writer: str
    first: int
    last: int
    path: str


@dataclass(frozen=True)
class LogFolder:
    """The folder of a log, local or remote.

    Attributes:
        files: Its file system.
        root: Its path there.
        address: As the user gave it.
    """

    files: "AbstractFileSystem"
    root: str
    address: str

    @classmethod
    def open(cls, address: str) -> "LogFolder":
        """Open a folder, which need not exist.

        Args:
            address: A local path, or an address that fsspec knows, such as s3://BUCKET/PREFIX.

        Raises:
            DataError: if the address has an unknown scheme, or its package is not installed.
        """
        import fsspec

        options = {} if "://" not in address else {"use_listings_cache": False}
        try:
            files, root = fsspec.core.url_to_fs(address, **options)
        except ImportError as error:
            raise DataError(
                f"{address}: {error}; for s3:// install the extra: pip install 'vitrine[serving]'"
            ) from error
        except ValueError as error:
            raise DataError(
                f"{address}: {error}; give a folder, or an address such as s3://BUCKET/PREFIX"
            ) from error
        return cls(files, root.rstrip("/"), address)

    @contextmanager
    def access(self, path: str) -> Iterator[None]:
        """Turn each error of the file system, whose types depend on its package, into one message.

        Raises:
            DataError: where the store cannot be reached or refuses.
        """
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: has gone; the log was tidied while it was read, run the same command again"
            ) from error
        except Exception as error:
            raise DataError(
                f"{self.address}: cannot be used ({type(error).__name__}: {error}); check the address, and the "
                "credentials of the store"
            ) from error

    def list_days(self, table: str) -> dict[date, str]:
        """List the days of a table, sorted: day → path of its folder."""
        entries = self._list(f"{self.root}/{table}")
        days = {
            date.fromisoformat(match[1]): path
            for path in entries
            if (match := _DAY.fullmatch(path.rpartition("/")[2]))
        }
        return dict(sorted(days.items()))

    def list_day(self, day: date, folder: str) -> list[LogFile]:
        """List all files of a day, sorted; also those that a merged file replaces."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        matches = [(path, _FILE.fullmatch(path.rpartition("/")[2])) for path in self._list(folder)]
        return sorted(
            LogFile(midnight + int(match[1]) * HOUR, match[2], int(match[3]), int(match[4]), path)
            for path, match in matches
            if match and int(match[1]) < 24
        )

    def list_files(
        self, table: str, since: datetime | None = None, until: datetime | None = None
    ) -> list[LogFile]:
        """List the files to read for a time, sorted by hour.

        Args:
            table: A key of `COLUMNS`.
            since, until: Start, and end that does not belong to it; None for no limit.
        """
        return [
            file
            for day, folder in self.list_days(table).items()
            if (since is None or day >= since.astimezone(UTC).date())
            and (until is None or day <= until.astimezone(UTC).date())
            for file in split_replaced(self.list_day(day, folder))[0]
            if (since is None or file.hour + HOUR > since) and (until is None or file.hour < until)
        ]

    def _list(self, folder: str) -> list[str]:
        with self.access(folder):
            try:
                return [path.rstrip("/") for path in self.files.ls(folder, detail=False)]
            except FileNotFoundError:
                return []

    def open_parquet(self, path: str) -> pq.ParquetFile:
        """Open a file.

        Raises:
            DataError: if it is not there, or is not parquet.
        """
        with self.access(path):
            return pq.ParquetFile(self.files.open(path, "rb"))


def split_replaced(files: Sequence[LogFile]) -> tuple[list[LogFile], list[LogFile]]:
    """Split the files of a day into those to read, and those that a merged file replaces."""
    current: list[LogFile] = []
    replaced: list[LogFile] = []
    for _, group in groupby(sorted(files), key=lambda file: (file.hour, file.writer)):
        covered = -1
        for file in sorted(group, key=lambda file: (file.first, -file.last)):
            (replaced if file.last <= covered else current).append(file)
            covered = max(covered, file.last)
    return current, replaced


def read_batches(
    log: LogFolder,
    table: str,
    since: datetime | None = None,
    until: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a time, hour by hour; within an hour, by writer. At most `BATCH_ROWS` are in memory.

    Args:
        log: The folder.
        table: A key of `COLUMNS`.
        since, until: Start, and end that does not belong to it; None for no limit.
        columns: Names, with "time"; all by default. "results.list.element.product_id" is a part of a column.

    Raises:
        DataError: if a file cannot be read.
    """
    for file in log.list_files(table, since, until):
        yield from read_file(log, file, since, until, columns)


def read_file(
    log: LogFolder,
    file: LogFile,
    since: datetime | None = None,
    until: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream one file of a log; arguments and errors as for `read_batches`."""
    parquet = log.open_parquet(file.path)
    is_inside = (since is None or since <= file.hour) and (until is None or file.hour + HOUR <= until)
    with log.access(file.path):
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            yield batch if is_inside else batch.filter(_is_between(batch["time"], since, until))


def _is_between(times: pa.Array, since: datetime | None, until: datetime | None) -> pa.Array:
    is_later = pc.greater_equal(times, pa.scalar(since or datetime.min.replace(tzinfo=UTC), _TIME))
    return pc.and_(is_later, pc.less(times, pa.scalar(until or datetime.max.replace(tzinfo=UTC), _TIME)))


def read_rows(
    log: LogFolder, table: str, since: datetime | None = None, until: datetime | None = None
) -> pa.Table:
    """Read the rows of a time into memory, sorted by time; arguments and errors are those of `read_batches`."""
    rows = pa.Table.from_batches(read_batches(log, table, since, until), schema=COLUMNS[table])
    return rows.sort_by([("time", "ascending"), ("request_id", "ascending")])
