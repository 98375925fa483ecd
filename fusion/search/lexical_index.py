"""BM25 over all text of a product, as an index that can be saved with the catalogue."""

from pathlib import Path
from typing import Any, Self

import numpy as np

from catalog import store
from catalog.schema import TEXT_COLUMNS, product_text
from fusion.search.vector_index import top_positions


class LexicalIndex:
    """BM25 over English stems (bm25s' defaults: Lucene's variant, k1 = 1.5, b = 0.75).

    Args:
        index: bm25s' BM25 of all P products, in the order of the catalogue.
    """

    def __init__(self, index: Any) -> None:
        self.index = index

    @classmethod
    def build(cls, data: Path) -> Self:
        """Index the products of a data set."""
        import bm25s

        products = store.read_table(data, "products", [*TEXT_COLUMNS])
        index = bm25s.BM25()
        index.index(_tokenize([product_text(row) for row in products.to_pylist()]), show_progress=False)
        return cls(index)

    @property
    def nbytes(self) -> int:
        """Memory of the scores; the vocabulary is not counted."""
        return sum(self.index.scores[name].nbytes for name in ("data", "indices", "indptr"))

    def search(self, text: str, depth: int, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the best products for a text, best first, ties in order of row.

        Args:
            text: The query.
            depth: At most this many products; only products that share a word with the text are returned.
            mask: bool (P,), the products to search; None for all.

        Returns:
            Row numbers, int64 (n,), and scores > 0, float32 (n,).
        """
        (words,) = _tokenize([text])
        if not words:  # the query has only stop words
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores = self.index.get_scores(words)
        if mask is not None:
            scores = np.where(mask, scores, 0)
        rows = top_positions(scores, min(depth, len(scores)))
        rows = rows[scores[rows] > 0]
        return rows, scores[rows]

    def save(self, folder: Path) -> None:
        """Write arrays and JSON, without pickle."""
        self.index.save(folder, allow_pickle=False, show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        import bm25s

        return cls(bm25s.BM25.load(folder, allow_pickle=False, load_corpus=False, show_progress=False))


def _tokenize(texts: list[str]) -> list[list[str]]:
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
