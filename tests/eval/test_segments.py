import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.errors import JudgeError
from vitrine_judge.segments import (
    HEAD,
    INTERVAL_QUERIES,
    SMALL,
    TAIL,
    TORSO,
    pool_segments,
    segment_means,
    traffic_thirds,
)
from vitrine_judge.significance import mean_interval


def test_the_largest_comes_first() -> None:
    values, labels = np.array([1.0, 0.0, 0.5, 0.25, 0.75]), np.array(["b", "c", "c", "a", "b"])
    b, c, a = segment_means(values, labels)
    assert (b.name, b.queries, b.mean) == ("b", 2, 0.875)
    assert (c.name, c.queries, c.mean) == ("c", 2, 0.25)
    assert (a.name, a.queries, a.mean) == ("a", 1, 0.25)


@pytest.mark.parametrize("queries", [1, INTERVAL_QUERIES - 1, INTERVAL_QUERIES])
def test_only_enough_queries_have_an_interval(queries: int) -> None:
    values = np.linspace(0, 1, queries)
    (part,) = segment_means(values, np.full(queries, "a"))
    if queries < INTERVAL_QUERIES:
        assert math.isnan(part.low) and math.isnan(part.high)
    else:
        assert (part.low, part.high) == mean_interval(values, (0.0, 1.0))


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=30))
def test_segments_add_up(pairs: list[tuple[float, str]]) -> None:
    values, labels = np.array([v for v, _ in pairs]), np.array([name for _, name in pairs])
    parts = list(segment_means(values, labels))
    assert sum(part.queries for part in parts) == len(values)
    assert sum(part.queries * part.mean for part in parts) == pytest.approx(values.sum())
    assert [part.queries for part in parts] == sorted((part.queries for part in parts), reverse=True)


def test_clusters_widen_the_interval() -> None:
    values, labels = np.tile(np.linspace(0, 1, 10), 5), np.full(50, "a")
    (independent,) = segment_means(values, labels)
    (clustered,) = segment_means(values, labels, clusters=np.tile(np.arange(10).astype(str), 5))
    assert clustered.mean == independent.mean
    assert clustered.low < independent.low < independent.high < clustered.high


def test_small_segments_join_those_of_the_level_above() -> None:
    sizes = {
        "shoes/boots/red": 3,
        "shoes/boots/blue": 4,
        "shoes/heels": 2,
        "shoes/flat": 1,
        "bags": 9,
        "hats": 2,
        "x/y": 1,
    }
    labels = np.repeat(list(sizes), list(sizes.values()))
    pooled = dict(zip(labels.tolist(), pool_segments(labels, 6).tolist(), strict=True))
    assert pooled == {
        "shoes/boots/red": "shoes/boots/other",
        "shoes/boots/blue": "shoes/boots/other",
        "shoes/heels": SMALL,
        "shoes/flat": SMALL,
        "bags": "bags",
        "hats": SMALL,
        "x/y": SMALL,
    }


@given(
    st.lists(st.sampled_from(["a", "a/b", "a/b/c", "a/b/d", "a/e", "f", "g/h"]), min_size=1, max_size=60),
    st.integers(1, 12),
)
def test_pooling_keeps_large_segments_and_loses_no_query(names: list[str], smallest: int) -> None:
    labels = np.array(names)
    pooled = pool_segments(labels, smallest)
    assert pooled.shape == labels.shape
    for name in set(names):
        groups = set(pooled[labels == name].tolist())
        assert len(groups) == 1
        assert (groups == {name}) == (names.count(name) >= smallest)
    assert all((pooled == group).sum() >= smallest for group in set(pooled.tolist()) - {SMALL})


def test_a_label_for_each() -> None:
    with pytest.raises(JudgeError, match="1 segments for 2 queries"):
        list(segment_means(np.zeros(2), np.array(["a"])))


def test_thirds_of_traffic() -> None:
    assert traffic_thirds(np.array([1, 50, 1, 26, 0, 22])).tolist() == [TAIL, HEAD, TAIL, TORSO, TAIL, TAIL]
    assert traffic_thirds(np.ones(5)).tolist() == [HEAD] * 5


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any))
def test_more_frequent_is_never_further_down(counts: list[int]) -> None:
    order = {HEAD: 0, TORSO: 1, TAIL: 2}
    places = [order[name] for name in traffic_thirds(np.array(counts))]
    assert all(
        p <= q
        for p, c in zip(places, counts, strict=True)
        for q, d in zip(places, counts, strict=True)
        if c >= d
    )
    assert 0 in places


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1]])
def test_counts_that_cannot_be(counts: list[int]) -> None:
    with pytest.raises(JudgeError, match="counts of queries must be 0 or more"):
        traffic_thirds(np.array(counts))
