"""The terms of BM25 as numbers, for a search engine that has the scores: a query needs nothing else of the index."""

import json
from collections import Counter
from collections.abc import Collection
from hashlib import blake2b
from pathlib import Path
from typing import Self

from fusion.search.analysis import CatalogueAnalyser
from fusion.search.lexical_index import ANALYSIS_FILE

VOCABULARY_FILE = "vocab.index.json"  # of bm25s


class QueryTerms:
    """Numbers the terms of a catalogue in alphabetical order: bm25s numbers them in another order each time.

    Args:
        analyser: Of the catalogue.
        vocabulary: The terms of the catalogue.
    """

    def __init__(self, analyser: CatalogueAnalyser, vocabulary: Collection[str]) -> None:
        self.analyser = analyser
        self.numbers = {term: number for number, term in enumerate(sorted(vocabulary))}

    @property
    def fingerprint(self) -> str:
        """A hash of the terms: the same terms have the same numbers."""
        return blake2b("\n".join(self.numbers).encode(), digest_size=8).hexdigest()

    def count(self, text: str) -> dict[int, float]:
        """How often a query has each term of the catalogue: term → count; empty where it has none.

        Args:
            text: Of the query.
        """
        counts = Counter(self.analyser.query_tokens(text))
        return {self.numbers[term]: float(count) for term, count in counts.items() if term in self.numbers}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `LexicalIndex.save` wrote, without the scores."""
        vocabulary = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
        return cls(CatalogueAnalyser.load(folder / ANALYSIS_FILE), vocabulary)
