from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion.index import CHUNK, COST, FEW, RECALL, Graph, best, recall, top_k

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
def graph(products: np.ndarray) -> Graph:
    return Graph.build(products, drawn(2, 300))


def goes_through(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is searched exactly from now on is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("searched exactly")

    monkeypatch.setattr("fusion.index.top_k", refuse)


@pytest.mark.parametrize("count", [1, FEW - 1, 3 * FEW + 1])
def test_a_graph_finds_nearly_what_exact_search_does(
    graph: Graph, products: np.ndarray, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = drawn(3, count)
    truth, highest = top_k(queries, products, 10)
    goes_through(graph, monkeypatch)
    rows, scores = graph.top_k(queries, products, 10)
    assert (rows.dtype, scores.dtype, rows.shape) == (np.int64, np.float32, truth.shape)
    assert recall(scores, highest).mean() >= RECALL - 0.01
    assert (
        np.mean([np.isin(own, true).mean() for own, true in zip(rows, truth, strict=True)]) >= RECALL - 0.01
    )
    np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", products[rows], queries), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 10 for row in rows.tolist())


def test_a_graph_sees_few_directions_and_takes_little(
    graph: Graph, products: np.ndarray, tmp_path: Path
) -> None:
    assert graph.links.d == 16
    graph.save(tmp_path / "graph")
    assert graph.nbytes == pytest.approx((tmp_path / "graph").stat().st_size, rel=0.02)
    assert graph.nbytes < products.nbytes * 2


def test_vectors_in_all_directions_are_seen_whole() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 40)).astype(np.float32)
    assert Graph.build(vectors, vectors[:5]).links.d == 40


def test_a_graph_survives_saving(graph: Graph, products: np.ndarray, tmp_path: Path) -> None:
    graph.save(tmp_path / "graph")
    loaded, queries = Graph.load(tmp_path / "graph"), drawn(3, 50)
    assert loaded.links.hnsw.efSearch == graph.links.hnsw.efSearch
    assert loaded.nbytes == graph.nbytes
    for ours, theirs in zip(
        loaded.top_k(queries, products, 10), graph.top_k(queries, products, 10), strict=True
    ):
        assert np.array_equal(ours, theirs)


def test_searches_get_wider_until_they_find_enough(
    products: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = []
    for asked in (0.9, 0.999):
        monkeypatch.setattr("fusion.index.RECALL", asked)
        widths.append(Graph.build(products, drawn(2, 300)).links.hnsw.efSearch)
    assert widths[0] < widths[1]


def test_a_filter_that_many_products_pass(
    graph: Graph, products: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, allowed = drawn(3, 100), np.random.default_rng(4).random(PRODUCTS) < 0.8
    _, highest = top_k(queries, products, 10, allowed)
    monkeypatch.setattr("fusion.index.COST", 10)
    goes_through(graph, monkeypatch)
    rows, scores = graph.top_k(queries, products, 10, allowed)
    assert allowed[rows].all()
    assert recall(scores, highest).mean() >= RECALL - 0.01


def test_a_filter_that_few_products_pass(graph: Graph, products: np.ndarray) -> None:
    queries, allowed = drawn(3, 20), np.random.default_rng(4).random(PRODUCTS) < 5 * COST / PRODUCTS
    for ours, exact in zip(
        graph.top_k(queries, products, 10, allowed), top_k(queries, products, 10, allowed), strict=True
    ):
        assert np.array_equal(ours, exact)


def test_a_filter_that_no_near_product_passes(
    graph: Graph, products: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = drawn(3, 1)
    allowed = products @ queries[0] < 0
    monkeypatch.setattr("fusion.index.COST", 1)
    for ours, exact in zip(
        graph.top_k(queries, products, 10, allowed), top_k(queries, products, 10, allowed), strict=True
    ):
        assert np.array_equal(ours, exact)


@pytest.mark.parametrize("k", [0, 1, 40, PRODUCTS + 1])
def test_a_graph_gives_as_many_as_asked(graph: Graph, products: np.ndarray, k: int) -> None:
    queries = drawn(3, 50)
    rows, scores = graph.top_k(queries, products, k)
    assert rows.shape == scores.shape == (50, min(k, PRODUCTS))
    if k:
        assert recall(scores, top_k(queries, products, k)[1]).mean() >= RECALL - 0.02


def test_nothing_allowed(graph: Graph, products: np.ndarray) -> None:
    rows, scores = graph.top_k(drawn(3, 3), products, 10, np.zeros(PRODUCTS, bool))
    assert rows.shape == scores.shape == (3, 0)


def test_equal_products_of_a_graph_stand_in_order_of_row() -> None:
    products = np.repeat(drawn(1, 1000), 5, axis=0)
    rows, scores = Graph.build(products, drawn(2, 300)).top_k(drawn(3, 50), products, 10)
    same = np.diff(scores, axis=1) == 0
    assert same.any()
    assert (np.diff(rows, axis=1)[same] > 0).all()


def test_recall() -> None:
    found, truth = (
        np.float32([[0.9, 0.5, 0.5], [0.3, 0.2, 0.1]]),
        np.float32([[0.9, 0.8, 0.5], [0.3, 0.2, 0.15]]),
    )
    assert recall(found, truth) == pytest.approx([1, 2 / 3])
