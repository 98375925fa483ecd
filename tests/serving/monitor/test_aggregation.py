"""A period of the log, added up: by hand, and whatever the order and the files of its rows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from request_logs import START, event, search, write_log

from catalog.request_log import EVENTS, SEARCHES, LogFolder
from serving.monitor.aggregation import PICTURE, VERSION, WORDS, Aggregate, Period, aggregate
from serving.monitor.figures import list_metrics
from serving.monitor.histograms import estimate_latency

DAY = Period(START, START + timedelta(days=1))
PRODUCTS = pa.array(list("abcdefgh"))


def request(name: str, products: list[str], hours: float = 0, **others: Any) -> dict[str, Any]:
    row = {
        "status": 200,
        "latency_ms": 10.0,
        "version": "3",
        "words": 2,
        "characters": 8,
        "has_picture": False,
    }
    return search(name, "red shoe", products, hours, **(row | others))


def add_up(
    searches: list[Any], events: list[Any], files: Callable[[int], list[int]] | None = None
) -> Aggregate:
    address = f"memory://{uuid4().hex}"
    for table, rows in ((SEARCHES, searches), (EVENTS, events)):
        write_log(address, table, rows, files(len(rows)) if files else None)
    return aggregate(LogFolder.open(address), DAY, PRODUCTS, 100)


def test_a_day_by_hand() -> None:
    searches = [
        request("r0", ["a", "b"], 1.9),
        request("r1", ["b", "a", "z"], 2, words=None, has_picture=True, latency_ms=100.0),
        request("r2", [], 3, version="4", words=1),
        request("r3", [], 4, status=503, latency_ms=1000.0),
        request("r4", ["a"], -1),  # the day before
        request("r5", ["a"], 24),  # the day after
    ]
    events = [
        event("r0", "b", hours=2.1),  # in the next hour
        event("r0", "b", hours=2.2),
        event("r0", "a", "cart", 2.3),
        event("r1", "a", hours=2.9),
        event("r1", "z", hours=3.1),  # too late
        event("r1", "c", hours=2.1),  # not shown
        event("r9", "a", hours=2.1),
    ]
    result = add_up(searches, events)
    totals = result.totals
    assert (totals.searches, totals.errors, totals.answered, totals.empty, totals.clicked) == (4, 1, 3, 1, 2)
    assert result.shown[:4].tolist() == [2, 2, 1, 0] and result.clicks[:3].tolist() == [0, 2, 0]
    assert result.impressions.tolist() == [2, 2, 0, 0, 0, 0, 0, 0] and result.other_impressions == 1
    groups = {key: (part.searches, part.clicked) for key, part in result.segments.items()}
    assert groups == {
        (PICTURE, "without"): (3, 1),
        (PICTURE, "with a picture"): (1, 1),
        (WORDS, "2 or 3 words"): (2, 1),
        (WORDS, "1 word"): (1, 0),
        (WORDS, "no text"): (1, 1),
        (VERSION, "3"): (3, 2),
        (VERSION, "4"): (1, 0),
    }
    assert {version: int(counts.sum()) for version, counts in result.top_scores.items()} == {"0": 2}
    assert result.sample.num_rows == 3 and result.days == 1
    metrics = list_metrics(result)
    assert metrics["click_through"] == 1 and metrics["coverage"] == 0.25 and metrics["empty_share"] == 1 / 3
    assert metrics["concentration"] == 0.5 and metrics["click_through_at_2"] == 1
    assert metrics["latency_ms_p95"] == pytest.approx(100, rel=0.01)


@settings(max_examples=4)
@given(st.data())
def test_order_and_files_do_not_matter(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    searches, events = [], []
    for number in range(25):
        products = rng.permutation(list("abcdefz"))[: rng.integers(0, 6)].tolist()
        hours, status = float(rng.uniform(-1, 25)), int(rng.choice([200, 200, 400, 500]))
        others = {"latency_ms": float(rng.lognormal(3)), "version": str(rng.integers(2)), "status": status}
        searches.append(request(f"r{number}", products, hours, **others))
        events += [event(f"r{number}", product, hours=hours + rng.uniform(0, 2)) for product in products[:2]]
    expected = add_up(searches, events)

    def draw_files(count: int) -> list[int]:
        return rng.integers(3, size=count).tolist()

    result = add_up(rng.permutation(searches).tolist(), rng.permutation(events).tolist(), draw_files)
    assert list_metrics(result) == list_metrics(expected)
    assert result.segments.keys() == expected.segments.keys()
    for key, totals in expected.segments.items():
        assert result.segments[key].clicked == totals.clicked
        assert (result.segments[key].latencies == totals.latencies).all()
    assert (result.impressions == expected.impressions).all() and (result.shown == expected.shown).all()
    assert all((result.top_scores[key] == counts).all() for key, counts in expected.top_scores.items())
    assert result.sample.equals(expected.sample)


def test_a_sample_is_drawn_by_ids_from_all_files(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = [request(f"r{number}", ["a"], number / 100) for number in range(1000)]
    first, second = (add_up(rows, []).sample for rows in (searches, searches[::-1]))
    assert first.equals(second) and first.num_rows == 100
    numbers = np.array([int(name[1:]) for name in first["request_id"].to_pylist()])
    assert 350 < numbers.mean() < 650  # not the first ones


def test_a_log_that_begins_within_the_period_has_fewer_days() -> None:
    assert add_up([request("r0", ["a"], 6), request("r1", ["a"], 20)], []).days == 0.75
    assert add_up([request("r0", ["a"], -6), request("r1", ["a"], 20)], []).days == 1


@given(st.lists(st.floats(0.1, 1e5), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_percentiles_are_right_within_one_percent(milliseconds: list[float], share: float) -> None:
    from serving.monitor.histograms import LATENCY_BINS, latency_bins

    counts = np.bincount(latency_bins(np.array(milliseconds)), minlength=LATENCY_BINS)
    exact = np.quantile(milliseconds, share, method="inverted_cdf")
    estimate = estimate_latency(counts, share)
    assert estimate.value == pytest.approx(exact, rel=0.011)
    assert estimate.low <= estimate.value <= estimate.high


def test_a_period_is_printed_in_utc() -> None:
    assert str(Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, 6, tzinfo=UTC))) == (
        "2026-11-01 00:00 to 2026-11-02 06:00"
    )
