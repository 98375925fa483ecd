"""Reads a period of the request log once, hour by hour, and adds it up; the memory does not depend on its length."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.request_log import CLICK, COLUMNS, EVENTS, HOUR, SEARCHES, LogFile, LogFolder, read_file
from catalog.shown_results import ShownResults
from serving.monitor.histograms import SCORE_BINS, Totals, latency_bins, score_bins

CLICK_DELAY = HOUR  # a later click does not count, so that all periods are treated alike
POSITIONS = 20
SEARCH_COLUMNS = (
    "request_id", "time", "text", "characters", "words", "has_picture", "version", "latency_ms", "unknown_tokens",
    "status", "results.list.element.product_id", "results.list.element.score", "results.list.element.version",
)  # fmt: skip
SAMPLE = pa.schema(
    [
        ("priority", pa.uint64()),
        ("request_id", pa.string()),
        ("text", pa.string()),
        ("characters", pa.int32()),
        ("unknown_tokens", pa.float32()),
        ("results", pa.int64()),
        ("clicked", pa.bool_()),
        ("latency_ms", pa.float32()),
    ]
)
PICTURE, WORDS, VERSION, LANGUAGE = "picture", "query length", "model version", "language"


class Period(NamedTuple):
    """A time: start, and end that does not belong to it; both with a time zone."""

    since: datetime
    until: datetime

    def __str__(self) -> str:
        return " to ".join(f"{time:%Y-%m-%d %H:%M}" for time in self)


@dataclass
class Aggregate:
    """The sums of a period.

    Attributes:
        period: The period.
        days: Its length, without the time before the log begins.
        product_ids: Of the catalogue, string (P,).
        sample_size: Number of searches to draw.
        totals: All searches.
        segments: (dimension, value) → its searches.
        shown, clicks: int64 (POSITIONS,): results shown and clicked by position.
        impressions: int64 (P,): how often each product of the catalogue was shown.
        other_impressions: Of products that are not in the catalogue any more.
        top_scores: Model version → int64 (SCORE_BINS,): the best scores of its searches.
        sample: `SAMPLE`: searches with status 200, drawn by a hash of their ids.
    """

    period: Period
    days: float
    product_ids: pa.Array
    sample_size: int
    totals: Totals = field(default_factory=Totals)
    segments: dict[tuple[str, str], Totals] = field(default_factory=lambda: defaultdict(Totals))
    shown: np.ndarray = field(default_factory=lambda: np.zeros(POSITIONS, np.int64))
    clicks: np.ndarray = field(default_factory=lambda: np.zeros(POSITIONS, np.int64))
    impressions: np.ndarray = field(init=False)
    other_impressions: int = 0
    top_scores: dict[str, np.ndarray] = field(
        default_factory=lambda: defaultdict(lambda: np.zeros(SCORE_BINS, np.int64))
    )
    sample: pa.Table = field(default_factory=SAMPLE.empty_table)

    def __post_init__(self) -> None:
        self.impressions = np.zeros(len(self.product_ids), np.int64)

    def add(self, batch: pa.RecordBatch, clicks: pa.Table) -> None:
        """Add searches.

        Args:
            batch: `SEARCH_COLUMNS`.
            clicks: Columns request_id, product_id and time: those that may belong to these searches.
        """
        results = ShownResults(batch)
        is_clicked_result = results.find_clicks(clicks, CLICK_DELAY)
        is_clicked = np.zeros(batch.num_rows, bool)
        is_clicked[results.rows[is_clicked_result]] = True
        status = _integers(batch["status"])
        latencies = batch["latency_ms"].cast(pa.float64()).to_numpy(zero_copy_only=False)
        bins = latency_bins(np.nan_to_num(latencies))
        self.totals.add(status, results.counts, is_clicked, bins)
        for dimension, values in _segment_values(batch).items():
            for value in np.unique(values):
                part = values == value
                totals = self.segments[dimension, str(value)]
                totals.add(status[part], results.counts[part], is_clicked[part], bins[part])
        self.shown += _count_positions(results.positions)
        self.clicks += _count_positions(results.positions[is_clicked_result])
        self._add_impressions(results)
        self._add_top_scores(results)
        self._draw(batch, status, results.counts, is_clicked)

    def _add_impressions(self, results: ShownResults) -> None:
        places = pc.index_in(results.products.dictionary, value_set=self.product_ids)
        counts = np.bincount(results.codes, minlength=len(results.products.dictionary))
        is_known = places.is_valid().to_numpy(zero_copy_only=False)
        self.impressions[places.drop_null().to_numpy()] += counts[is_known]
        self.other_impressions += int(counts[~is_known].sum())

    def _add_top_scores(self, results: ShownResults) -> None:
        first = results.positions == 0
        versions, bins = results.versions[first], score_bins(results.scores[first])
        for version in np.unique(versions):
            self.top_scores[str(version)] += np.bincount(bins[versions == version], minlength=SCORE_BINS)

    def _draw(
        self, batch: pa.RecordBatch, status: np.ndarray, counts: np.ndarray, is_clicked: np.ndarray
    ) -> None:
        """Keep the searches whose ids have the smallest hashes: the same ones in any order."""
        import pandas as pd

        ids = batch["request_id"].to_numpy(zero_copy_only=False)
        priorities = pd.util.hash_array(ids, categorize=False)
        is_full = self.sample.num_rows == self.sample_size
        limit = self.sample["priority"][-1].as_py() if is_full else np.iinfo(np.uint64).max
        rows = np.flatnonzero((status == 200) & (priorities <= limit))
        columns = {
            "priority": priorities[rows],
            "results": counts[rows].astype(np.int64),
            "clicked": is_clicked[rows],
        }
        drawn = batch.take(pa.array(rows))
        columns |= {name: drawn[name] for name in SAMPLE.names if name not in columns}
        both = pa.concat_tables([self.sample, pa.table(columns, schema=SAMPLE)])
        ordered = both.sort_by([("priority", "ascending"), ("request_id", "ascending")])
        self.sample = ordered.slice(0, self.sample_size).combine_chunks()


def aggregate(log: LogFolder, period: Period, product_ids: pa.Array, sample_size: int) -> Aggregate:
    """Add up the searches of a period, with the clicks within `CLICK_DELAY` of each.

    Args:
        log: The folder.
        period: The period.
        product_ids: Of the catalogue.
        sample_size: Number of searches to draw.

    Raises:
        DataError: if the log cannot be read.
    """
    files = log.list_files(SEARCHES, *period)
    events = defaultdict(list)
    for file in log.list_files(EVENTS, period.since, period.until + CLICK_DELAY):
        events[file.hour].append(file)
    begin = max(period.since, _find_begin(log) or period.since)
    days = max(0.0, (period.until - begin) / timedelta(days=1))
    result = Aggregate(period, days, product_ids, sample_size)
    clicks: dict[datetime, pa.Table] = {}
    for hour, group in groupby(files, key=lambda file: file.hour):
        # those of this hour were read with the hour before
        clicks = {time: clicks.get(time) or _read_clicks(log, events[time]) for time in (hour, hour + HOUR)}
        table = pa.concat_tables(clicks.values())
        for file in group:
            for batch in read_file(log, file, *period, columns=SEARCH_COLUMNS):
                if batch.num_rows:
                    result.add(batch, table)
    return result


def _find_begin(log: LogFolder) -> datetime | None:
    """The first hour of a log."""
    for day, folder in log.list_days(SEARCHES).items():
        if files := log.list_day(day, folder):
            return files[0].hour
    return None


def _read_clicks(log: LogFolder, files: list[LogFile]) -> pa.Table:
    columns = ["request_id", "product_id", "time"]
    schema = pa.schema([COLUMNS[EVENTS].field(name) for name in columns])

    def read() -> Iterator[pa.RecordBatch]:
        for file in files:
            for batch in read_file(log, file, columns=[*columns, "kind"]):
                yield batch.filter(pc.equal(batch["kind"], CLICK)).select(columns)

    return pa.Table.from_batches(read(), schema=schema)


def _segment_values(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """Dimension → the value of each search: str (N,)."""
    has_picture = batch["has_picture"].fill_null(False).to_numpy(zero_copy_only=False)
    words = _integers(batch["words"])
    classes = np.select(
        [words == 0, words == 1, words <= 3], ["no text", "1 word", "2 or 3 words"], "4 words or more"
    )
    # searches that failed have no version
    versions = batch["version"].fill_null("").to_numpy(zero_copy_only=False).astype(str)
    return {
        PICTURE: np.where(has_picture, "with a picture", "without"),
        WORDS: classes,
        VERSION: np.where(versions == "", "none", versions),
    }


def _count_positions(positions: np.ndarray) -> np.ndarray:
    return np.bincount(positions, minlength=POSITIONS)[:POSITIONS]


def _integers(column: pa.Array) -> np.ndarray:
    return column.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
