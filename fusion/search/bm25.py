"""BM25 over all text of a product: the lexical baseline."""

from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
import Stemmer

from catalog import store
from catalog.progress import show_progress
from catalog.schema import TEXT_COLUMNS, product_text
from fusion.search.catalogue_search import build_run_table
from fusion.search.vector_index import top_positions


def rank_bm25(data: Path, query_ids: np.ndarray, depth: int) -> pa.Table:
    """Rank products by BM25 over English stems (bm25s' defaults: Lucene's variant, k1 = 1.5, b = 0.75).

    Args:
        data: The data set.
        query_ids: str, shape (Q,); queries without text get no products.
        depth: Maximum number of products per query; only products that share a word with it are ranked.

    Returns:
        A run: columns query_id, product_id and score.
    """
    products = store.read_table(data, "products", ["product_id", *TEXT_COLUMNS])
    queries = store.read_table(data, "queries", ["query_id", "text"])
    texts = {row["query_id"]: row["text"] for row in queries.to_pylist() if row["text"]}
    text_query_ids = np.array([query_id for query_id in query_ids if query_id in texts], object)
    stemmer = Stemmer.Stemmer("english")

    def tokenize(texts: list[str]) -> list[list[str]]:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)

    index = bm25s.BM25()
    index.index(tokenize([product_text(row) for row in products.to_pylist()]), show_progress=False)
    product_ids = products["product_id"].to_numpy()
    query_words = tokenize([texts[query_id] for query_id in text_query_ids])
    runs = []
    pairs = zip(text_query_ids, query_words, strict=True)
    for query_id, words in show_progress(pairs, "bm25", len(query_words), unit="query"):
        if not words:  # the query has only stop words
            continue
        scores = index.get_scores(words)
        rows = top_positions(scores, min(depth, len(scores)))
        rows = rows[scores[rows] > 0]
        runs.append(
            build_run_table(np.array([query_id], object), product_ids, rows[None], scores[None, rows])
        )
    if not runs:
        return build_run_table(text_query_ids, product_ids, np.empty((0, 0), np.int64), np.empty((0, 0)))
    return pa.concat_tables(runs)
