import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusion.index import CHUNK, best, top_k

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
