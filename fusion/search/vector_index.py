"""Exact and approximate top-k by inner product."""

from pathlib import Path
from typing import Any, Self

import numpy as np
from tqdm import trange

CHUNK = 256
WORTH_IT = 20_000  # products; fewer are searched exactly in a millisecond or two
K, RECALL = 10, 0.99  # what approximate searches are set for
ENERGY = 0.98  # share of the vectors' squared lengths that they see
SAMPLE = 64  # products for each list, to learn it from
COST = 16  # scoring a product found costs about as much as so many in an exact search
SCAN = 50  # scanning so many products, as much as one there
FEW = 64  # queries whose candidates' vectors are held at a time
ROUNDING = 1e-6  # of scores: one is summed up in another order than the other
STEP = 50_000  # products added at a time


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


class Lists:
    """Approximate top-k: products in lists of near ones, of which a search reads a few (inverted lists, by faiss).

    What is read is small: four bits for each of the few directions in which the vectors mostly lie (product
    quantisation, Jégou et al. 2011, scanned as André et al. 2015 do). The best of it is scored in full.

    Args:
        index: faiss's IndexIVFPQFastScan over rotated vectors.
        directions: float32 (d, dim), what rotates them.
        probes: Lists that a search for `K` reads.
        depth: Products that it scores in full.
    """

    def __init__(self, index: Any, directions: np.ndarray, probes: int = 1, depth: int = 8 * K) -> None:
        self.index, self.directions, self.probes, self.depth = index, directions, probes, depth

    @classmethod
    def build(cls, products: np.ndarray, queries: np.ndarray) -> Self:
        """Make the lists, and let searches do no more than it takes to find `RECALL` of the best `K`, beyond noise.

        The same vectors give the same lists.

        Args:
            products: float32 of shape (P, dim).
            queries: float32 of shape (Q, dim), such as will be asked; one or more.
        """
        import faiss

        directions = _directions(products)
        d, count = len(directions), max(1, int(2 * len(products) ** 0.5))
        index = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(d), d, count, d, 4, faiss.METRIC_INNER_PRODUCT)
        index.by_residual = True
        index.train(_some(products, SAMPLE * count) @ directions.T)
        for start in trange(0, len(products), STEP, desc="index"):
            index.add(products[start : start + STEP] @ directions.T)
        lists = cls(index, directions)
        _, truth = top_k(queries, products, K)
        while True:
            for lists.probes in np.unique(np.geomspace(1, count, 40, dtype=int)).tolist():
                shares = recall(lists.top_k(queries, products, K)[1], truth)
                if shares.mean() - 2 * shares.std() / np.sqrt(len(shares)) >= RECALL:
                    return lists
            lists.depth *= 2  # at last so much that search is exact

    def top_k(
        self, queries: np.ndarray, products: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Nearly all of what the exact `top_k` finds; all of it where few products are allowed.

        Args:
            queries: float32 of shape (Q, dim).
            products: What the lists were built of.
            k: At most this many per query.
            allowed: bool of shape (P,), the products that may be found; all of them for None.

        Returns:
            As `top_k`.
        """
        import faiss

        count = len(products) if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, count)
        deeper = max(k / K, 1)
        depth, probes = int(self.depth * deeper), int(self.probes * deeper)
        if count < COST * depth or SCAN * count < len(products):
            return top_k(queries, products, k, allowed)
        if allowed is None:
            params = faiss.SearchParametersIVF(nprobe=min(probes, self.index.nlist))
        else:  # the best that are allowed may lie in any list, far from the query, and denser there
            depth *= 4
            chosen = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            params = faiss.SearchParametersIVF(nprobe=self.index.nlist, sel=chosen)
        # each of both in one go: NumPy's threads and faiss's, in turns, would wait for each other
        _, near = self.index.search(queries @ self.directions.T, depth, params=params)
        near.sort(axis=1)  # so that equal scores stand in order of row
        rows, highest = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), FEW):
            part = slice(start, start + FEW)
            scores = np.matmul(products[near[part]], queries[part, :, None])[..., 0]
            scores[near[part] < 0] = -np.inf  # the lists held fewer
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            rows[part] = np.take_along_axis(near[part], order, 1)
            highest[part] = np.take_along_axis(scores, order, 1)
        if (short := np.isneginf(highest).any(1)).any():
            rows[short], highest[short] = top_k(queries[short], products, k, allowed)
        return rows, highest

    @property
    def nbytes(self) -> int:
        """What it takes in memory beside the vectors."""
        import faiss

        return faiss.serialize_index(self.index).nbytes + self.directions.nbytes

    def save(self, path: Path) -> None:
        """Write one file of arrays."""
        import faiss

        with path.open("wb") as file:
            np.savez(
                file,
                index=faiss.serialize_index(self.index),
                directions=self.directions,
                searches=[self.probes, self.depth],
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`."""
        import faiss

        with np.load(path, allow_pickle=False) as file:
            index = faiss.deserialize_index(file["index"])
            return cls(index, file["directions"], *file["searches"].tolist())


def recall(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many of the products found are as good as those of an exact search: scores (Q, k) of both; float64 (Q,)."""
    return (scores >= truth[:, -1:] - ROUNDING).mean(1)


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Orthonormal directions, the fewest sixteens with `ENERGY` of the squared lengths, evenly: float32 (d, dim)."""
    some = _some(vectors, 100_000)
    energy, directions = np.linalg.eigh(some.T @ some)
    shares = np.cumsum(energy[::-1]) / energy.sum()
    count = min(16 * (1 + int(np.searchsorted(shares, ENERGY)) // 16), len(shares))
    even, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(count, count)))
    return (even @ directions.T[::-1][:count]).astype(np.float32)


def _some(vectors: np.ndarray, count: int) -> np.ndarray:
    """About so many of them, from the first to the last."""
    return vectors[:: max(1, len(vectors) // count)]
