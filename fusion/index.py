"""Exact and approximate top-k by inner product."""

from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    import faiss

CHUNK = 256
WORTH_IT = 20_000  # products; fewer are searched exactly in a millisecond or two
NEIGHBOURS, EFFORT = 32, 128  # of the graph: links a product, candidates looked at for each link
ENERGY = 0.98  # share of the vectors' squared lengths that the graph sees
K, RECALL = 10, 0.99  # what the width of searches is set for
COST = 100  # a product met in the graph costs about as much as so many of an exact search
SAMPLE = 100_000  # products that tell the directions
ROUNDING = 1e-6  # of scores: one is summed up in another order than the other
STEP = 10_000  # products linked at a time
FEW = 64  # queries whose candidates are held at a time


def top_k(
    queries: np.ndarray, products: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best products of each query, best first; equal scores in order of row.

    Args:
        queries: float32 of shape (Q, dim).
        products: float32 of shape (P, dim).
        k: At most this many per query.
        allowed: bool of shape (P,), the products that may be found; all of them for None.

    Returns:
        Row numbers, int64, and scores, float32, both of shape (Q, min(k, allowed products)).
    """
    if allowed is not None and (own := np.flatnonzero(allowed)).size < len(products) / 4:
        rows, highest = top_k(queries, products[own], k)
        return own[rows], highest
    k = min(k, len(products) if allowed is None else own.size)
    rows = np.empty((len(queries), k), np.int64)
    highest = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), CHUNK):
        scores = queries[start : start + CHUNK] @ products.T
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        for i, row in enumerate(scores, start=start):
            rows[i] = best(row, k)
            highest[i] = row[rows[i]]
    return rows, highest


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k highest of N scores, highest first, equal ones in order of position; int64 of shape (k,)."""
    if k == 0:
        return np.empty(0, np.int64)
    threshold = np.partition(scores, -k)[-k]
    reached = np.flatnonzero(scores >= threshold)  # more than k where the last place is shared
    return reached[np.argsort(-scores[reached], kind="stable")][:k]


class Graph:
    """Approximate top-k: a graph of near products (HNSW, Malkov and Yashunin 2018, as faiss has it).

    It sees products in the few directions in which their vectors mostly lie, which is several times less to read; what
    it finds is scored in full.

    Args:
        index: A rotation to those directions, and the graph; its efSearch is what a search for `K` looks at.
    """

    def __init__(self, index: "faiss.IndexPreTransform") -> None:
        import faiss

        self.index, self.links = index, faiss.downcast_index(index.index)

    @classmethod
    def build(cls, products: np.ndarray, queries: np.ndarray) -> Self:
        """Link products, and let searches look at no more than it takes to find `RECALL` of the best `K`, beyond noise.

        Args:
            products: float32 of shape (P, dim).
            queries: float32 of shape (Q, dim), such as will be asked.
        """
        import faiss

        directions = _directions(products)
        rotation = faiss.LinearTransform(*directions.shape[::-1], False)
        faiss.copy_array_to_vector(directions.ravel(), rotation.A)
        rotation.is_trained = True
        half = faiss.ScalarQuantizer.QT_fp16
        links = faiss.IndexHNSWSQ(len(directions), half, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        links.hnsw.efConstruction = EFFORT
        graph = cls(faiss.IndexPreTransform(rotation, links))
        with tqdm(total=len(products), desc="index", unit=" products") as bar:
            for start in range(0, len(products), STEP):
                graph.index.add(products[start : start + STEP])
                bar.update(min(STEP, len(products) - start))
        _, best_scores = top_k(queries, products, K)
        width = float(K)
        while True:
            graph.links.hnsw.efSearch = int(width)
            shares = recall(graph.top_k(queries, products, K)[1], best_scores)
            if shares.mean() - 2 * shares.std() / np.sqrt(len(shares)) >= RECALL:
                return graph
            width *= 1.2

    def top_k(
        self, queries: np.ndarray, products: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Most of what the exact `top_k` finds. Where few products are allowed, or few near a query, search is exact.

        Args:
            queries: float32 of shape (Q, dim).
            products: What the graph was built of.
            k: At most this many per query.
            allowed: bool of shape (P,), the products that may be found; all of them for None.

        Returns:
            As `top_k`.
        """
        import faiss

        count = len(products) if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, count)
        depth = self.links.hnsw.efSearch * max(k, K) * len(products) // max(K * count, 1)
        if depth * COST >= count:
            return top_k(queries, products, k, allowed)
        params = faiss.SearchParametersPreTransform(index_params=faiss.SearchParametersHNSW(efSearch=depth))
        rows, highest = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), FEW):
            part = slice(start, start + FEW)
            _, near = self.index.search(queries[part], depth, params=params)
            near.sort(axis=1)  # so that equal scores stand in order of row
            scores = np.matmul(products[near], queries[part, :, None])[..., 0]
            scores[near < 0 if allowed is None else (near < 0) | ~allowed[near]] = -np.inf
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            rows[part] = np.take_along_axis(near, order, 1)
            highest[part] = np.take_along_axis(scores, order, 1)
        if (short := np.isneginf(highest).any(1)).any():
            rows[short], highest[short] = top_k(queries[short], products, k, allowed)
        return rows, highest

    @property
    def nbytes(self) -> int:
        """What it takes in memory beside the vectors."""
        hnsw = self.links.hnsw
        halves = 2 * self.links.ntotal * self.links.d
        return halves + 4 * (hnsw.neighbors.size() + hnsw.levels.size()) + 8 * hnsw.offsets.size()

    def save(self, path: Path) -> None:
        """Write one file in faiss's format."""
        import faiss

        faiss.write_index(self.index, str(path))

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`."""
        import faiss

        return cls(faiss.read_index(str(path)))


def recall(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many of the products found are as good as those of an exact search: scores (Q, k) of both; float64 (Q,)."""
    return (scores >= truth[:, -1:] - ROUNDING).mean(1)


def _directions(vectors: np.ndarray) -> np.ndarray:
    """The fewest orthogonal directions, in sixteens, with `ENERGY` of the squared lengths: float32 (d, dim)."""
    some = vectors[:: max(1, len(vectors) // SAMPLE)]
    energy, directions = np.linalg.eigh(some.T @ some)
    shares = np.cumsum(energy[::-1]) / energy.sum()
    count = min(16 * (1 + int(np.searchsorted(shares, ENERGY)) // 16), len(shares))
    return np.ascontiguousarray(directions.T[::-1][:count])
