from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion.search.vector_index import (
    ASSIGN_CHUNK,
    QUERY_CHUNK,
    RESCORE_CHUNK,
    SCANS_PER_SCORE,
    TARGET_RECALL,
    IVFIndex,
    recall,
    top_k,
    top_positions,
)

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
def test_top_k_with_a_mask(queries: np.ndarray, products: np.ndarray, k: int, data: st.DataObject) -> None:
    mask = data.draw(hnp.arrays(bool, len(products)))
    rows, scores = top_k(queries, products, k, mask)
    allowed_rows = np.flatnonzero(mask)
    expected, values = top_k(queries, products[allowed_rows], k)
    assert rows.tolist() == allowed_rows[expected].tolist()
    assert scores.tolist() == values.tolist()


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 30), elements=halves), st.integers(0, 30))
def test_top_positions(scores: np.ndarray, k: int) -> None:
    k = min(k, len(scores))
    assert top_positions(scores, k).tolist() == np.lexsort((np.arange(len(scores)), -scores))[:k].tolist()


@pytest.mark.parametrize("count", [QUERY_CHUNK - 1, QUERY_CHUNK, 2 * QUERY_CHUNK + 1])
def test_many_queries(count: int) -> None:
    rng = np.random.default_rng(count)
    queries, products = (rng.integers(-3, 4, (n, 4)).astype(np.float32) for n in (count, 40))
    expected = np.argsort(-(queries @ products.T), axis=1, kind="stable")[:, :7]
    assert np.array_equal(top_k(queries, products, 7)[0], expected)


PRODUCTS, DIM, RANK = 8000, 64, 12


def draw_vectors(seed: int, count: int) -> np.ndarray:
    """Unit vectors that mostly lie in a few directions, the same directions for every seed."""
    shape = np.random.default_rng(0).normal(size=(RANK, DIM))
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, RANK)) @ shape + 0.1 * rng.normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def products() -> np.ndarray:
    return draw_vectors(1, PRODUCTS)


@pytest.fixture(scope="module")
def ivf(products: np.ndarray) -> IVFIndex:
    return IVFIndex.build(products, draw_vectors(2, 300))


@pytest.fixture
def never_exact(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After its call, every exact search is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("searched exactly")

    return lambda: monkeypatch.setattr("fusion.search.vector_index.top_k", refuse)


def equal_results(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(*arrays) for arrays in zip(left, right, strict=True))


@pytest.mark.parametrize("count", [1, RESCORE_CHUNK - 1, 3 * RESCORE_CHUNK + 1])
def test_approximate_search_reaches_the_target_recall(
    ivf: IVFIndex, products: np.ndarray, count: int, never_exact: Callable[[], None]
) -> None:
    queries = draw_vectors(3, count)
    truth, highest = top_k(queries, products, 10)
    never_exact()
    rows, scores = ivf.top_k(queries, products, 10)
    assert (rows.dtype, scores.dtype, rows.shape) == (np.int64, np.float32, truth.shape)
    assert recall(scores, highest).mean() >= TARGET_RECALL - 0.01
    assert (
        np.mean([np.isin(row, true_row).mean() for row, true_row in zip(rows, truth, strict=True)])
        >= TARGET_RECALL - 0.01
    )
    np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", products[rows], queries), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 10 for row in rows.tolist())


def test_index_is_small(ivf: IVFIndex, products: np.ndarray, tmp_path: Path) -> None:
    assert ivf.directions.shape == (16, DIM)
    np.testing.assert_allclose(ivf.directions @ ivf.directions.T, np.eye(16), atol=1e-5)
    shares = np.square(products @ ivf.directions.T).sum(0) / np.square(products).sum()
    assert 0.98 <= shares.sum() <= 1 and shares.max() < 3 / 16
    ivf.save(tmp_path / "lists")
    assert (tmp_path / "lists").stat().st_size < ivf.nbytes < products.nbytes / 4


def test_vectors_in_all_directions_keep_all_directions() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 40)).astype(np.float32)
    assert IVFIndex.build(vectors, vectors[:5]).directions.shape == (40, 40)


def test_index_survives_saving_and_is_deterministic(
    ivf: IVFIndex, products: np.ndarray, tmp_path: Path
) -> None:
    ivf.save(tmp_path / "lists")
    IVFIndex.build(products, draw_vectors(2, 300)).save(tmp_path / "rebuilt")
    assert (tmp_path / "lists").read_bytes() == (tmp_path / "rebuilt").read_bytes()
    loaded, queries = IVFIndex.load(tmp_path / "lists"), draw_vectors(3, 50)
    assert (loaded.probes, loaded.depth, loaded.nbytes) == (ivf.probes, ivf.depth, ivf.nbytes)
    assert equal_results(loaded.top_k(queries, products, 10), ivf.top_k(queries, products, 10))


