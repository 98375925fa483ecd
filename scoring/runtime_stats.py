"""Runtime statistics of a model in service: latency, sizes, and the recall of the index."""

import time
from pathlib import Path

import numpy as np

from fusion.search.marker import embed_queries
from fusion.search.search_index import SearchIndex
from fusion.search.vector_index import recall, top_k
from scoring.systems import Candidate

LATENCY_QUERIES = 100


def measure_runtime(candidate: Candidate, index: SearchIndex, model: Path) -> dict[str, float]:
    """Measure what serving costs.

    Args:
        candidate: The model and the test queries.
        index: What is served.
        model: Folder of the model.

    Returns:
        latency_ms_p95, the 95th percentile of a single query's latency (encode, search) in ms; model_mb and index_mb,
        sizes in MB; index_recall@10, the share of the model's true best 10 that the index returns.
    """
    (_, index_scores), (_, exact_scores) = (
        index.search(candidate.test_embeddings, 10),
        top_k(candidate.test_embeddings.vectors, index.vectors, 10),
    )
    model_bytes = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    return {
        "latency_ms_p95": float(1000 * np.percentile(_time_queries(candidate, index), 95)),
        "model_mb": model_bytes / 1e6,
        "index_mb": index.nbytes / 1e6,
        "index_recall@10": float(recall(index_scores, exact_scores).mean()),
    }


def _time_queries(candidate: Candidate, index: SearchIndex) -> list[float]:
    """Seconds to encode and search each of the first queries, one at a time."""
    seconds = []
    for row in range(min(LATENCY_QUERIES, len(candidate.test_queries))):
        start = time.perf_counter()
        query = candidate.test_queries.take(np.array([row]))
        index.search(embed_queries(candidate.network, query), 10, texts=[candidate.test_texts[row]])
        seconds.append(time.perf_counter() - start)
    return seconds
