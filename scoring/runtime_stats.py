"""What serving costs: latency, sizes, and the recall of the index."""

import time
from pathlib import Path

import numpy as np

from fusion.features import Items
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import SearchIndex
from fusion.search.vector_index import recall, top_k

LATENCY_QUERIES = 100


def facts(
    network: ProductSearchModel, queries: Items, wanted: np.ndarray, index: SearchIndex, model: Path
) -> dict[str, float]:
    """What serving costs: 95th percentile of a single query's latency (encode, search) in ms; sizes in MB; and how much
    of the true best 10 its search finds. `wanted` are the queries, encoded.
    """
    seconds = []
    for i in range(min(LATENCY_QUERIES, len(queries))):
        start = time.perf_counter()
        index.search(embed(network, queries.take(np.array([i])), "query"), 10)
        seconds.append(time.perf_counter() - start)
    (_, served), (_, exact) = index.search(wanted, 10), top_k(wanted, index.vectors, 10)
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    return {
        "latency_ms_p95": float(1000 * np.percentile(seconds, 95)),
        "model_mb": size / 1e6,
        "index_mb": index.nbytes / 1e6,
        "index_recall@10": float(recall(served, exact).mean()),
    }
