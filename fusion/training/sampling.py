"""What a training step sees: judged queries, pseudo-queries that the catalogue itself answers, and their products."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from catalog.schema import EXACT
from fusion.encoders.vocabulary import PAD, UNKNOWN
from fusion.entities import Entities
from fusion.facets import CATEGORY, Facets, together
from fusion.features import MODALITIES, Items, trim
from fusion.training.losses import IGNORED, UNJUDGED

TEXT = MODALITIES.index("text")
STEPS = 60  # of an epoch, at most: a large catalogue is seen over several
DRAWS = (True, True, False)  # products drawn per judged query: exact ones and others
PSEUDO_WORDS = (1, 5)
WORDS, FACETS, PICTURE = range(3)  # what a pseudo-query is made of
SHARES = (0.25, 0.6, 0.15)
RARE, SOMETIMES = 0.2, 0.5  # how often a facet is asked for; the second also where the judgements do not tell
USUALLY_VISIBLE = ("category", "color")
COMPOSED = 0.5  # share of queries for facets that show the category instead of naming it


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
        """Grades of pairs, int64, `UNJUDGED` where nobody judged; the arguments' shapes are broadcast."""
        keys = self.query * self.products + self.product
        wanted = queries * self.products + products
        at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[at] == wanted, self.grade[at], UNJUDGED)

    def shared(self, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """How often what answers a query exactly has a value in common, which tells what the queries ask for.

        Args:
            values: int (products, F), 0 where unknown.
            queries: Rows of the queries to look at, int64.

        Returns:
            For each of F the share of those queries with two exact products of known value of which all have the same;
            nan where no query has two. float of shape (F,).
        """
        exact = (self.grade == EXACT) & np.isin(self.query, queries)
        found = values[self.product[exact]]
        starts = np.flatnonzero(np.diff(self.query[exact], prepend=-1))
        if not len(starts):
            return np.full(values.shape[1], np.nan)
        known = np.add.reduceat(found > 0, starts, dtype=int) >= 2
        highest = np.maximum.reduceat(found, starts)
        lowest = np.minimum.reduceat(np.where(found > 0, found, found.max() + 1), starts)
        with np.errstate(invalid="ignore"):
            return (known & (highest == lowest)).sum(0) / known.sum(0)

    def draw(self, queries: np.ndarray, exact: bool, rng: np.random.Generator) -> np.ndarray:
        """One product per query, of grade `EXACT` or of any other grade; queries that have none are left out."""
        pool = (self.grade == EXACT) == exact
        query, product = self.query[pool], self.product[pool]
        return one_each(query, product, queries, rng)[1]


class Pairs(NamedTuple):
    """Queries and products as row numbers, sorted by query.

    Attributes:
        query: int64, shape (N,).
        product: int64, shape (N,).
    """

    query: np.ndarray
    product: np.ndarray

    @classmethod
    def none(cls) -> "Pairs":
        return cls(np.empty(0, np.int64), np.empty(0, np.int64))


class Step(NamedTuple):
    """One step's input.

    Attributes:
        queries: Judged queries and pseudo-queries.
        products: Rows of the catalogue, int64 (P,), each once.
        grades: int64 (Q, P), `UNJUDGED` where nothing is known.
        texts: Some texts' tokens, int32 (L, T).
        entities: What their words are, int64 (L, T), as `fusion.entities.Entities.label`.
    """

    queries: Items
    products: np.ndarray
    grades: np.ndarray
    texts: np.ndarray
    entities: np.ndarray


@dataclass(frozen=True)
class TrainingSet:
    """All that training may see.

    Attributes:
        products: The catalogue.
        queries: The queries of the training split.
        judged: Their judgements, as rows of the two.
        stated: What the products' columns state; None for a shop without such columns.
    """

    products: Items
    queries: Items
    judged: Judged
    stated: Facets | None = None

    @cached_property
    def facets(self) -> Facets:
        return self.stated or Facets.none(len(self.products))

    @cached_property
    def entities(self) -> Entities:
        return Entities(self.facets)

    @cached_property
    def asked(self) -> np.ndarray:
        """The chance that a query for facets names each, where stated: none for those that hardly any query with a text
        asks for; otherwise as often as they do, but not too seldom.

        float of shape (F,).
        """
        shared = self.judged.shared(self.facets.values, np.flatnonzero(self.queries.present[:, TEXT]))
        chances = np.where(shared < RARE, 0.0, np.fmax(shared, SOMETIMES))
        chances[CATEGORY] = 1.0
        return chances

    @cached_property
    def visible(self) -> np.ndarray:
        """Which facets a picture shows: those that queries by picture alone ask for. bool of shape (F,)."""
        pictured = self.queries.has_image & ~self.queries.present[:, TEXT]
        shared = self.judged.shared(self.facets.values, np.flatnonzero(pictured))
        return np.where(np.isnan(shared), np.isin(self.facets.columns, USUALLY_VISIBLE), shared > SOMETIMES)

    def tags(self, columns: Sequence[str], products: np.ndarray) -> np.ndarray:
        """What products state in some columns, counted from 0; -1 where nothing, or not on the training side.

        Args:
            columns: C names of `Facets.columns`.
            products: int64 (P,), rows.

        Returns:
            int64 of shape (P, C).
        """
        places = [self.facets.columns.index(column) for column in columns]
        found = self.facets.values[products][:, places].astype(np.int64)
        return np.where(self.products.splits[products, None] == "train", found - 1, -1)

    @cached_property
    def own(self) -> np.ndarray:
        """Rows of the products on the training side, int64."""
        return np.flatnonzero(self.products.splits == "train")

    @cached_property
    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Those of `own` that have a picture, by category: their categories' numbers, ascending, and their rows."""
        pool = self.own[self.products.has_image[self.own]]
        category = self.facets.values[pool, CATEGORY]
        order = category.argsort(kind="stable")
        return category[order], pool[order]

    def steps(self, batch_size: int) -> int:
        """Steps of one epoch: every product of `own` is the source of a pseudo-query, or as many as `STEPS` take."""
        return min(STEPS, -(-len(self.own) // (batch_size // 2)))

    def epoch(self, batch_size: int, rng: np.random.Generator, hard: Pairs) -> Iterator[Step]:
        """Half of each batch are judged queries, half pseudo-queries, everything in random order.

        Each judged query comes with a product of `hard`, if it has any there.
        """
        half = batch_size // 2
        own = rng.permutation(self.own)
        for start in range(0, self.steps(batch_size) * half, half):
            sources = own[start : start + half]
            queries = rng.choice(len(self.queries), min(half, len(self.queries)), replace=False)
            drawn = [self.judged.draw(queries, exact, rng) for exact in DRAWS]
            drawn.append(one_each(*hard, queries, rng)[1])
            rows = np.unique(np.concatenate([sources, *drawn]))
            pseudo, answers, stated = self._pseudo(sources, rows, rng)
            grades = np.concatenate([self.judged.lookup(queries[:, None], rows), answers])
            told = trim(Items.concatenate([pseudo, self.products.take(sources)]).tokens)
            entities = self.entities.label(told, np.concatenate([stated, self.facets.values[sources]]))
            yield Step(Items.concatenate([self.queries.take(queries), pseudo]), rows, grades, told, entities)

    def _pseudo(
        self, sources: np.ndarray, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[Items, np.ndarray, np.ndarray]:
        """A pseudo-query for each source, its grades of the products in `rows`, int64 (S, P), and what is stated of it,
        int32 (S, F).

        A product that answers but for what it leaves unsaid may well be right, so it is `IGNORED`.
        """
        said = self.facets.values
        kind = rng.choice(len(SHARES), len(sources), p=SHARES)
        kind[(kind == PICTURE) & ~self.products.has_image[sources]] = FACETS
        kind[said[sources, CATEGORY] == 0] = WORDS
        worded, stated, pictured = (sources[kind == i] for i in (WORDS, FACETS, PICTURE))
        asked = said[stated] * (rng.random((len(stated), said.shape[1])) < self.asked)

        by_words = pseudo_queries(self.products.take(worded), rng)
        by_facets = self._ask(stated, asked, rng)
        by_picture = self.products.take(pictured).without("text")
        exact = [self._has_words(by_words, rows), self.facets.fit(asked, rows), pictured[:, None] == rows]
        needs = np.concatenate([said[worded], asked, said[pictured] * self.visible])
        grades = np.select(
            [np.concatenate(exact), self.facets.may_fit(needs, rows)], [EXACT, IGNORED], UNJUDGED
        )
        return Items.concatenate([by_words, by_facets, by_picture]), grades, needs

    def _has_words(self, pseudo: Items, rows: np.ndarray) -> np.ndarray:
        """Which products' texts have all words of a pseudo-query, bool (Q, P); none answers one without words."""
        tokens = self.products.tokens[rows]
        has = np.zeros((len(rows), 1 + max(tokens.max(initial=0), pseudo.tokens.max(initial=0))), bool)
        has[np.arange(len(rows))[:, None], tokens] = True
        has[:, PAD] = True
        return has[:, pseudo.tokens].all(2).T & (pseudo.tokens != PAD).any(1)[:, None]

    def _ask(self, sources: np.ndarray, asked: np.ndarray, rng: np.random.Generator) -> Items:
        """Queries for facets: their names in any order, or a picture of the category and the other names."""
        shown = (rng.random(len(asked)) < COMPOSED) & ((asked > 0).sum(1) > 1)
        found, examples = one_each(*self.examples, asked[shown, CATEGORY], rng)
        shown[shown] = found

        named = asked.copy()
        named[shown, CATEGORY] = 0
        names = np.stack([names[value] for names, value in zip(self.facets.names, named.T, strict=True)], 1)
        shuffled = np.take_along_axis(names, rng.random(named.shape).argsort(1)[..., None], 1)
        pictured = sources.copy()
        pictured[shown] = examples
        return replace(
            self.products.take(pictured).without("image", ~shown),
            ids=self.products.ids[sources],
            tokens=together(np.concatenate(list(shuffled.swapaxes(0, 1)), 1)),
        )


def one_each(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random value for each wanted key that there is: which there are, and their values. Keys are sorted."""
    first, last = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
    some = last > first
    return some, values[rng.integers(first[some], last[some])]


def pseudo_queries(products: Items, rng: np.random.Generator) -> Items:
    """A few known words of each product's text, in their order: what somebody might type to find it."""
    width = products.tokens.shape[1]
    known = (products.tokens != PAD) & (products.tokens != UNKNOWN)
    wanted = np.minimum(rng.integers(*PSEUDO_WORDS, size=len(products), endpoint=True), known.sum(1))
    lottery = np.where(known, rng.random(known.shape), 2.0)
    rank = lottery.argsort(1).argsort(1)
    kept = rank < wanted[:, None]
    longest = min(PSEUDO_WORDS[1], width)
    position = np.where(kept, np.arange(width), width).argsort(1, kind="stable")[:, :longest]
    tokens = np.where(
        np.arange(longest) < wanted[:, None], np.take_along_axis(products.tokens, position, 1), PAD
    )
    return replace(products.without("image"), tokens=tokens)
