from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from vitrine_judge.errors import JudgeError
from vitrine_judge.significance import (
    Contest,
    benjamini_hochberg,
    count_clusters,
    detectable_difference,
    effective_queries,
    fewest_queries,
    holm,
    largest_change,
    lower_bound,
    mean_interval,
    p_above,
    paired_test,
)

VALUES = st.lists(st.floats(-1, 1).map(lambda value: round(value, 6)), min_size=2, max_size=25).map(np.array)


@pytest.mark.parametrize(("queries", "hits"), [(2, 1), (30, 0), (50, 5), (50, 50), (1000, 999), (20_000, 7)])
def test_of_hits_and_misses_the_interval_is_that_of_clopper_and_pearson(queries: int, hits: int) -> None:
    values = np.repeat([1.0, 0.0], [hits, queries - hits])
    low = stats.beta.ppf(0.025, hits, queries - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, queries - hits) if hits < queries else 1.0
    assert mean_interval(values, (0.0, 1.0)) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize("share", [1e-300, 1e-9, 0.001, 0.3, 0.9])
def test_p_values_are_exact_down_to_the_smallest(share: float) -> None:
    """Of 40 hits in 50 queries, the p-value is a binomial probability."""
    values, limit = np.repeat([1.0, 0.0], [40, 10]), stats.beta.ppf(share, 40, 11)
    assert p_above(values, limit, 0.0) == pytest.approx(share, rel=1e-6)


@given(VALUES, st.floats(-0.9, 0.9), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_p_values_are_those_of_random_weights(values: np.ndarray, limit: float, seed: int) -> None:
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(values) + 1), 20_000)
    share = np.mean(weights @ np.append(values, -1.0) <= limit)
    error = 5 * sqrt(max(share * (1 - share), 1e-4) / 20_000)
    assert p_above(values, limit, -1.0) == pytest.approx(share, abs=error)


@given(VALUES, st.floats(0.5, 0.999))
@settings(max_examples=60, deadline=None)
def test_interval_and_p_value_agree(values: np.ndarray, confidence: float) -> None:
    low, high = mean_interval(values, (-1.0, 1.0), confidence)
    level = (1 - confidence) / 2
    assert -1 <= low <= values.mean() <= high <= 1
    if low > -1 + 1e-6:
        assert p_above(values, low, -1.0) == pytest.approx(level, rel=1e-4)
        assert p_above(values, low - 1e-6, -1.0) <= level * (1 + 1e-4)
    if high < 1 - 1e-6:
        assert p_above(-values, -high, -1.0) == pytest.approx(level, rel=1e-4)


@given(VALUES, st.floats(-0.5, 0.5), st.floats(0, 0.2))
@settings(max_examples=60, deadline=None)
def test_better_values_are_never_less_significant(values: np.ndarray, limit: float, gain: float) -> None:
    better = np.minimum(values + gain, 1.0)
    assert p_above(better, limit, -1.0) <= p_above(values, limit, -1.0) + 1e-9
    assert p_above(values, limit, -2.0) >= p_above(values, limit, -1.0) - 1e-9


def test_losses_that_the_sample_misses_are_possible() -> None:
    """Nine of 100 queries gain .05 and none loses: one loss of .45 in 100 would undo it, and is missed by a third."""
    values = np.repeat([0.05, 0.0], [9, 91])
    assert stats.ttest_1samp(values, 0.0, alternative="greater").pvalue < 0.002
    assert p_above(values, 0.0, -1.0) > 0.5


