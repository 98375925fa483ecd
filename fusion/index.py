"""Exact top-k by inner product."""

import numpy as np

CHUNK = 256


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
    k = min(k, len(products) if allowed is None else int(np.count_nonzero(allowed)))
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
