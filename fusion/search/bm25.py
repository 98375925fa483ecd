"""BM25 over all text of a product: the lexical baseline."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from catalog import store
from catalog.progress import show_progress
from fusion.search.catalogue_search import build_run_table, read_texts
from fusion.search.lexical_index import LexicalIndex


def rank_bm25(data: Path, query_ids: np.ndarray, depth: int, index: LexicalIndex | None = None) -> pa.Table:
    """Rank products by BM25.

    Args:
        data: The data set.
        query_ids: str, shape (Q,); queries without text get no products.
        depth: Maximum number of products per query; only products that share a token with it are ranked.
        index: Of the data set's products; None to build it, with detected languages.

    Returns:
        A run: columns query_id, product_id and score.
    """
    index = index or LexicalIndex.build(data)
    product_ids = store.read_table(data, "products", ["product_id"])["product_id"].to_numpy()
    texts = dict(zip(query_ids, read_texts(data, query_ids), strict=True))
    text_queries = [(query_id, text) for query_id, text in texts.items() if text]
    runs = [build_run_table(query_ids[:0], product_ids, np.empty((0, 0), np.int64), np.empty((0, 0)))]
    for query_id, text in show_progress(text_queries, "bm25", unit="query"):
        rows, scores = index.search(text, depth)
        runs.append(build_run_table(np.array([query_id], object), product_ids, rows[None], scores[None]))
    return pa.concat_tables(runs)
