"""The terms of BM25 as numbers, for a search engine that has the scores: a query needs nothing else of the index."""

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Self

from fusion.search.analysis import CatalogueAnalyser
from fusion.search.lexical_index import ANALYSIS_FILE, LexicalIndex

VOCABULARY_FILE = "vocab.index.json"  # of bm25s


class QueryTerms:
    """The terms of a catalogue's BM25, with the numbers that its scores have.

    Args:
        analyser: Of the catalogue.
        numbers: Term → number.
    """

    def __init__(self, analyser: CatalogueAnalyser, numbers: Mapping[str, int]) -> None:
        self.analyser, self.numbers = analyser, numbers

    @property
    def fingerprint(self) -> str:
        """A hash of the terms and their numbers."""
        content = json.dumps(sorted(self.numbers.items()))
        return blake2b(content.encode(), digest_size=8).hexdigest()

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
        numbers = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
        return cls(CatalogueAnalyser.load(folder / ANALYSIS_FILE), numbers)

    @classmethod
    def take(cls, lexical: LexicalIndex) -> Self:
        """Those of an index in memory."""
        return cls(lexical.analyser, lexical.index.vocab_dict)