@settings(deadline=None)
@given(st.lists(st.integers(0, PRODUCTS - 1), min_size=1, max_size=2 * ASSIGN_CHUNK, unique=True))
def test_the_list_and_the_code_of_a_vector_depend_on_it_alone(
    ivf: IVFIndex, products: np.ndarray, rows: list[int]
) -> None:
    lists, codes = ivf.quantiser.assign(products[rows])
    assert np.array_equal(lists, ivf.lists[rows]) and np.array_equal(codes, ivf.codes[rows])


def test_a_higher_target_recall_reads_more(products: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    efforts = []
    for target in (0.8, 0.99, 0.9999):
        monkeypatch.setattr("fusion.search.vector_index.TARGET_RECALL", target)
        ivf = IVFIndex.build(products, draw_vectors(2, 300))
        efforts.append((ivf.depth, ivf.probes))
    assert efforts == sorted(set(efforts))


def test_nearly_equal_products_need_more_rescoring() -> None:
    """Four bits per direction cannot order these products: the best ones of a query are nearly equal."""
    rng = np.random.default_rng(0)
    products = (draw_vectors(1, 8)[rng.integers(0, 8, 8000)] + 0.01 * rng.normal(size=(8000, DIM))).astype(
        np.float32
    )
    ivf, queries = IVFIndex.build(products, draw_vectors(2, 100)), draw_vectors(3, 50)
    assert ivf.depth > 80
    assert (
        recall(ivf.top_k(queries, products, 10)[1], top_k(queries, products, 10)[1]).mean()
        >= TARGET_RECALL - 0.01
    )


@pytest.mark.parametrize("choice", ["at random", "far from the queries"])
def test_a_filter_that_many_products_pass(
    ivf: IVFIndex, products: np.ndarray, choice: str, never_exact: Callable[[], None]
) -> None:
    if choice == "at random":
        queries, mask = draw_vectors(3, 30), np.random.default_rng(4).random(PRODUCTS) < 0.5
    else:
        queries = draw_vectors(3, 1)
        mask = products @ queries[0] < 0
    _, highest = top_k(queries, products, 10, mask)
    never_exact()
    rows, scores = ivf.top_k(queries, products, 10, mask)
    assert mask[rows].all()
    assert recall(scores, highest).mean() >= TARGET_RECALL - 0.01


@pytest.mark.parametrize("count", [0, 1, 9, 11, PRODUCTS // SCANS_PER_SCORE - 1])
def test_a_filter_that_few_products_pass(ivf: IVFIndex, products: np.ndarray, count: int) -> None:
    mask = np.zeros(PRODUCTS, bool)
    mask[np.random.default_rng(4).permutation(PRODUCTS)[:count]] = True
    queries = draw_vectors(3, 20)
    assert equal_results(ivf.top_k(queries, products, 10, mask), top_k(queries, products, 10, mask))


@pytest.mark.parametrize("k", [0, 1, 40, PRODUCTS + 1])
def test_approximate_search_returns_k_products(ivf: IVFIndex, products: np.ndarray, k: int) -> None:
    queries = draw_vectors(3, 50)
    rows, scores = ivf.top_k(queries, products, k)
    assert rows.shape == scores.shape == (50, min(k, PRODUCTS))
    if k:
        assert recall(scores, top_k(queries, products, k)[1]).mean() >= TARGET_RECALL - 0.02


def test_exact_search_fills_up_short_results(ivf: IVFIndex, products: np.ndarray) -> None:
    short = IVFIndex(ivf.quantiser, ivf.lists, ivf.codes, probes=1, depth=ivf.depth)
    sizes = [ivf.index.get_list_size(n) for n in range(ivf.index.nlist)]
    assert min(sizes) < 40
    queries = draw_vectors(3, 200)
    rows, scores = short.top_k(queries, products, 40)
    assert (rows >= 0).all() and np.isfinite(scores).all()


def test_ties_are_in_order_of_row() -> None:
    products = np.repeat(draw_vectors(1, 1000), 5, axis=0)
    rows, scores = IVFIndex.build(products, draw_vectors(2, 300)).top_k(draw_vectors(3, 50), products, 10)
    equal = np.diff(scores, axis=1) == 0
    assert equal.any()
    assert (np.diff(rows, axis=1)[equal] > 0).all()


def test_recall() -> None:
    scores = np.float32([[0.9, 0.5, 0.5], [0.3, 0.2, 0.1]])
    true_scores = np.float32([[0.9, 0.8, 0.5], [0.3, 0.2, 0.15]])
    assert recall(scores, true_scores) == pytest.approx([1, 2 / 3])