@pytest.mark.parametrize("queries", [30, 100])
@pytest.mark.parametrize("shape", ["normal", "few losses", "few gains", "rare"])
def test_intervals_cover_the_truth(queries: int, shape: str) -> None:
    rng = np.random.default_rng(1)
    runs = 400
    samples, mean = {
        "normal": (rng.normal(0.02, 0.15, (runs, queries)).clip(-1, 1), 0.02),
        "few losses": (rng.choice([0.05, 0.0, -0.45], (runs, queries), p=[0.09, 0.9, 0.01]), 0.0),
        "few gains": (rng.choice([-0.05, 0.0, 0.45], (runs, queries), p=[0.09, 0.9, 0.01]), 0.0),
        "rare": (rng.choice([-1.0, 0.0], (runs, queries), p=[0.03, 0.97]), -0.03),
    }[shape]
    intervals = np.array([mean_interval(sample) for sample in samples])
    covered = np.mean((intervals[:, 0] <= mean) & (intervals[:, 1] >= mean))
    assert covered >= 0.95 - 3 * sqrt(0.95 * 0.05 / runs)


def test_with_many_queries_the_interval_is_nearly_the_normal_one() -> None:
    sample = np.random.default_rng(3).normal(0.1, 0.2, 20_000).clip(-1, 1)
    half = 1.959964 * sample.std() / sqrt(len(sample))
    assert mean_interval(sample) == pytest.approx(
        (sample.mean() - half, sample.mean() + half), abs=0.05 * half
    )


def test_paired_test() -> None:
    rng = np.random.default_rng(4)
    b = rng.random(200) * 0.8
    a = b + rng.normal(0.05, 0.1, 200)
    result = paired_test(a, b, confidence=0.9)
    assert result.difference == pytest.approx(float(np.mean(a) - np.mean(b)))
    assert result.low < result.difference < result.high
    assert result.p_value < 0.001 < result.low
    assert result.p_value == pytest.approx(2 * p_above(a - b, 0.0, -largest_change(a, b)), rel=1e-6)
    assert (result.confidence, result.effective) == (0.9, 200.0)
    mirrored = paired_test(b, a, confidence=0.9)
    assert mirrored.difference == -result.difference
    assert mirrored.p_value == pytest.approx(result.p_value)
    assert (mirrored.low, mirrored.high) == pytest.approx((-result.high, -result.low))


def test_equal_systems_differ_by_less_than_a_rare_query_could() -> None:
    """Where all differences are 0, only queries that the sample misses can differ."""
    result = paired_test(np.full(100, 0.5), np.full(100, 0.5))
    assert (result.difference, result.p_value) == (0.0, 1.0)
    assert (result.low, result.high) == pytest.approx((-(1 - 0.025**0.01), 1 - 0.025**0.01), abs=1e-9)


def test_scores_above_1_have_a_wider_support() -> None:
    assert largest_change(np.array([0.5, 0.2]), np.array([1.0, 0.0])) == 1.0
    assert largest_change(np.array([0.5, 12.0]), np.array([1.0, 0.0])) == 12.0
    a, b = np.linspace(0, 20, 50), np.linspace(0, 19, 50)
    assert paired_test(a, b).p_value > paired_test(a / 20, b / 20).p_value - 1e-12


def test_clusters_are_one_observation_each() -> None:
    """Copies of queries say nothing new: the interval is that of the queries that were copied."""
    values = np.random.default_rng(5).normal(0.1, 0.2, 60).clip(-1, 1)
    copies, labels = np.tile(values, 7), np.tile(np.arange(60).astype(str), 7)
    assert mean_interval(copies, clusters=labels) == pytest.approx(mean_interval(values), abs=1e-8)
    assert p_above(copies, 0.0, -1.0, labels) == pytest.approx(p_above(values, 0.0, -1.0))
    assert p_above(copies, 0.0, -1.0) < p_above(values, 0.0, -1.0) / 100
    assert effective_queries(copies, labels) == pytest.approx(60, rel=0.02)
    assert (count_clusters(copies, labels), count_clusters(copies)) == (60, 420)


def test_a_cluster_per_query_changes_nothing() -> None:
    values = np.random.default_rng(6).normal(0.05, 0.2, 60).clip(-1, 1)
    labels = np.arange(60).astype(str)
    assert mean_interval(values, clusters=labels) == pytest.approx(mean_interval(values), abs=1e-9)
    assert effective_queries(values, labels) == pytest.approx(60)
    assert effective_queries(values) == 60


