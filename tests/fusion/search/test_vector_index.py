from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion.search.vector_index import CHUNK, FEW, RECALL, SCAN, Lists, best, recall, top_k

halves = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])  # few values, many ties; sums are exact


def vectors(rows: st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    return rows.flatmap(lambda n: hnp.arrays(np.float32, (n, 2), elements=halves))


@settings(deadline=None)
@given(vectors(st.integers(0, 5)), vectors(st.integers(0, 12)), st.integers(0, 15))
def test_top_k(queries: np.ndarray, products: np.ndarray, k: int) -> None:
    rows, scores = top_k(queries, products, k)
    every = (queries @ products.T).tolist()
    expected = [sorted(range(len(row)), key=lambda p: (-row[p], p))[:k] for row in every]
    assert rows.shape == scores.shape == (len(queries), min(k, len(products)))
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    assert rows.tolist() == expected
    assert scores.tolist() == [[row[p] for p in order] for row, order in zip(every, expected, strict=True)]


@settings(deadline=None)
@given(vectors(st.integers(0, 5)), vectors(st.integers(0, 12)), st.integers(0, 15), st.data())
def test_top_k_of_some(queries: np.ndarray, products: np.ndarray, k: int, data: st.DataObject) -> None:
    allowed = data.draw(hnp.arrays(bool, len(products)))
    rows, scores = top_k(queries, products, k, allowed)
    own = np.flatnonzero(allowed)
    expected, values = top_k(queries, products[own], k)
    assert rows.tolist() == own[expected].tolist()
    assert scores.tolist() == values.tolist()


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 30), elements=halves), st.integers(0, 30))
def test_best(scores: np.ndarray, k: int) -> None:
    k = min(k, len(scores))
    assert best(scores, k).tolist() == np.lexsort((np.arange(len(scores)), -scores))[:k].tolist()


@pytest.mark.parametrize("queries", [CHUNK - 1, CHUNK, 2 * CHUNK + 1])
def test_many_queries(queries: int) -> None:
    rng = np.random.default_rng(queries)
    asked, products = (rng.integers(-3, 4, (n, 4)).astype(np.float32) for n in (queries, 40))
    expected = np.argsort(-(asked @ products.T), axis=1, kind="stable")[:, :7]
    assert np.array_equal(top_k(asked, products, 7)[0], expected)


PRODUCTS, DIM, RANK = 8000, 64, 12


def drawn(seed: int, count: int) -> np.ndarray:
    """Vectors of length 1 that mostly lie in a few directions, the same ones for every seed."""
    shape = np.random.default_rng(0).normal(size=(RANK, DIM))
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, RANK)) @ shape + 0.1 * rng.normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def products() -> np.ndarray:
    return drawn(1, PRODUCTS)


@pytest.fixture(scope="module")
def lists(products: np.ndarray) -> Lists:
    return Lists.build(products, drawn(2, 300))


@pytest.fixture
def never_exact(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, whatever is searched exactly is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("searched exactly")

    return lambda: monkeypatch.setattr("fusion.search.vector_index.top_k", refuse)


def same(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("count", [1, FEW - 1, 3 * FEW + 1])
def test_lists_give_nearly_what_exact_search_does(
    lists: Lists, products: np.ndarray, count: int, never_exact: Callable[[], None]
) -> None:
    queries = drawn(3, count)
    truth, highest = top_k(queries, products, 10)
    never_exact()
    rows, scores = lists.top_k(queries, products, 10)
    assert (rows.dtype, scores.dtype, rows.shape) == (np.int64, np.float32, truth.shape)
    assert recall(scores, highest).mean() >= RECALL - 0.01
    assert (
        np.mean([np.isin(own, true).mean() for own, true in zip(rows, truth, strict=True)]) >= RECALL - 0.01
    )
    np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", products[rows], queries), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 10 for row in rows.tolist())


def test_lists_see_few_directions_and_take_little(lists: Lists, products: np.ndarray, tmp_path: Path) -> None:
    assert lists.directions.shape == (16, DIM)
    np.testing.assert_allclose(lists.directions @ lists.directions.T, np.eye(16), atol=1e-5)
    shares = np.square(products @ lists.directions.T).sum(0) / np.square(products).sum()
    assert 0.98 <= shares.sum() <= 1 and shares.max() < 3 / 16
    lists.save(tmp_path / "lists")
    assert lists.nbytes == pytest.approx((tmp_path / "lists").stat().st_size, rel=0.02)
    assert lists.nbytes < products.nbytes / 4


def test_vectors_in_all_directions_are_seen_whole() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 40)).astype(np.float32)
    assert Lists.build(vectors, vectors[:5]).directions.shape == (40, 40)


