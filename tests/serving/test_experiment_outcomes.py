from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitrine_judge.online import Day, OnlineResult

from catalog.request_log import COLUMNS, EVENTS, SEARCHES
from catalog.schema import DataError
from serving.experiment_log import READ, ExperimentLog, Pair
from serving.experiment_outcomes import Outcomes, check_shares, measure_outcomes
from serving.shadow_comparison import compare_shadow

START = datetime(2026, 11, 27, 9, tzinfo=UTC)
NOON = START + timedelta(hours=3)
Row = dict[str, Any]


class Traffic:
    """Searches and clicks of an experiment, champion 1 and challenger 2."""

    def __init__(self, kind: str = "interleaving") -> None:
        self.kind = kind
        self.searches: list[Row] = []
        self.clicks: list[Row] = []

    def search(
        self,
        session: str,
        minute: float,
        shown: str,
        clicks: str = "",
        arm: str = "interleaved",
        **others: Any,
    ) -> None:
        """Results as "2a 1b": version 2 placed product a. Clicks follow after a minute each, as "ab"."""
        request, time = f"r{len(self.searches)}", START + timedelta(minutes=minute)
        results = [{"product_id": text[1:], "score": 0.5, "version": text[0]} for text in shown.split()]
        row = {
            "request_id": request,
            "time": time,
            "session": session,
            "arm": arm,
            "results": results,
            "latency_ms": 5,
        }
        self.searches.append(row | {"experiment": self.kind, "champion": "1", "challenger": "2"} | others)
        for number, product in enumerate(clicks, start=1):
            self.click(request, minute + number, product)

    def click(self, request: str, minute: float, product: str) -> None:
        time = START + timedelta(minutes=minute)
        self.clicks.append({"request_id": request, "time": time, "product_id": product, "kind": "click"})

    def log(self) -> ExperimentLog:
        tables = [
            pa.Table.from_pylist(rows, schema=pa.schema([COLUMNS[table].field(name) for name in READ[table]]))
            for table, rows in ((SEARCHES, self.searches), (EVENTS, self.clicks))
        ]
        return ExperimentLog(self.kind, Pair("1", "2"), *tables)

    def measure(self, until: datetime = NOON, max_searches: int = 100) -> Outcomes:
        return measure_outcomes(self.log(), until, max_searches)


def total(outcomes: Outcomes) -> tuple[int, int, int]:
    """Lost, tied and won."""
    days = outcomes.result.days if outcomes.result else ()
    return tuple(np.sum([day[1:] for day in days], axis=0).tolist()) if days else (0, 0, 0)


def test_a_session_is_won_by_the_version_with_more_clicked_results() -> None:
    traffic = Traffic()
    traffic.search("won", 0, "2a 1b 1c", "a")
    traffic.search("lost", 0, "2a 1b 1c", "ab")
    traffic.search("lost", 5, "1c 2a", "c")
    traffic.search("tied", 0, "2a 1b", "ab")
    traffic.search("no click", 0, "2a 1b")
    traffic.search("a click twice is a click", 0, "2a 1b 1c", "aabc")
    outcomes = traffic.measure()
    assert outcomes.result == OnlineResult("interleaving", (Day("2026-11-27", 2, 2, 1),))
    assert outcomes.counts["sessions"] == 5


def test_clicks_on_what_was_not_shown_do_not_count() -> None:
    traffic = Traffic()
    traffic.search("s", 0, "2a 1b")
    traffic.search("other", 0, "2c 1d")
    traffic.click("r0", 1, "c")
    traffic.click("r0", 1, "nothing")
    assert total(traffic.measure()) == (0, 2, 0)


def test_a_session_counts_when_it_is_over() -> None:
    traffic = Traffic()
    traffic.search("s", 0, "2a 1b")
    traffic.click("r0", 20, "a")
    for minutes, result in ((49, (0, 0, 0)), (50, (0, 0, 1))):
        outcomes = traffic.measure(START + timedelta(minutes=minutes))
        assert total(outcomes) == result
        assert outcomes.counts["sessions that are not over"] == (minutes == 49)


def test_only_the_first_visit_counts() -> None:
    """Its outcome is final; what the same customer does later depends on it."""
    traffic = Traffic()
    traffic.search("s", 0, "2a 1b", "a")
    traffic.search("s", 30.9, "2c 1d 1e")  # less than 30 minutes after the click
    traffic.search("s", 62, "2f 1g", "g")
    traffic.click("r0", 70, "b")
    traffic.click("r1", 75, "d")
    traffic.click("r1", 76, "e")
    outcomes = traffic.measure()
    assert total(outcomes) == (0, 0, 1) and outcomes.counts["searches of later visits"] == 1


def test_the_day_is_that_of_the_end_in_utc() -> None:
    traffic = Traffic()
    traffic.search("s", 15 * 60 - 1, "2a 1b", "a")
    outcomes = traffic.measure(START + timedelta(days=2))
    assert outcomes.result == OnlineResult("interleaving", (Day("2026-11-28", 0, 0, 1),))


def test_implausible_sessions_are_counted_and_left_out() -> None:
    traffic = Traffic()
    for number in range(4):
        traffic.search("bot", number, "2a 1b", "a")
    for number in range(3):
        traffic.search("customer", number, "2a 1b", "b")
    outcomes = traffic.measure(max_searches=3)
    assert total(outcomes) == (1, 0, 0)
    assert outcomes.counts["sessions with more than 3 searches"] == 1


