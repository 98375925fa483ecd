"""BM25 over everything written about a product: the baseline that reads."""

from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
import Stemmer

from catalog import store
from catalog.schema import TEXT_COLUMNS, product_text
from fusion.search.catalogue_search import run_table
from fusion.search.vector_index import best


def bm25(data: Path, query_ids: np.ndarray, depth: int) -> pa.Table:
    """Rank products by BM25 (bm25s' defaults: Lucene's variant, k1 = 1.5, b = 0.75) over English stems.

    Args:
        data: The data set.
        query_ids: str, shape (Q,); those without text are not answered.
        depth: Products kept per query; those that share no word with it are not among them.

    Returns:
        A run: columns query_id, product_id and score.
    """
    products = store.read(data, "products", ["product_id", *TEXT_COLUMNS])
    queries = store.read(data, "queries", ["query_id", "text"])
    texts = {row["query_id"]: row["text"] for row in queries.to_pylist() if row["text"]}
    asked = np.array([i for i in query_ids if i in texts], object)
    stem = Stemmer.Stemmer("english")

    def tokens(some: list[str]) -> list[list[str]]:
        return bm25s.tokenize(some, stopwords="en", stemmer=stem, return_ids=False, show_progress=False)

    index = bm25s.BM25()
    index.index(tokens([product_text(row) for row in products.to_pylist()]), show_progress=False)
    product_ids = products["product_id"].to_numpy()
    runs = []
    for query_id, words in zip(asked, tokens([texts[i] for i in asked]), strict=True):
        if not words:  # all of it were stop words
            continue
        scores = index.get_scores(words)
        rows = best(scores, min(depth, len(scores)))
        rows = rows[scores[rows] > 0]
        runs.append(run_table(np.array([query_id], object), product_ids, rows[None], scores[None, rows]))
    return (
        pa.concat_tables(runs)
        if runs
        else run_table(asked, product_ids, np.empty((0, 0), np.int64), np.empty((0, 0)))
    )
