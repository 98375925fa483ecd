"""The rules on a period: each can fail, is undecided near its limit, and says where searches are too few."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from request_logs import START

from serving.monitor.aggregation import SAMPLE, Aggregate, Period
from serving.monitor.histograms import (
    LATENCY_BINS,
    SCORE_BINS,
    Totals,
    estimate_rate_ratio,
    estimate_ratio,
    estimate_share,
    latency_bins,
    score_bins,
)
from serving.monitor.query_drift import add_languages, measure_query_drift
from serving.monitor.rules import Verdict, judge_period
from serving.params import MonitorParams

PARAMS = MonitorParams()


def make_aggregate(
    days: int, searches: int = 10_000, latency: float = 100.0, score: float = 0.5, **shares: float
) -> Aggregate:
    """A period with shares of errors, empty, clicked."""
    period = Period(START, START + timedelta(days=days))
    result = Aggregate(period, days, pa.array(["a"]), 100)
    counts = {name: int(shares.get(name, 0) * searches) for name in ("errors", "empty", "clicked")}
    latencies = np.zeros(LATENCY_BINS, np.int64)
    latencies[latency_bins(np.array([latency]))] = searches
    result.totals = Totals(searches, answered=searches, latencies=latencies, **counts)
    scores = np.clip(np.random.default_rng(0).normal(score, 0.1, searches), -1, 1)
    result.top_scores["3"] = np.bincount(score_bins(scores), minlength=SCORE_BINS)
    return result


def judge(params: MonitorParams = PARAMS, each_day: int = 10_000, **changed: Any) -> dict[str, Verdict]:
    """The verdicts on a day like the seven before, but for what is changed."""
    usual = {"clicked": 0.3, "empty": 0.02}
    reference = make_aggregate(7, 7 * each_day, **usual)
    current = make_aggregate(1, **({"searches": each_day} | usual | changed))
    return {verdict.rule: verdict for verdict in judge_period(reference, current, [], params)}


def test_a_usual_day_passes() -> None:
    assert {verdict.outcome for verdict in judge().values()} == {"passed"}


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("max_empty", {"empty": 0.12}),
        ("max_errors", {"errors": 0.02}),
        ("max_latency_ms_p95", {"latency": 600.0}),
        ("min_ctr_ratio", {"clicked": 0.2}),
        ("min_volume_ratio", {"searches": 4000}),
        ("max_low_scores", {"score": 0.4}),
    ],
)
def test_each_rule_can_fail_alone(rule: str, changed: dict[str, float]) -> None:
    assert [name for name, verdict in judge(**changed).items() if verdict.outcome == "failed"] == [rule]
    off = MonitorParams.model_validate({rule: None})
    assert all(verdict.outcome == "passed" for verdict in judge(off, **changed).values())


def test_near_a_limit_and_with_few_searches_nothing_is_decided() -> None:
    assert judge(empty=0.103)["max_empty"].outcome == "undecided"
    few = judge(each_day=400, empty=0.5)
    assert {verdict.outcome for rule, verdict in few.items() if rule != "min_volume_ratio"} == {"too few"}
    without_reference = judge_period(make_aggregate(7, 0), make_aggregate(1), [], PARAMS)
    too_few = {verdict.rule for verdict in without_reference if verdict.outcome == "too few"}
    assert too_few == {"min_volume_ratio", "min_ctr_ratio", "max_low_scores"}
    without_clicks = judge_period(make_aggregate(7), make_aggregate(1), [], PARAMS)
    assert [verdict.outcome for verdict in without_clicks if verdict.rule == "min_ctr_ratio"] == ["too few"]


def test_scores_of_a_new_version_are_not_compared() -> None:
    reference, current = make_aggregate(7), make_aggregate(1, score=0.1)
    current.top_scores["4"] = current.top_scores.pop("3")
    verdicts = {verdict.rule: verdict for verdict in judge_period(reference, current, [], PARAMS)}
    assert verdicts["max_low_scores"].outcome == "too few"


def draw_sample(seed: int, texts: list[str], unknown: float = 0.1, count: int = 2000) -> pa.Table:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(texts, count).tolist()
    columns = {
        "text": chosen,
        "characters": [len(text) for text in chosen],
        "unknown_tokens": rng.binomial(4, unknown, count).astype(np.float32) / 4,
        "request_id": [f"{seed}-{number}" for number in range(count)],
    }
    return pa.table(
        [columns.get(name, pa.nulls(count, SAMPLE.field(name).type)) for name in SAMPLE.names], schema=SAMPLE
    )


ENGLISH = [
    "red running shoes for women",
    "blue shirt with long sleeves",
    "leather wallet",
    "kitchen knife set",
]
GERMAN = [
    "rote Laufschuhe für Damen",
    "blaues Hemd mit langen Ärmeln",
    "Geldbörse aus Leder",
    "Küchenmesser im Set",
]


def embed(seed: int, shift: float = 0.0) -> pa.Table:
    vectors = np.random.default_rng(seed).normal(shift, 1, (1000, 8)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8)
    return pa.table({"request_id": [f"{seed}-{number}" for number in range(1000)], "vector": column})


@pytest.mark.parametrize(
    ("name", "changed", "vectors"),
    [
        ("lengths", lambda: draw_sample(1, [text[:6] for text in ENGLISH]), (embed(0), embed(1))),
        ("languages", lambda: draw_sample(1, GERMAN), (embed(0), embed(1))),
        ("unknown tokens", lambda: draw_sample(1, ENGLISH, unknown=0.4), (embed(0), embed(1))),
        ("embeddings", lambda: draw_sample(1, ENGLISH), (embed(0), embed(1, shift=1.0))),
        (None, lambda: draw_sample(1, ENGLISH), (embed(0), embed(1))),
    ],
)
def test_drift_of_queries_is_found_and_fails(
    name: str | None, changed: Callable[[], pa.Table], vectors: tuple[pa.Table, pa.Table]
) -> None:
    samples = add_languages(draw_sample(0, ENGLISH), changed())
    drifts = measure_query_drift(*samples, vectors)
    assert [item.drift.name for item in drifts] == ["lengths", "unknown tokens", "languages", "embeddings"]
    verdicts = judge_period(make_aggregate(7), make_aggregate(1), drifts, PARAMS)
    failed = {verdict.subject for verdict in verdicts if verdict.outcome == "failed"}
    assert (f"drift of {name}" in failed) if name else not failed
    for item in drifts:
        assert item.index.low <= item.index.value <= item.index.high
        if item.drift.name not in {name, "lengths", "languages"}:
            assert item.index.value < 0.05


def test_without_texts_only_lengths_and_unknown_tokens_are_compared() -> None:
    hidden = [
        draw_sample(seed, ENGLISH).set_column(2, SAMPLE.field("text"), pa.nulls(2000, pa.string()))
        for seed in range(2)
    ]
    drifts = measure_query_drift(*add_languages(*hidden), None)
    assert [item.drift.name for item in drifts] == ["lengths", "unknown tokens"]


def test_intervals_cover_the_truth() -> None:
    """In 95 of 100 cases, but for the noise of 2,000 simulations."""
    rng = np.random.default_rng(0)
    truths = {"share": 0.05, "ratio": 0.5, "rate": 0.5}
    covered = dict.fromkeys(truths, 0)
    for _ in range(2000):
        now, before = rng.binomial(1000, 0.05), rng.binomial(3000, 0.1)
        estimates = {
            "share": estimate_share(now, 1000),
            "ratio": estimate_ratio(now, 1000, before, 3000),
            "rate": estimate_rate_ratio(rng.poisson(50), 1, rng.poisson(700), 7),
        }
        for name, estimate in estimates.items():
            covered[name] += estimate.low <= truths[name] <= estimate.high
    assert all(0.93 < count / 2000 < 0.98 for count in covered.values()), covered
    assert all(math.isnan(number) for number in estimate_share(0, 0))