def test_clusters_that_are_alike_without_variance() -> None:
    assert effective_queries(np.zeros(6), np.array(["a", "a", "a", "b", "b", "c"])) == pytest.approx(36 / 14)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ([1.0], [0.0], {}, "two queries or more"),
        ([], [], {}, "two queries or more"),
        ([[1.0, 2.0]], [[1.0, 2.0]], {}, r"shape \(1, 2\)"),
        ([1.0, 2.0], [1.0], {}, r"shape \(2,\) and \(1,\)"),
        ([1.0], [1.0, 2.0], {}, r"shape \(1,\) and \(2,\)"),
        ([1.0, np.nan], [1.0, 1.0], {}, "value at index 1 is not a finite number"),
        ([1.0, 2.0], [1.0, 1.0], {"confidence": 1.0}, "confidence is 1.0"),
        ([1.0, 2.0], [1.0, 1.0], {"clusters": np.array(["a"])}, "1 clusters for 2 queries"),
    ],
)
def test_what_cannot_be_compared(a: list, b: list, options: dict, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        paired_test(np.array(a), np.array(b), **options)


def test_values_outside_of_the_support() -> None:
    with pytest.raises(JudgeError, match=r"values from 0 to 1\.5 are outside of 0 to 1"):
        mean_interval(np.array([0.0, 1.5]), (0.0, 1.0))
    with pytest.raises(JudgeError, match="the level is 0"):
        lower_bound(np.array([0.0, 0.5]), 0.0, -1.0)


def test_a_contest_counts() -> None:
    assert Contest.from_differences(np.array([0.1, 0.0, 0.0, -0.2, 0.3, 0.4, -0.1, -0.1, -0.1])) == Contest(
        3, 2, 4
    )


def test_holm_by_hand() -> None:
    # Times 4, 3, 2, 1 in ascending order: .04, .06, .06, .05; the last may not be below the one before.
    assert holm(np.array([0.03, 0.01, 0.05, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_never_helps(p_values: list[float]) -> None:
    p = np.array(p_values)
    adjusted = holm(p)
    assert ((adjusted >= p) & (adjusted <= 1)).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(bad: float) -> None:
    with pytest.raises(JudgeError, match="between 0 and 1"):
        holm(np.array([0.5, bad]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_hochberg_is_scipys(p_values: list[float]) -> None:
    expected = stats.false_discovery_control(p_values, method="bh")
    assert benjamini_hochberg(np.array(p_values)) == pytest.approx(expected, abs=1e-12)
    assert (benjamini_hochberg(np.array(p_values)) <= holm(np.array(p_values)) + 1e-12).all()


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_a_detectable_difference_is_seen_as_often_as_it_says(spread: float) -> None:
    rng = np.random.default_rng(0)
    count, runs = 200, 400
    least = detectable_difference(rng.normal(0, spread, count))
    samples = rng.normal(least, spread, (runs, count)).clip(-1, 1)
    assert np.mean([p_above(sample, 0.0, -1.0) <= 0.025 for sample in samples]) == pytest.approx(
        0.8, abs=0.08
    )


@pytest.mark.parametrize(("power", "level"), [(0.0, 0.05), (1.0, 0.05), (0.8, 1.0)])
def test_a_power_that_cannot_be(power: float, level: float) -> None:
    with pytest.raises(JudgeError, match="must lie between 0 and 1"):
        detectable_difference(np.arange(5.0), level, power)


@pytest.mark.parametrize(("margin", "level"), [(0.02, 0.05), (0.03, 0.025), (0.5, 0.05)])
def test_the_fewest_queries_show_a_margin_where_nothing_drops(margin: float, level: float) -> None:
    fewest = fewest_queries(margin, level)
    assert p_above(np.zeros(fewest), -margin, -1.0) <= level < p_above(np.zeros(fewest - 1), -margin, -1.0)