def test_lists_survive_saving_and_are_the_same_again(
    lists: Lists, products: np.ndarray, tmp_path: Path
) -> None:
    lists.save(tmp_path / "lists")
    Lists.build(products, drawn(2, 300)).save(tmp_path / "again")
    assert (tmp_path / "lists").read_bytes() == (tmp_path / "again").read_bytes()
    loaded, queries = Lists.load(tmp_path / "lists"), drawn(3, 50)
    assert (loaded.probes, loaded.depth, loaded.nbytes) == (lists.probes, lists.depth, lists.nbytes)
    assert same(loaded.top_k(queries, products, 10), lists.top_k(queries, products, 10))


def test_searches_read_more_until_they_find_enough(
    products: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    for asked in (0.8, 0.99, 0.9999):
        monkeypatch.setattr("fusion.search.vector_index.RECALL", asked)
        lists = Lists.build(products, drawn(2, 300))
        read.append((lists.depth, lists.probes))
    assert read == sorted(set(read))


def test_what_is_hard_to_tell_apart_is_scored_in_full_more_often() -> None:
    """Products that four bits a direction cannot order: a query's best ones are all but equal."""
    rng = np.random.default_rng(0)
    products = (drawn(1, 8)[rng.integers(0, 8, 8000)] + 0.01 * rng.normal(size=(8000, DIM))).astype(
        np.float32
    )
    lists, queries = Lists.build(products, drawn(2, 100)), drawn(3, 50)
    assert lists.depth > 80
    assert (
        recall(lists.top_k(queries, products, 10)[1], top_k(queries, products, 10)[1]).mean() >= RECALL - 0.01
    )


@pytest.mark.parametrize("allowed", ["by chance", "far from the queries"])
def test_a_filter_that_many_products_pass(
    lists: Lists, products: np.ndarray, allowed: str, never_exact: Callable[[], None]
) -> None:
    queries = drawn(3, 30) if allowed == "by chance" else drawn(3, 1)
    far = np.random.default_rng(4).random(PRODUCTS) < 0.5 if len(queries) > 1 else products @ queries[0] < 0
    _, highest = top_k(queries, products, 10, far)
    never_exact()
    rows, scores = lists.top_k(queries, products, 10, far)
    assert far[rows].all()
    assert recall(scores, highest).mean() >= RECALL - 0.01


@pytest.mark.parametrize("few", [0, 1, 9, 11, PRODUCTS // SCAN - 1])
def test_a_filter_that_few_products_pass(lists: Lists, products: np.ndarray, few: int) -> None:
    allowed = np.zeros(PRODUCTS, bool)
    allowed[np.random.default_rng(4).permutation(PRODUCTS)[:few]] = True
    queries = drawn(3, 20)
    assert same(lists.top_k(queries, products, 10, allowed), top_k(queries, products, 10, allowed))


@pytest.mark.parametrize("k", [0, 1, 40, PRODUCTS + 1])
def test_lists_give_as_many_as_asked(lists: Lists, products: np.ndarray, k: int) -> None:
    queries = drawn(3, 50)
    rows, scores = lists.top_k(queries, products, k)
    assert rows.shape == scores.shape == (50, min(k, PRODUCTS))
    if k:
        assert recall(scores, top_k(queries, products, k)[1]).mean() >= RECALL - 0.02


def test_where_the_lists_read_hold_too_few_the_rest_is_found(lists: Lists, products: np.ndarray) -> None:
    short = Lists(lists.index, lists.directions, probes=1, depth=lists.depth)
    sizes = [lists.index.get_list_size(n) for n in range(lists.index.nlist)]
    assert min(sizes) < 40
    queries = drawn(3, 200)
    rows, scores = short.top_k(queries, products, 40)
    assert (rows >= 0).all() and np.isfinite(scores).all()


def test_equal_products_stand_in_order_of_row() -> None:
    products = np.repeat(drawn(1, 1000), 5, axis=0)
    rows, scores = Lists.build(products, drawn(2, 300)).top_k(drawn(3, 50), products, 10)
    equal = np.diff(scores, axis=1) == 0
    assert equal.any()
    assert (np.diff(rows, axis=1)[equal] > 0).all()


def test_recall() -> None:
    found, truth = (
        np.float32([[0.9, 0.5, 0.5], [0.3, 0.2, 0.1]]),
        np.float32([[0.9, 0.8, 0.5], [0.3, 0.2, 0.15]]),
    )
    assert recall(found, truth) == pytest.approx([1, 2 / 3])