def test_equal_rankings_say_nothing() -> None:
    traffic = Traffic()
    traffic.search("same", 0, "1a 1b", "a", arm="champion")
    traffic.search("both", 0, "1a 1b", "a", arm="champion")
    traffic.search("both", 5, "2a 1b", "a")
    outcomes = traffic.measure()
    assert total(outcomes) == (0, 0, 1)
    assert outcomes.counts["searches with equal rankings"] == 2
    assert outcomes.counts["sessions without a different ranking"] == 1


def test_sessions_of_the_arms_meet_in_the_order_in_which_they_end() -> None:
    traffic = Traffic("ab")
    for minute, arm, clicks in (
        (0, "champion", "a"),
        (1, "challenger", ""),  # lost
        (5, "challenger", "b"),
        (9, "champion", ""),  # won
        (20, "challenger", "a"),
        (21, "champion", "ab"),  # tied
        (30, "challenger", "a"),  # without a partner
    ):
        traffic.search(f"{minute}", minute, "1a 1b", clicks, arm=arm)
    outcomes = traffic.measure()
    assert outcomes.result == OnlineResult("ab", (Day("2026-11-27", 1, 1, 1),))
    assert outcomes.click_through == {"challenger": (4, 0.75), "champion": (3, 2 / 3)}
    assert outcomes.counts["sessions without a partner"] == 1


def test_a_session_in_both_arms_is_left_out() -> None:
    traffic = Traffic("ab")
    traffic.search("a", 0, "1a", "a", arm="champion")
    traffic.search("b", 0, "2a", "a", arm="challenger")
    traffic.search("both", 0, "1a", "a", arm="champion")
    traffic.search("both", 1, "2a", "a", arm="challenger")
    outcomes = traffic.measure()
    assert total(outcomes) == (0, 1, 0) and outcomes.counts["sessions in both arms"] == 1


@pytest.mark.parametrize("kind", ["interleaving", "ab"])
@settings(max_examples=25)
@given(data=st.data())
def test_outcomes_are_final(kind: str, data: st.DataObject) -> None:
    """A later look sees the same outcomes, and more of them: what is over does not change."""
    traffic = Traffic(kind)
    minutes = st.integers(0, 150)
    for session in data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12)):
        arm = "interleaved" if kind == "interleaving" else ("champion" if session in "abc" else "challenger")
        minute = data.draw(minutes)
        traffic.search(session, minute, "2a 1b 1c", "", arm=arm)
        if product := data.draw(st.sampled_from(["", "a", "b"])):
            traffic.click(traffic.searches[-1]["request_id"], minute + data.draw(minutes), product)
    rows = traffic.searches, traffic.clicks
    counts = []
    for look in sorted(data.draw(st.lists(minutes, min_size=2, max_size=5))):
        until = START + timedelta(minutes=look)
        traffic.searches, traffic.clicks = ([row for row in part if row["time"] < until] for part in rows)
        counts.append(total(traffic.measure(until)) if traffic.searches else (0, 0, 0))
    assert all(np.diff(np.array(counts), axis=0).ravel() >= 0)


@pytest.mark.parametrize(
    ("champion", "challenger", "refused"), [(0, 0, 0), (520, 480, 0), (5200, 4800, 1), (0, 11, 1)]
)
def test_arms_of_different_sizes_are_refused(champion: int, challenger: int, refused: int) -> None:
    if not refused:
        check_shares(champion, challenger)
        return
    message = (
        f"sample-ratio mismatch: {champion:,} sessions saw the champion and {challenger:,} the challenger; "
    )
    with pytest.raises(DataError, match=f"{message}.* refused"):
        check_shares(champion, challenger)


def test_an_ab_test_with_lost_sessions_is_refused() -> None:
    traffic = Traffic("ab")
    for number in range(60):
        traffic.search(f"{number}", number / 60, "1a", "", arm="champion" if number % 6 else "challenger")
    with pytest.raises(
        DataError, match="sample-ratio mismatch: 50 sessions saw the champion and 10 the challenger"
    ):
        traffic.measure()


def results(ids: str) -> list[Row]:
    return [{"product_id": name, "score": 0.5, "version": "2"} for name in ids]


def test_a_shadow_is_compared_with_what_was_shown() -> None:
    traffic = Traffic("shadow")
    for shown, shadow, time in (
        ("a b c d", "abcd", 10.0),
        ("a b c", "cbax", 20.0),
        ("", "a", 30.0),
        ("", "", 40.0),
    ):
        listed = " ".join(f"1{name}" for name in shown.split())
        traffic.search("s", 0, listed, arm="shadow", shadow_results=results(shadow), shadow_ms=time)
    traffic.search("s", 0, "1a", arm="shadow")  # the challenger failed
    compared = compare_shadow(traffic.log())
    assert (compared.searches, compared.failed) == (5, pytest.approx(0.2))
    assert compared.overlap == (1 + 3 / 4 + 0 + 1) / 4
    assert compared.equal == 2 / 4
    assert compared.rank_correlation == pytest.approx((1 - 1) / 2)
    assert (compared.empty_champion, compared.empty_challenger) == (0.5, 0.25)
    assert (compared.ms_champion, compared.ms_challenger) == (5.0, 25.0)


def test_a_shadow_that_always_failed_has_no_figures() -> None:
    traffic = Traffic("shadow")
    traffic.search("s", 0, "1a", arm="shadow")
    compared = compare_shadow(traffic.log())
    assert compared.failed == 1.0 and np.isnan(compared.overlap) and np.isnan(compared.empty_challenger)
