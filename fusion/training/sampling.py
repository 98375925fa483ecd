"""The batches of training: judged queries, pseudo-queries made from the catalogue, and their products."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from catalog.schema import EXACT
from fusion.encoders.vocabulary import NO_TOKENS, PAD, UNKNOWN, word_starts
from fusion.entities import Entities
from fusion.facets import CATEGORY, Facets, move_padding_last
from fusion.features import MODALITIES, Items, trim
from fusion.training.distillation import Teacher
from fusion.training.losses import IGNORED, UNJUDGED

TEXT = MODALITIES.index("text")
MAX_STEPS = 60  # of an epoch; a large catalogue needs several epochs
EXACT_DRAWS = (True, True, False)  # for each product drawn per judged query, whether it is exact
QUERY_WORDS = (1, 5)  # fewest and most words of a pseudo-query
WORDS, FACETS, PICTURE = range(3)  # kinds of pseudo-queries
KIND_SHARES = (0.25, 0.6, 0.15)
RARE_FACET = 0.2  # share of judged queries; a facet that fewer of them ask for gets no pseudo-queries
USUAL_FACET = 0.5  # lowest chance of a facet that is not rare; its chance if the judgements are inconclusive
USUALLY_VISIBLE = ("category", "color")
COMPOSED_SHARE = 0.5  # of the facet queries: they show the category in a picture instead of naming it


@dataclass(frozen=True)
class JudgementIndex:
    """Judgements as row numbers, sorted by query, then product.

    Attributes:
        query: int64, shape (J,).
        product: int64, shape (J,).
        grade: int64, shape (J,).
        product_count: Number of products in the catalogue.
    """

    query: np.ndarray
    product: np.ndarray
    grade: np.ndarray
    product_count: int

    @classmethod
    def build(
        cls, query: np.ndarray, product: np.ndarray, grade: np.ndarray, product_count: int
    ) -> "JudgementIndex":
        """From rows in any order."""
        order = np.lexsort((product, query))
        return cls(query[order], product[order], grade[order].astype(np.int64), product_count)

    def lookup(self, queries: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Grades of pairs, int64, `UNJUDGED` without a judgement; the arguments' shapes are broadcast."""
        index_keys = self.query * self.product_count + self.product
        pair_keys = queries * self.product_count + products
        position = np.searchsorted(index_keys, pair_keys).clip(max=len(index_keys) - 1)
        return np.where(index_keys[position] == pair_keys, self.grade[position], UNJUDGED)

    def facet_agreement(self, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """For each facet, how often all exact products of a query agree in its value: a sign that queries ask for it.

        Args:
            values: int (products, F), 0 where unknown.
            queries: Rows of the queries to consider, int64.

        Returns:
            For each of F facets, the share of queries whose exact products all have the same value, among the queries
            with at least two exact products of known value; nan without such queries. float of shape (F,).
        """
        exact = (self.grade == EXACT) & np.isin(self.query, queries)
        exact_values = values[self.product[exact]]
        starts = np.flatnonzero(np.diff(self.query[exact], prepend=-1))
        if not len(starts):
            return np.full(values.shape[1], np.nan)
        conclusive = np.add.reduceat(exact_values > 0, starts, dtype=int) >= 2
        highest = np.maximum.reduceat(exact_values, starts)
        known_values = np.where(exact_values > 0, exact_values, exact_values.max() + 1)
        lowest = np.minimum.reduceat(known_values, starts)
        with np.errstate(invalid="ignore"):
            return (conclusive & (highest == lowest)).sum(0) / conclusive.sum(0)

    def draw_products(self, queries: np.ndarray, exact: bool, rng: np.random.Generator) -> np.ndarray:
        """One product per query, of grade `EXACT` or of any other grade; skips queries without one."""
        pool = (self.grade == EXACT) == exact
        query, product = self.query[pool], self.product[pool]
        return draw_one_each(query, product, queries, rng)[1]


class Pairs(NamedTuple):
    """Queries and products as row numbers, sorted by query.

    Attributes:
        query: int64, shape (N,).
        product: int64, shape (N,).
    """

    query: np.ndarray
    product: np.ndarray

    @classmethod
    def empty(cls) -> "Pairs":
        return cls(np.empty(0, np.int64), np.empty(0, np.int64))


class Step(NamedTuple):
    """The input of one step.

    Attributes:
        queries: Judged queries and pseudo-queries.
        products: Rows of the catalogue, int64 (P,), each once.
        grades: int64 (Q, P), `UNJUDGED` where unknown.
        texts: Tokens of the texts for the entity loss, int32 (L, T).
        entities: The labels of their words, int64 (L, T), from `fusion.entities.Entities.label`.
        judged: Rows of the judged queries, which come first in `queries`, int64.
    """

    queries: Items
    products: np.ndarray
    grades: np.ndarray
    texts: np.ndarray
    entities: np.ndarray
    judged: np.ndarray


class PseudoQueries(NamedTuple):
    """Queries made from S products of the catalogue.

    Attributes:
        items: The queries.
        grades: Of the products of a step, int64 (S, P).
        facets: The facet values that each query states, int32 (S, F).
    """

    items: Items
    grades: np.ndarray
    facets: np.ndarray


@dataclass(frozen=True)
class TrainingSet:
    """All data that training may use.

    Attributes:
        products: The catalogue.
        queries: The queries of the training split.
        judgements: Their judgements, as rows of queries and products.
        catalogue_facets: The values of the products' columns; None for a catalogue without such columns.
        continuations: As `fusion.encoders.vocabulary.Vocabulary.continuations`.
        teacher: Vectors of the same products and queries to imitate; None without a teacher.
    """

    products: Items
    queries: Items
    judgements: JudgementIndex
    catalogue_facets: Facets | None = None
    continuations: np.ndarray = field(default_factory=NO_TOKENS.copy)
    teacher: Teacher | None = None

    @cached_property
    def facets(self) -> Facets:
        return self.catalogue_facets or Facets.empty(len(self.products))

    @cached_property
    def entities(self) -> Entities:
        return Entities(self.facets, self.continuations)

    @cached_property
    def facet_chances(self) -> np.ndarray:
        """The chance that a facet query names each facet of its product, estimated from queries with text.

        Facets that few queries ask for have chance 0; other facets have at least `USUAL_FACET`. float of shape (F,).
        """
        with_text = np.flatnonzero(self.queries.present[:, TEXT])
        agreement = self.judgements.facet_agreement(self.facets.values, with_text)
        chances = np.where(agreement < RARE_FACET, 0.0, np.fmax(agreement, USUAL_FACET))
        chances[CATEGORY] = 1.0
        return chances

    @cached_property
    def visible_facets(self) -> np.ndarray:
        """Which facets a picture shows, estimated from queries that are only a picture. bool of shape (F,)."""
        only_picture = np.flatnonzero(self.queries.has_image & ~self.queries.present[:, TEXT])
        agreement = self.judgements.facet_agreement(self.facets.values, only_picture)
        usually_visible = np.isin(self.facets.columns, USUALLY_VISIBLE)
        return np.where(np.isnan(agreement), usually_visible, agreement > USUAL_FACET)

    def tags(self, columns: Sequence[str], products: np.ndarray) -> np.ndarray:
        """The values of products in some columns, counted from 0; -1 for no value or a split other than "train".

        Args:
            columns: C names of `Facets.columns`.
            products: int64 (P,), rows.

        Returns:
            int64 of shape (P, C).
        """
        numbers = [self.facets.columns.index(column) for column in columns]
        values = self.facets.values[products][:, numbers].astype(np.int64)
        return np.where(self.products.splits[products, None] == "train", values - 1, -1)

    def take_teacher(self, step: Step) -> Teacher | None:
        """The teacher's vectors of a step; pseudo-queries have none."""
        return self.teacher and self.teacher.take(step.products, step.judged, len(step.queries))

    @cached_property
    def training_rows(self) -> np.ndarray:
        """Rows of the products with the split "train", int64."""
        return np.flatnonzero(self.products.splits == "train")

    @cached_property
    def pictured_by_category(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of categories, ascending, and the rows of training products with a picture, one for each."""
        rows = self.training_rows[self.products.has_image[self.training_rows]]
        category = self.facets.values[rows, CATEGORY]
        order = category.argsort(kind="stable")
        return category[order], rows[order]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Every training product is the source of one pseudo-query, up to `MAX_STEPS` steps."""
        return min(MAX_STEPS, -(-len(self.training_rows) // (batch_size // 2)))

    def draw_epoch(self, batch_size: int, rng: np.random.Generator, hard_negatives: Pairs) -> Iterator[Step]:
        """The steps of an epoch. Half of each batch are judged queries, half pseudo-queries, in random order.

        Each judged query comes with one of its hard negatives, if it has any.
        """
        half = batch_size // 2
        rows = rng.permutation(self.training_rows)
        for start in range(0, self.steps_per_epoch(batch_size) * half, half):
            yield self._draw_step(rows[start : start + half], half, hard_negatives, rng)

    def _draw_step(
        self, sources: np.ndarray, query_count: int, hard_negatives: Pairs, rng: np.random.Generator
    ) -> Step:
        """A step of the pseudo-queries of `sources`, rows of products, and up to `query_count` judged queries."""
        queries = rng.choice(len(self.queries), min(query_count, len(self.queries)), replace=False)
        drawn = [self.judgements.draw_products(queries, exact, rng) for exact in EXACT_DRAWS]
        drawn.append(draw_one_each(*hard_negatives, queries, rng)[1])
        products = np.unique(np.concatenate([sources, *drawn]))
        pseudo = self._draw_pseudo_queries(sources, products, rng)
        judged_grades = self.judgements.lookup(queries[:, None], products)
        texts = trim(Items.concatenate([pseudo.items, self.products.take(sources)]).tokens)
        text_facets = np.concatenate([pseudo.facets, self.facets.values[sources]])
        return Step(
            queries=Items.concatenate([self.queries.take(queries), pseudo.items]),
            products=products,
            grades=np.concatenate([judged_grades, pseudo.grades]),
            texts=texts,
            entities=self.entities.label(texts, text_facets),
            judged=queries,
        )

    def _draw_pseudo_queries(
        self, sources: np.ndarray, products: np.ndarray, rng: np.random.Generator
    ) -> PseudoQueries:
        """A pseudo-query for each of S sources, with its grades of the P products.

        A product with missing values but no contradicting one may be relevant, so it is `IGNORED`.
        """
        values = self.facets.values
        by_words, by_facets, by_picture = self._split_sources(sources, rng)
        facet_chosen = rng.random((len(by_facets), values.shape[1])) < self.facet_chances
        query_facets = values[by_facets] * facet_chosen

        word_queries = draw_word_queries(self.products.take(by_words), self.continuations, rng)
        facet_queries = self._draw_facet_queries(by_facets, query_facets, rng)
        picture_queries = self.products.take(by_picture).without("text").without_galleries()
        exact = [
            self._has_all_words(word_queries, products),
            self.facets.matches(query_facets, products),
            by_picture[:, None] == products,
        ]
        facets = np.concatenate([values[by_words], query_facets, values[by_picture] * self.visible_facets])
        may_match = self.facets.may_match(facets, products)
        grades = np.select([np.concatenate(exact), may_match], [EXACT, IGNORED], UNJUDGED)
        items = Items.concatenate([word_queries, facet_queries, picture_queries])
        items = items.without("joint")  # theirs would be of the whole product
        return PseudoQueries(items, grades, facets)

    def _split_sources(self, sources: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The sources of the word queries, the facet queries and the picture queries, drawn at random."""
        kind = rng.choice(len(KIND_SHARES), len(sources), p=KIND_SHARES)
        kind[(kind == PICTURE) & ~self.products.has_image[sources]] = FACETS
        kind[self.facets.values[sources, CATEGORY] == 0] = WORDS
        return (sources[kind == number] for number in (WORDS, FACETS, PICTURE))

    def _has_all_words(self, queries: Items, products: np.ndarray) -> np.ndarray:
        """Which products' texts contain all words of a query, bool (Q, P); none for a query without words."""
        tokens = self.products.tokens[products]
        vocabulary = 1 + max(tokens.max(initial=0), queries.tokens.max(initial=0))
        has_word = np.zeros((len(products), vocabulary), bool)
        has_word[np.arange(len(products))[:, None], tokens] = True
        has_word[:, PAD] = True
        return has_word[:, queries.tokens].all(2).T & (queries.tokens != PAD).any(1)[:, None]

    def _draw_facet_queries(
        self, sources: np.ndarray, query_facets: np.ndarray, rng: np.random.Generator
    ) -> Items:
        """Queries for facets: their names in random order, or a picture of the category and the other names."""
        composed = (rng.random(len(query_facets)) < COMPOSED_SHARE) & ((query_facets > 0).sum(1) > 1)
        categories = query_facets[composed, CATEGORY]
        available, examples = draw_one_each(*self.pictured_by_category, categories, rng)
        composed[composed] = available

        named = query_facets.copy()
        named[composed, CATEGORY] = 0
        names = np.stack([names[value] for names, value in zip(self.facets.names, named.T, strict=True)], 1)
        shuffled = np.take_along_axis(names, rng.random(named.shape).argsort(1)[..., None], 1)
        pictured = sources.copy()
        pictured[composed] = examples
        return replace(
            self.products.take(pictured).without("image", ~composed).without_galleries(),
            ids=self.products.ids[sources],
            tokens=move_padding_last(np.concatenate(list(shuffled.swapaxes(0, 1)), 1)),
        )


def draw_one_each(
    keys: np.ndarray, values: np.ndarray, wanted_keys: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random value for each wanted key.

    Args:
        keys: Sorted, shape (N,).
        values: Of each key, shape (N,).
        wanted_keys: Shape (K,).
        rng: Draws the values.

    Returns:
        Which wanted keys exist, bool (K,), and a value for each of these.
    """
    first, last = np.searchsorted(keys, wanted_keys), np.searchsorted(keys, wanted_keys, side="right")
    exists = last > first
    return exists, values[rng.integers(first[exists], last[exists])]


def draw_word_queries(products: Items, continuations: np.ndarray, rng: np.random.Generator) -> Items:
    """Pseudo-queries of a few known words of each product's text, with all their pieces, in the text's order."""
    tokens = products.tokens
    known = (tokens != PAD) & (tokens != UNKNOWN)
    starts = known & word_starts(tokens, continuations)
    word_counts = np.minimum(rng.integers(*QUERY_WORDS, size=len(products), endpoint=True), starts.sum(1))
    lottery = np.where(starts, rng.random(starts.shape), 2.0)
    rank = lottery.argsort(1).argsort(1)
    has_start = rank < word_counts[:, None]
    # a piece is selected with the last start at or before it
    latest_start = np.maximum.accumulate(np.where(starts, np.arange(tokens.shape[1]), 0), axis=1)
    selected = known & np.take_along_axis(has_start, latest_start, 1)
    return replace(products.without("image"), tokens=move_padding_last(np.where(selected, tokens, PAD)))
