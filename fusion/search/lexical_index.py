"""BM25 over all text of a product, as an index that can be saved with the catalogue."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from catalog import store
from catalog.schema import PRODUCTS, TEXT_COLUMNS, DataError, product_text
from fusion.search.analysis import AUTO, CatalogueAnalyser
from fusion.search.vector_index import top_positions

ANALYSIS_FILE = "analysis.json"


class LexicalIndex:
    """BM25 over the tokens of `fusion.search.analysis` (bm25s' defaults: Lucene's variant, k1 = 1.5, b = 0.75).

    Args:
        index: bm25s' BM25 of all P products, in the order of the catalogue.
        analyser: Of the same products.
    """

    def __init__(self, index: Any, analyser: CatalogueAnalyser) -> None:
        self.index = index
        self.analyser = analyser

    @classmethod
    def build(cls, data: Path, language: str = AUTO, ocr: Iterable[str | None] | None = None) -> Self:
        """Index the products of a data set.

        Args:
            data: The data set.
            language: Of all products, ISO 639-1; "auto" to read the column `language`, and to detect it where that is
                empty.
            ocr: The text on the products' pictures, see `fusion.features.Items`, in the order of the data set. The
                language is detected without it: it is often a single name or number.
        """
        import bm25s

        columns = [name for name in (*TEXT_COLUMNS, "language") if name in PRODUCTS.names]
        products = store.read_table(data, "products", columns).to_pylist()
        texts = [product_text(row) for row in products]
        analyser, codes = CatalogueAnalyser.fit(texts, [row.get("language") for row in products], language)
        if ocr is not None:
            texts = [product_text(row, text) for row, text in zip(products, ocr, strict=True)]
        index = bm25s.BM25()
        tokens = [analyser.index_tokens(text, code) for text, code in zip(texts, codes, strict=True)]
        index.index(tokens, show_progress=False)
        return cls(index, analyser)

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
        tokens = self.analyser.query_tokens(text)
        if not tokens:  # the query has only stop words
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores = self.index.get_scores(tokens)
        if mask is not None:
            scores = np.where(mask, scores, 0)
        rows = top_positions(scores, min(depth, len(scores)))
        rows = rows[scores[rows] > 0]
        return rows, scores[rows]

    def save(self, folder: Path) -> None:
        """Write arrays and JSON, without pickle."""
        self.index.save(folder, allow_pickle=False, show_progress=False)
        self.analyser.save(folder / ANALYSIS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: if an earlier version wrote it, which read all texts as English.
        """
        import bm25s

        if not (folder / ANALYSIS_FILE).exists():
            raise DataError(
                f"{folder}: no {ANALYSIS_FILE}, an earlier version wrote this index; evaluate again"
            )
        index = bm25s.BM25.load(folder, allow_pickle=False, load_corpus=False, show_progress=False)
        return cls(index, CatalogueAnalyser.load(folder / ANALYSIS_FILE))
