"""Exact and approximate top-k by inner product."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from catalog.progress import show_progress

QUERY_CHUNK = 256  # queries scored at a time in an exact search
SCORES_CHUNK = 2**26  # scores in memory at a time in an exact search
ANN_MIN_PRODUCTS = 20_000  # exact search over fewer products takes a millisecond or two
TUNING_K, TARGET_RECALL = 10, 0.99  # approximate search is tuned for this recall@10
ENERGY_SHARE = 0.98  # of the vectors' squared lengths, kept by the projection
SAMPLES_PER_LIST = 64  # products that train each inverted list
RESCORE_COST = 16  # scoring one candidate in full costs about as much as 16 products in an exact search
SCANS_PER_SCORE = 50  # scanning 50 products in the lists costs about as much as one in an exact search
RESCORE_CHUNK = 64  # queries whose candidate vectors are in memory at a time
SCORE_TOLERANCE = 1e-6  # exact and approximate search sum up in different orders
ASSIGN_CHUNK = 1024  # vectors assigned to lists at a time; the number is part of what the result depends on
SCAN_BLOCK = 32  # of faiss: codes that are scanned at once


def top_k(
    queries: np.ndarray, products: np.ndarray, k: int, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best products of each query by exact search, best first; ties in order of row.

    Args:
        queries: float32 of shape (Q, dim).
        products: float32 of shape (P, dim).
        k: At most this many per query.
        mask: bool of shape (P,), the products to search; None for all.

    Returns:
        Row numbers, int64, and scores, float32, both of shape (Q, min(k, products to search)).
    """
    if mask is not None and (allowed_rows := np.flatnonzero(mask)).size < len(products) / 4:
        rows, highest = top_k(queries, products[allowed_rows], k)
        return allowed_rows[rows], highest
    k = min(k, len(products) if mask is None else allowed_rows.size)
    rows = np.empty((len(queries), k), np.int64)
    highest = np.empty((len(queries), k), np.float32)
    chunk = max(1, min(QUERY_CHUNK, SCORES_CHUNK // max(1, len(products))))
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ products.T
        if mask is not None:
            scores[:, ~mask] = -np.inf
        for query, query_scores in enumerate(scores, start=start):
            rows[query] = top_positions(query_scores, k)
            highest[query] = query_scores[rows[query]]
    return rows, highest


def top_positions(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the k highest of N scores, best first, ties in order of position; int64, shape (k,)."""
    if k == 0:
        return np.empty(0, np.int64)
    threshold = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero(scores >= threshold)  # more than k if several scores equal the threshold
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


class Quantiser(NamedTuple):
    """What an `IVFIndex` learns from vectors. It assigns each vector on its own, whatever others there are.

    Attributes:
        directions: float32 (d, dim), the projection.
        centroids: float32 (L, d), of the lists.
        codebook: float32 (d, 16), the values that four bits stand for in each direction.
    """

    directions: np.ndarray
    centroids: np.ndarray
    codebook: np.ndarray

    @classmethod
    def learn(cls, vectors: np.ndarray) -> Self:
        """Learn from float32 (P, dim). Deterministic: the same vectors give the same arrays."""
        import faiss

        directions = _principal_directions(vectors)
        d, list_count = len(directions), max(1, int(2 * len(vectors) ** 0.5))
        index = faiss.IndexIVFPQFastScan(
            faiss.IndexFlatIP(d), d, list_count, d, 4, faiss.METRIC_INNER_PRODUCT
        )
        index.by_residual = True
        index.train(_sample_evenly(vectors, SAMPLES_PER_LIST * list_count) @ directions.T)
        centroids = index.quantizer.reconstruct_n(0, list_count)
        return cls(directions, centroids, faiss.vector_to_array(index.pq.centroids).reshape(d, -1))

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the list and the code of each vector.

        In batches of equal shape, and in PyTorch: with NumPy, a vector's product depends on its place in the batch.

        Args:
            vectors: float32 (N, dim).

        Returns:
            Number of the list, int32 (N,), and code, uint8 (N, d / 2).
        """
        import faiss
        import torch

        plain = self._create_index()
        projection, centroids = torch.tensor(self.directions.T), torch.tensor(self.centroids.T)
        lists = np.empty(len(vectors), np.int32)
        codes = np.empty((len(vectors), plain.code_size), np.uint8)
        for start in range(0, len(vectors), ASSIGN_CHUNK):
            rows = np.resize(np.arange(start, min(start + ASSIGN_CHUNK, len(vectors))), ASSIGN_CHUNK)
            projected = torch.from_numpy(vectors[rows]) @ projection
            nearest = (projected @ centroids).argmax(1).numpy()
            chunk_codes, points = np.empty((ASSIGN_CHUNK, plain.code_size), np.uint8), projected.numpy()
            plain.encode_vectors(ASSIGN_CHUNK, *map(faiss.swig_ptr, (points, nearest, chunk_codes)))
            lists[rows], codes[rows] = nearest, chunk_codes
        return lists, codes

    def build_index(self, lists: np.ndarray, codes: np.ndarray) -> Any:
        """Build faiss's index of the N vectors that `assign` got."""
        import faiss

        plain = self._create_index()
        order = np.argsort(lists, kind="stable")
        sorted_codes = codes[order]
        edges = np.searchsorted(lists[order], np.arange(len(self.centroids) + 1)).tolist()
        for number, (start, end) in enumerate(itertools.pairwise(edges)):
            rows = slice(start, end)
            plain.invlists.add_entries(
                number, end - start, faiss.swig_ptr(order[rows]), faiss.swig_ptr(sorted_codes[rows])
            )
        plain.ntotal = len(lists)
        index = faiss.IndexIVFPQFastScan(plain, SCAN_BLOCK)
        index.referenced_objects = [plain]  # it shares the quantizer
        return index

    def _create_index(self) -> Any:
        """An empty index of faiss, whose lists can be filled with codes."""
        import faiss

        list_count, d = self.centroids.shape
        quantizer = faiss.IndexFlatIP(d)
        quantizer.add(self.centroids)
        index = faiss.IndexIVFPQ(quantizer, d, list_count, d, 4, faiss.METRIC_INNER_PRODUCT)
        index.by_residual, index.is_trained = True, True
        faiss.copy_array_to_vector(self.codebook.ravel(), index.pq.centroids)
        return index


class IVFIndex:
    """Approximate top-k with an inverted file index (IVF) of faiss: a search reads only a few lists of near products.

    Product quantisation (Jégou et al. 2011, scanned as in André et al. 2015) stores four bits for each of the few
    directions in which the vectors mostly lie. The best candidates are scored again with the full vectors.

    Args:
        quantiser: What was learnt.
        lists: Number of each product's list, int32 (P,), see `Quantiser.assign`.
        codes: Code of each product, uint8 (P, d / 2).
        probes: Lists that a search for `TUNING_K` products reads.
        depth: Candidates that such a search scores in full.
    """

    def __init__(
        self,
        quantiser: Quantiser,
        lists: np.ndarray,
        codes: np.ndarray,
        probes: int = 1,
        depth: int = 8 * TUNING_K,
    ) -> None:
        self.quantiser, self.lists, self.codes = quantiser, lists, codes
        self.probes, self.depth = probes, depth
        self.index, self.directions = quantiser.build_index(lists, codes), quantiser.directions

    @classmethod
    def build(cls, products: np.ndarray, queries: np.ndarray) -> Self:
        """Build the index, and tune `probes` and `depth` to the lowest values that reach `TARGET_RECALL`.

        Deterministic: the same vectors give the same index.

        Args:
            products: float32 of shape (P, dim).
            queries: float32 of shape (Q, dim), representative queries, one or more.
        """
        quantiser = Quantiser.learn(products)
        ivf = cls(quantiser, *quantiser.assign(products))
        ivf._tune(products, queries)
        return ivf

    def _tune(self, products: np.ndarray, queries: np.ndarray) -> None:
        """Raise `probes`, then `depth`, until recall@`TUNING_K` is significantly at least `TARGET_RECALL`."""
        _, true_scores = top_k(queries, products, TUNING_K)
        probe_counts = np.unique(np.geomspace(1, self.index.nlist, 40, dtype=int)).tolist()
        while True:  # ends: with a large depth, top_k searches exactly
            for self.probes in show_progress(probe_counts, "tune index", unit="setting"):
                recalls = recall(self.top_k(queries, products, TUNING_K)[1], true_scores)
                if recalls.mean() - 2 * recalls.std() / np.sqrt(len(recalls)) >= TARGET_RECALL:
                    return
            self.depth *= 2

    def top_k(
        self, queries: np.ndarray, products: np.ndarray, k: int, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return nearly the same products as the exact `top_k`; exactly the same if the mask leaves few products.

        Args:
            queries: float32 of shape (Q, dim).
            products: The vectors that the index was built from.
            k: At most this many per query.
            mask: bool of shape (P,), the products to search; None for all.

        Returns:
            As `top_k`.
        """
        count = len(products) if mask is None else int(np.count_nonzero(mask))
        k = min(k, count)
        scale = max(k / TUNING_K, 1)
        depth, probes = int(self.depth * scale), int(self.probes * scale)
        if count < RESCORE_COST * depth or SCANS_PER_SCORE * count < len(products):
            return top_k(queries, products, k, mask)
        candidates = self._search_candidates(queries, depth, probes, mask)
        rows, highest = _rescore(queries, products, candidates, k)
        if (incomplete := np.isneginf(highest).any(1)).any():
            rows[incomplete], highest[incomplete] = top_k(queries[incomplete], products, k, mask)
        return rows, highest

    def _search_candidates(
        self, queries: np.ndarray, depth: int, probes: int, mask: np.ndarray | None
    ) -> np.ndarray:
        """Return the rows of the best candidates, int64 (Q, depth or more), sorted by row; -1 where there are fewer."""
        import faiss

        if mask is None:
            params = faiss.SearchParametersIVF(nprobe=min(probes, self.index.nlist))
        else:  # the best allowed products may be in any list, far from the query, and in dense regions
            depth *= 4
            selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            params = faiss.SearchParametersIVF(nprobe=self.index.nlist, sel=selector)
        # All queries in one call: if NumPy and faiss alternate, their thread pools wait for each other.
        _, candidates = self.index.search(queries @ self.directions.T, depth, params=params)
        candidates.sort(axis=1)  # so that ties end up in order of row
        return candidates

    @property
    def nbytes(self) -> int:
        """Memory of the index without the product vectors."""
        import faiss

        arrays = (*self.quantiser, self.lists, self.codes)
        return faiss.serialize_index(self.index).nbytes + sum(array.nbytes for array in arrays)

    def save(self, path: Path) -> None:
        """Write one file of arrays."""
        arrays: dict[str, Any] = {**self.quantiser._asdict(), "lists": self.lists, "codes": self.codes}
        with path.open("wb") as file:
            np.savez(file, **arrays, searches=[self.probes, self.depth])

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            quantiser = Quantiser(*(file[name] for name in Quantiser._fields))
            return cls(quantiser, file["lists"], file["codes"], *file["searches"].tolist())


def _rescore(
    queries: np.ndarray, products: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Score candidates (Q, N) with the full vectors; rows and scores of the best k, -inf for the candidate -1."""
    rows, highest = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), RESCORE_CHUNK):
        chunk = slice(start, start + RESCORE_CHUNK)
        scores = np.matmul(products[candidates[chunk]], queries[chunk, :, None])[..., 0]
        scores[candidates[chunk] < 0] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows[chunk] = np.take_along_axis(candidates[chunk], order, 1)
        highest[chunk] = np.take_along_axis(scores, order, 1)
    return rows, highest


def recall(scores: np.ndarray, true_scores: np.ndarray) -> np.ndarray:
    """Compute each query's share of results that score as high as the exact top k.

    Args:
        scores: float32 (Q, k), of the results.
        true_scores: float32 (Q, k), of an exact search.

    Returns:
        float64 (Q,).
    """
    return (scores >= true_scores[:, -1:] - SCORE_TOLERANCE).mean(1)


def _principal_directions(vectors: np.ndarray) -> np.ndarray:
    """Return the orthonormal principal directions with `ENERGY_SHARE` of the squared lengths, float32 (d, dim).

    d is a multiple of 16, or dim. A random rotation spreads the energy evenly over the directions.
    """
    sample = _sample_evenly(vectors, 100_000)
    energy, directions = np.linalg.eigh(sample.T @ sample)
    energy_shares = np.cumsum(energy[::-1]) / energy.sum()
    count = min(16 * (1 + int(np.searchsorted(energy_shares, ENERGY_SHARE)) // 16), len(energy_shares))
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(count, count)))
    return (rotation @ directions.T[::-1][:count]).astype(np.float32)


def _sample_evenly(vectors: np.ndarray, count: int) -> np.ndarray:
    """Return about `count` of the vectors, at equal steps."""
    return vectors[:: max(1, len(vectors) // count)]
