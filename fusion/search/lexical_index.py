"""BM25 over all text of a product, as an index that can be saved with the catalogue."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.schema import DataError
from fusion.search.analysis import AUTO, CatalogueAnalyser
from fusion.search.catalogue_tokens import CatalogueTokens, KnownTokens, analyse_catalogue
from fusion.search.vector_index import top_positions

ANALYSIS_FILE, TOKENS_FILE = "analysis.json", "tokens.parquet"


class LexicalIndex:
    """BM25 over the tokens of `fusion.search.analysis` (bm25s' defaults: Lucene's variant, k1 = 1.5, b = 0.75).

    Args:
        index: bm25s' BM25 of all P products, in the order of the catalogue.
        analyser: Of the same products.
        tokens: Of the same products; None in an index that was loaded to search.
    """

    def __init__(
        self, index: Any, analyser: CatalogueAnalyser, tokens: CatalogueTokens | None = None
    ) -> None:
        self.index, self.analyser, self.tokens = index, analyser, tokens

    @classmethod
    def build(
        cls,
        data: Path,
        language: str = AUTO,
        ocr: Iterable[str | None] | None = None,
        known: KnownTokens | None = None,
    ) -> Self:
        """Index the products of a data set.

        Args:
            data: The data set.
            language: Of all products, ISO 639-1; "auto" to read the column `language`, and to detect it where that is
                empty.
            ocr: The text on the products' pictures, see `fusion.features.Items`, in the order of the data set. The
                language is detected without it: it is often a single name or number.
            known: Tokens of an earlier catalogue; they save time and do not change the result.
        """
        texts = None if ocr is None else pa.array(ocr, pa.string())
        tokens = analyse_catalogue(data, language, texts, known)
        return cls(_score_tokens(tokens), tokens.analyser, tokens)

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
        """Write arrays and JSON, without pickle; and the tokens of products, if there are any, for `load_tokens`."""
        self.index.save(folder, allow_pickle=False, show_progress=False)
        self.analyser.save(folder / ANALYSIS_FILE)
        if self.tokens:
            self.tokens.save(folder / TOKENS_FILE)

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


def load_tokens(folder: Path) -> CatalogueTokens:
    """The tokens of the products of a saved index.

    Args:
        folder: What `LexicalIndex.save` wrote.
    """
    lexical = LexicalIndex.load(folder)
    words: dict[str, int] = lexical.index.vocab_dict  # in the order of their numbers
    return CatalogueTokens.load(folder / TOKENS_FILE, lexical.analyser, [*words])


def _score_tokens(tokens: CatalogueTokens) -> Any:
    """Compute bm25s' scores of each product for each of its tokens, in a column of a sparse matrix for each token.

    As `BM25.index` of bm25s, which loops over the products in Python, needs the memory of their tokens as Python
    objects, and orders the vocabulary at random.
    """
    import bm25s

    index = bm25s.BM25()
    count, words = len(tokens.ids), tokens.vocabulary.to_pylist()
    lengths = pc.list_value_length(tokens.ids).to_numpy()
    ids = tokens.ids.flatten().to_numpy()
    pairs = ids * np.int64(max(1, count)) + np.repeat(np.arange(count), lengths)
    pairs, frequencies = np.unique(pairs, return_counts=True)
    columns, rows = np.divmod(pairs, max(1, count))
    product_counts = np.bincount(columns, minlength=len(words))
    idf = np.log(1 + (count - product_counts + 0.5) / (product_counts + 0.5)).astype(np.float32)
    relative_lengths = lengths / max(1, len(ids)) * count
    saturation = index.k1 * (1 - index.b + index.b * relative_lengths[rows])
    scores = (idf[columns] * (frequencies / (saturation + frequencies))).astype(np.float32)
    edges = np.concatenate([[0], np.cumsum(product_counts)])
    index.scores = {
        "data": scores, "indices": rows.astype(np.int32), "indptr": edges, "num_docs": count
    }  # fmt: skip
    index.vocab_dict = {word: number for number, word in enumerate(words)}
    index.unique_token_ids_set = set(range(len(words)))
    index.nonoccurrence_array = None
    return index
