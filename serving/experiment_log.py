"""The part of the request log that belongs to one experiment."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from catalog.request_log import CLICK, COLUMNS, EVENTS, SEARCHES, LogFolder, read_batches
from catalog.schema import DataError
from serving.experiment import KINDS

READ = {
    SEARCHES: (
        "request_id", "time", "session", "experiment", "arm", "champion", "challenger", "results", "latency_ms",
        "shadow_results", "shadow_ms",
    ),
    EVENTS: ("request_id", "time", "product_id", "kind"),
}  # fmt: skip


class Pair(NamedTuple):
    """The versions that an experiment compares."""

    champion: str
    challenger: str


class ExperimentLog(NamedTuple):
    """Searches of an experiment, and clicks on their results.

    Attributes:
        kind: Of the experiment.
        pair: Its versions.
        searches: Columns of `catalog.request_log`, sorted by time.
        clicks: Likewise.
    """

    kind: str
    pair: Pair
    searches: pa.Table
    clicks: pa.Table


def read_experiment(
    folder: str, pair: Pair, kind: str | None, since: datetime | None, until: datetime
) -> ExperimentLog:
    """Read what a log holds of an experiment; only this is kept in memory.

    Args:
        folder: Of the log, or its address.
        pair: The versions.
        kind: Of the experiment; None for the only one in the log.
        since, until: Start, and end that does not belong to it.

    Raises:
        DataError: the log cannot be read, or has no such experiment, or more than one kind of it.
    """
    log = LogFolder.open(folder)
    searches = _select(log, SEARCHES, since, until, _is_of(pair, kind))
    kinds = pc.unique(searches["experiment"]).to_pylist()
    if len(kinds) != 1:
        name = f"experiment {kind}" if kind else "experiment"
        content = (
            f"several kinds of it ({', '.join(sorted(kinds))}): choose --kind" if kinds else "no search of it"
        )
        raise DataError(
            f"{folder}: {name} with champion {pair.champion} and challenger {pair.challenger}: the log has {content}"
        )
    requests = searches["request_id"].combine_chunks()
    is_click = (pc.field("kind") == CLICK) & pc.field("request_id").isin(requests)
    return ExperimentLog(kinds[0], pair, searches, _select(log, EVENTS, since, until, is_click))


def _is_of(pair: Pair, kind: str | None) -> pc.Expression:
    """Searches of sessions that took part."""
    kinds = list(KINDS) if kind is None else [kind]
    return (
        pc.field("experiment").isin(kinds)
        & (pc.field("champion") == pair.champion)
        & (pc.field("challenger") == pair.challenger)
        & pc.field("session").is_valid()
    )


def _select(
    log: LogFolder, table: str, since: datetime | None, until: datetime, condition: pc.Expression
) -> pa.Table:
    names = READ[table]
    schema = pa.schema([COLUMNS[table].field(name) for name in names])

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in read_batches(log, table, since, until, names):
            yield batch.filter(condition)

    rows = pa.Table.from_batches(batches(), schema=schema)
    return rows.sort_by([("time", "ascending"), ("request_id", "ascending")])
