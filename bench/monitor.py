"""Time and memory of `python -m serving monitor` for a log of many searches, drawn here.

    python bench/monitor.py [SEARCHES]

Draws a log of a reference week and a day, SEARCHES together (default 1,000,000), ten results each of a catalogue of
100,000 products, clicks on a third; then reads both periods in a process of its own, without MLflow and embeddings, and
prints seconds, CPU seconds, and the peak of its memory.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from catalog.request_log import COLUMNS, EVENTS, SEARCHES, LogFolder
from serving.log_files import file_path, write_table
from serving.monitor.aggregation import Period, aggregate
from serving.monitor.query_drift import add_languages, measure_query_drift
from serving.monitor.rules import judge_period
from serving.params import MonitorParams

PRODUCTS, K, DAYS = 100_000, 10, 8
START = datetime(2026, 11, 1, tzinfo=UTC)
WORDS = np.array(
    ["red", "blue", "green", "shoe", "shirt", "mug", "lamp", "chair", "women", "kids", "leather", "cotton"]
)
FILE_ROWS = 50_000
# the results of each text, some products in many; their order changes from search to search
RANKINGS = (PRODUCTS * np.random.default_rng(0).random((len(WORDS) ** 3, K)) ** 3).astype(int)


def draw_searches(count: int, hour: datetime, rng: np.random.Generator) -> pa.Table:
    """Searches of an hour, with the columns that the service writes."""
    ids = [f"{value:016x}" for value in rng.integers(2**63, size=count)]
    words = rng.integers(len(WORDS), size=(count, 3))
    texts = [" ".join(row) for row in WORDS[words]]
    shown = rng.permuted(RANKINGS[words @ [len(WORDS) ** 2, len(WORDS), 1]], axis=1).ravel()
    results = pa.StructArray.from_arrays(
        [
            pa.array([f"p{number}" for number in shown]),
            pa.array(rng.uniform(0.2, 0.9, count * K).astype(np.float32)),
            pa.array(["3"] * (count * K)),
        ],
        ["product_id", "score", "version"],
    )
    columns = {
        "request_id": ids,
        "time": [hour + timedelta(seconds=float(second)) for second in np.sort(rng.uniform(0, 3599, count))],
        "text": texts,
        "characters": [len(text) for text in texts],
        "words": [3] * count,
        "has_picture": rng.random(count) < 0.1,
        "k": [K] * count,
        "version": ["3"] * count,
        "results": pa.ListArray.from_arrays(np.arange(0, count * K + 1, K), results),
        "latency_ms": rng.lognormal(3, 0.5, count).astype(np.float32),
        "unknown_tokens": rng.choice([0, 0.25, 0.5], count).astype(np.float32),
        "status": [200] * count,
    }
    schema = COLUMNS[SEARCHES]
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns and field.name != "results"
        else columns.get(field.name, pa.nulls(count, field.type))
        for field in schema
    ]
    return pa.table(
        [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema
    )


def draw_clicks(searches: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Clicks on the first results of a third of the searches."""
    rows = np.flatnonzero(rng.random(len(searches)) < 1 / 3)
    clicked = searches.take(rows)
    products = [results[0]["product_id"] for results in clicked["results"].to_pylist()]
    times = [time + timedelta(seconds=20) for time in clicked["time"].to_pylist()]
    columns = {"request_id": clicked["request_id"], "time": times, "product_id": products}
    columns |= {"kind": ["click"] * len(rows), "session": pa.nulls(len(rows), pa.string())}
    return pa.table(columns, schema=COLUMNS[EVENTS])


def write_log(folder: Path, searches: int) -> None:
    """Write the log, in files as large as merged ones."""
    log, rng = LogFolder.open(str(folder)), np.random.default_rng(36)
    hours = 24 * DAYS
    for hour in range(hours):
        start, count = START + timedelta(hours=hour), searches // hours
        for number, first in enumerate(range(0, count, FILE_ROWS)):
            rows = draw_searches(min(FILE_ROWS, count - first), start, rng)
            write_table(log, file_path(log, SEARCHES, start, "ab", number, number), rows)
            clicks = draw_clicks(rows, rng)
            write_table(log, file_path(log, EVENTS, start, "ab", number, number), clicks)


def read_log(folder: Path) -> Iterator[str]:
    """Read and judge both periods; yields what to print."""
    clocks = time.perf_counter, time.process_time
    start = [clock() for clock in clocks]
    log, params = LogFolder.open(str(folder)), MonitorParams()
    products = pa.array([f"p{number}" for number in range(PRODUCTS)])
    middle, end = (START + timedelta(days=days) for days in (DAYS - 1, DAYS))
    parts = [
        aggregate(log, period, products, params.compared)
        for period in (Period(START, middle), Period(middle, end))
    ]
    read = [clock() for clock in clocks]
    samples = add_languages(*(part.sample for part in parts))
    judge_period(*parts, measure_query_drift(*samples, None), params)
    searches = sum(part.totals.searches for part in parts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    end_times = [clock() for clock in clocks]
    reading, rest = (
        [late - early for late, early in zip(*pair, strict=True)]
        for pair in ((read, start), (end_times, read))
    )
    yield f"{searches:,} searches: {reading[0]:.1f} s to read and add up ({reading[1]:.1f} s of CPU)"
    yield f"samples and rules: {rest[0]:.1f} s ({rest[1]:.1f} s of CPU)"
    yield f"peak of memory: {peak:,.0f} MiB"


def main(words: list[str]) -> None:
    """Draw the log, and read it in another process."""
    if words[:1] == ["read"]:
        print("\n".join(read_log(Path(words[1]))))
        return
    searches = int(words[0].replace(",", "")) if words else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        write_log(Path(name), searches)
        size = sum(path.stat().st_size for path in Path(name).rglob("*.parquet")) / 2**20
        print(f"log: {size:,.0f} MiB", flush=True)
        subprocess.run([sys.executable, __file__, "read", name], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
