"""What a training step sees: judged queries, pseudo-queries made of product texts, and their products."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from catalog.schema import EXACT
from fusion.features import Items
from fusion.losses import UNJUDGED
from fusion.text import PAD, UNKNOWN

PSEUDO_WORDS = (1, 5)


@dataclass(frozen=True)
class Judged:
    """Judgements as row numbers, sorted by query, then product.

    Attributes:
        query: int64, shape (J,).
        product: int64, shape (J,).
        grade: int64, shape (J,).
        products: Number of products in the catalogue.
    """

    query: np.ndarray
    product: np.ndarray
    grade: np.ndarray
    products: int

    @classmethod
    def build(cls, query: np.ndarray, product: np.ndarray, grade: np.ndarray, products: int) -> "Judged":
        """From rows in any order."""
        order = np.lexsort((product, query))
        return cls(query[order], product[order], grade[order].astype(np.int64), products)

    def lookup(self, queries: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Grades of all pairs, int64 of shape (Q, P), `UNJUDGED` where nobody judged."""
        keys = self.query * self.products + self.product
        wanted = queries[:, None] * self.products + products
        at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[at] == wanted, self.grade[at], UNJUDGED)

    def draw(self, queries: np.ndarray, exact: bool, rng: np.random.Generator) -> np.ndarray:
        """One product per query, of grade `EXACT` or of any other grade; queries that have none are left out."""
        pool = (self.grade == EXACT) == exact
        query, product = self.query[pool], self.product[pool]
        first, last = np.searchsorted(query, queries), np.searchsorted(query, queries, side="right")
        some = last > first
        return product[rng.integers(first[some], last[some])]


class Step(NamedTuple):
    """One step's input.

    Attributes:
        queries: Judged queries and pseudo-queries.
        products: Rows of the catalogue, int64 (P,), each once.
        grades: int64 (Q, P), `UNJUDGED` where nothing is known.
    """

    queries: Items
    products: np.ndarray
    grades: np.ndarray


@dataclass(frozen=True)
class TrainingSet:
    """All that training may see.

    Attributes:
        products: The catalogue.
        queries: The queries of the training split.
        judged: Their judgements, as rows of the two.
    """

    products: Items
    queries: Items
    judged: Judged

    def steps(self, batch_size: int) -> int:
        """Steps of one epoch: every product on the training side once as a pseudo-query."""
        return -(-int((self.products.splits == "train").sum()) // (batch_size // 2))

    def epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Step]:
        """Half of each batch are judged queries, half pseudo-queries, everything in random order."""
        half = batch_size // 2
        own = rng.permutation(np.flatnonzero(self.products.splits == "train"))
        for start in range(0, len(own), half):
            sources = own[start : start + half]
            queries = rng.choice(len(self.queries), min(half, len(self.queries)), replace=False)
            pseudo = pseudo_queries(self.products.take(sources), rng)
            drawn = [sources, self.judged.draw(queries, True, rng), self.judged.draw(queries, False, rng)]
            rows = np.unique(np.concatenate(drawn))
            grades = np.concatenate([self.judged.lookup(queries, rows), self._stated(pseudo, rows)])
            yield Step(Items.concatenate([self.queries.take(queries), pseudo]), rows, grades)

    def _stated(self, pseudo: Items, rows: np.ndarray) -> np.ndarray:
        """A pseudo-query is answered exactly by every product whose text has all its words."""
        tokens = self.products.tokens[rows]
        has = np.zeros((len(rows), max(int(tokens.max()), int(pseudo.tokens.max())) + 1), bool)
        has[np.arange(len(rows))[:, None], tokens] = True
        has[:, PAD] = True
        return np.where(has[:, pseudo.tokens].all(2).T, EXACT, UNJUDGED)


def pseudo_queries(products: Items, rng: np.random.Generator) -> Items:
    """A few known words of each product's text, in their order: what somebody might type to find it."""
    width = products.tokens.shape[1]
    known = (products.tokens != PAD) & (products.tokens != UNKNOWN)
    wanted = np.minimum(rng.integers(*PSEUDO_WORDS, size=len(products), endpoint=True), known.sum(1))
    lottery = np.where(known, rng.random(known.shape), 2.0)
    rank = lottery.argsort(1).argsort(1)
    kept = rank < wanted[:, None]
    longest = PSEUDO_WORDS[1]
    position = np.where(kept, np.arange(width), width).argsort(1, kind="stable")[:, :longest]
    tokens = np.where(
        np.arange(longest) < wanted[:, None], np.take_along_axis(products.tokens, position, 1), PAD
    )
    return Items(
        products.ids, products.splits, products.segments, tokens,
        np.zeros_like(products.images), np.zeros_like(products.has_image),
    )  # fmt: skip
