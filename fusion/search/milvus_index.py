"""Searches a catalogue in Milvus, with the results of the embedded index."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from catalog.schema import DataError
from fusion.search.filters import NO_FILTERS, Filters
from fusion.search.hybrid import MODEL_ALONE, Hybrid, merge_rankings
from fusion.search.marker import IndexMarker, QueryEmbeddings
from fusion.search.milvus_client import translate_errors
from fusion.search.milvus_collection import (
    BM25,
    GROUP,
    INDEX_KIND,
    LARGEST_GROUP,
    MARKER,
    ROW,
    TERMS,
    VECTOR,
    IndexKind,
)
from fusion.search.milvus_filters import build_expression, quote_list
from fusion.search.query_terms import QueryTerms
from fusion.search.search_index import FIELDS, LEXICAL_FOLDER

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MAX_DEPTH = 16_384  # Milvus' limit of results per query
MAX_RESULTS = 100_000  # of one call, for all its queries
READ_CHUNK = 1000  # products read at a time
SHOWN = ("title", *FIELDS)

Rows = list[dict[str, Any]]


class Ranking(NamedTuple):
    """Products of one query, best first, ties in order of the catalogue.

    Attributes:
        ids: str (n,), product ids.
        scores: float32 (n,).
        groups: str (n,), names of their groups.
    """

    ids: np.ndarray
    scores: np.ndarray
    groups: np.ndarray

    def take(self, positions: np.ndarray | slice) -> "Ranking":
        """Some of the products."""
        return Ranking(*(values[positions] for values in self))


EMPTY = Ranking(np.empty(0, object), np.empty(0, np.float32), np.empty(0, object))


class MilvusIndex:
    """The same searches as `fusion.search.catalogue_search.SearchIndex`, in a collection of Milvus.

    Args:
        client: Of `fusion.search.milvus_client.connect`.
        collection: Its name.
        terms: Of the catalogue's BM25; None to search with the model alone.
        hybrid: How BM25's ranking is merged into the model's.
    """

    def __init__(
        self,
        client: "MilvusClient",
        collection: str,
        terms: QueryTerms | None = None,
        hybrid: Hybrid = MODEL_ALONE,
    ) -> None:
        self.client, self.collection, self.terms, self.hybrid = client, collection, terms, hybrid
        with translate_errors():
            if not client.has_collection(collection):
                raise DataError(f"Milvus has no collection {collection}; write it: python -m serving publish")
            properties = client.describe_collection(collection)["properties"]
            client.load_collection(collection)
        if MARKER not in properties:
            raise DataError(f"the collection {collection} of Milvus is not ours: it has no property {MARKER}")
        self.marker: IndexMarker = IndexMarker.parse(properties[MARKER])
        if terms and terms.fingerprint != properties[TERMS]:
            raise DataError(
                f"{LEXICAL_FOLDER} is of other products than the collection {collection} of Milvus; take the index "
                "that was written to it"
            )
        self._largest_group = int(properties[LARGEST_GROUP])
        self._kind = IndexKind(**json.loads(properties[INDEX_KIND]))

    @classmethod
    def open(cls, client: "MilvusClient", collection: str, folder: Path, hybrid: Path | None = None) -> Self:
        """Open a collection.

        Args:
            client: Of `fusion.search.milvus_client.connect`.
            collection: Its name.
            folder: Of the index that was written to it; only its lexical/ is read.
            hybrid: What `Hybrid.save` wrote; None to search with the model alone.
        """
        served = Hybrid.load(hybrid) if hybrid else MODEL_ALONE
        terms = QueryTerms.load(folder / LEXICAL_FOLDER) if served.uses_bm25 else None
        return cls(client, collection, terms, served)

    def find(
        self,
        queries: QueryEmbeddings,
        k: int,
        filters: Filters = NO_FILTERS,
        texts: Sequence[str | None] | None = None,
        collapse: bool = False,
    ) -> list[Rows]:
        """Find products, as `SearchIndex.find`, but without the shares of modalities.

        Args:
            queries: Of the model that embedded the products.
            k: At most this many products per query.
            filters: What products must be.
            texts: Of the queries, for the hybrid; None to search with the model alone.
            collapse: Return only the best variant of each group of products. Where variants have equal scores, Milvus
                chooses.

        Returns:
            Per query, best first: score, product_id, title and `FIELDS`.

        Raises:
            MarkerError: Another model embedded the queries.
            DataError: Milvus cannot be reached.
        """
        self.marker.require(queries)
        with translate_errors():
            return self._describe(self._find(queries.vectors, k, build_expression(filters), texts, collapse))

    def find_similar(
        self, product_id: str, k: int, filters: Filters = NO_FILTERS, collapse: bool = False
    ) -> Rows:
        """Find the products most similar to a product, without the product itself.

        Args:
            product_id: Of the product.
            k, filters, collapse: As for `find`.

        Raises:
            ValueError: the index has no such product.
        """
        with translate_errors():
            products = self._read([product_id], [VECTOR])
            if not products:
                raise ValueError(f"the index has no product '{product_id}'")
            vectors = np.array([products[product_id][VECTOR]], np.float32)
            (ranking,) = self._find(vectors, k + 1, build_expression(filters), None, collapse)
            return self._describe([ranking.take(ranking.ids != product_id).take(slice(k))])[0]

    def _find(
        self, vectors: np.ndarray, k: int, expression: str, texts: Sequence[str | None] | None, collapse: bool
    ) -> list[Ranking]:
        deepest = min(k * self._largest_group, MAX_DEPTH) if collapse else k
        if self.terms and texts is not None and self.hybrid.uses_bm25:
            rankings = self._rank_hybrid(
                vectors, deepest, expression, [self.terms.count(text or "") for text in texts]
            )
        elif collapse:
            rankings = self._rank_groups(vectors, k, deepest, expression)
        else:
            rankings = self._rank(VECTOR, list(vectors), k, expression)
        if collapse:
            rankings = [ranking.take(_first_of_groups(ranking.groups)) for ranking in rankings]
        return [ranking.take(slice(k)) for ranking in rankings]

    def _rank_hybrid(
        self, vectors: np.ndarray, k: int, expression: str, terms: Sequence[dict[int, float]]
    ) -> list[Ranking]:
        """Merge the rankings of vectors and of BM25 as `Hybrid.merge`.

        Which of several products of equal scores are the last of a ranking is left to Milvus at first: the lowest score
        of a ranking is scaled to 0, so they add nothing. Where that decides about the first k, the order of the
        catalogue decides in a second search.
        """
        depth = min(max(k, self.hybrid.depth), MAX_DEPTH)
        rankings: list[Ranking] = [EMPTY] * len(terms)
        pending = list(range(len(terms)))
        for settle_ties in (False, True):
            lists = self._rank(VECTOR, [vectors[query] for query in pending], depth, expression, settle_ties)
            answerable = [query for query in pending if terms[query]]
            lexical_lists = self._rank(
                BM25, [terms[query] for query in answerable], depth, expression, settle_ties
            )
            lexical = dict(zip(answerable, lexical_lists, strict=True))
            unsettled = []
            for query, ranking in zip(pending, lists, strict=True):
                other = lexical.get(query, EMPTY)
                rankings[query] = _merge(ranking, other, self.hybrid.weight) if len(other.ids) else ranking
                if not _is_settled(rankings[query], ranking, other, depth, k):
                    unsettled.append(query)
            pending = unsettled
        return rankings

    def _rank_groups(self, vectors: np.ndarray, k: int, deepest: int, expression: str) -> list[Ranking]:
        """The best product of each of k groups, by a grouping search.

        Milvus Lite reads 10 · k products for it, and may find fewer than k groups. Such queries are searched as deep as
        k groups can reach.
        """
        rankings = self._search(VECTOR, list(vectors), k, expression, group_by_field=GROUP)
        short = [query for query, ranking in enumerate(rankings) if len(ranking.ids) < k]
        deeper = self._rank(VECTOR, [vectors[query] for query in short], deepest, expression)
        for query, ranking in zip(short, deeper, strict=True):
            rankings[query] = ranking
        return rankings

    def _rank(
        self, field: str, queries: Sequence[Any], depth: int, expression: str, settle_ties: bool = True
    ) -> list[Ranking]:
        """The best `depth` products of each query.

        Where the last of them has the score of the first that is left out, Milvus chose between them. Then the search
        reaches deeper, until it has all products of that score, and the order of the catalogue decides.
        """
        rankings: list[Ranking] = [EMPTY] * len(queries)
        if not settle_ties:
            return self._search(field, queries, depth, expression)
        pending, limit = list(range(len(queries))), depth + 1
        while pending:
            limit = min(limit, MAX_DEPTH)
            results = self._search(field, [queries[query] for query in pending], limit, expression)
            cut = []
            for query, ranking in zip(pending, results, strict=True):
                rankings[query] = ranking.take(slice(depth))
                complete = len(ranking.ids) < limit or ranking.scores[-1] < ranking.scores[depth - 1]
                if not complete and limit < MAX_DEPTH:
                    cut.append(query)
            pending, limit = cut, 4 * limit
        return rankings

    def _search(
        self, field: str, queries: Sequence[Any], limit: int, expression: str, **options: str
    ) -> list[Ranking]:
        breadth = self._kind.choose_breadth(limit) if field == VECTOR else {}
        rankings: list[Ranking] = []
        size = max(1, MAX_RESULTS // limit)
        for start in range(0, len(queries), size):
            results = self.client.search(
                self.collection,
                data=queries[start : start + size],
                anns_field=field,
                limit=limit,
                filter=expression,
                output_fields=[ROW, GROUP],
                search_params={"metric_type": "IP", "params": breadth},
                **options,
            )
            rankings += map(_read_ranking, results)
        return rankings

    def _describe(self, rankings: Sequence[Ranking]) -> list[Rows]:
        """The results as dicts, with their fields."""
        ids = sorted({product_id for ranking in rankings for product_id in ranking.ids})
        products = self._read(ids, [*SHOWN])
        return [
            [
                {
                    "score": float(score),
                    **{name: products[product_id][name] for name in ("product_id", *SHOWN)},
                }
                for product_id, score in zip(ranking.ids, ranking.scores, strict=True)
            ]
            for ranking in rankings
        ]

    def _read(self, ids: Sequence[str], fields: list[str]) -> dict[str, dict[str, Any]]:
        """Read fields of products: product id → field → value."""
        products: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), READ_CHUNK):
            expression = f"product_id in {quote_list(ids[start : start + READ_CHUNK])}"
            rows = self.client.query(self.collection, filter=expression, output_fields=fields)
            products |= {row["product_id"]: row for row in rows}
        return products


def _read_ranking(hits: Any) -> Ranking:
    """The results of one query, with ties in order of the catalogue."""
    rows = np.array([hit["entity"][ROW] for hit in hits], np.int64)
    scores = np.array([hit["distance"] for hit in hits], np.float32)
    ranking = Ranking(
        np.array([hit["product_id"] for hit in hits], object),
        scores,
        np.array([hit["entity"][GROUP] for hit in hits], object),
    )
    return ranking.take(np.lexsort((rows, -scores)))


def _merge(ranking: Ranking, lexical: Ranking, weight: float) -> Ranking:
    """Merge the model's and BM25's ranking of a query, see `merge_rankings`."""
    groups = dict(zip([*ranking.ids, *lexical.ids], [*ranking.groups, *lexical.groups], strict=True))
    ids = np.array(sorted(groups), object)
    rows, scores = merge_rankings(
        np.searchsorted(ids, ranking.ids),
        ranking.scores,
        np.searchsorted(ids, lexical.ids),
        lexical.scores,
        weight,
        pa.chunked_array([pa.array(ids, pa.string())]),
    )
    return Ranking(ids[rows], scores, np.array([groups[product_id] for product_id in ids[rows]], object))


def _is_settled(merged: Ranking, ranking: Ranking, lexical: Ranking, depth: int, k: int) -> bool:
    """Whether no product that was left out of a ranking, with the score of its last, can be among the first k."""
    cut = [part for part in (ranking, lexical) if len(part.ids) == depth]
    if any(part.scores[0] == part.scores[-1] for part in cut):  # all are scaled to 1
        return False
    lowest = 0 if len(lexical.ids) else ranking.scores[-1:].max(initial=-np.inf)
    return not cut or bool(merged.scores[:k].min(initial=np.inf) > lowest)


def _first_of_groups(groups: np.ndarray) -> np.ndarray:
    """Positions of the first product of each group, in order."""
    first: dict[str, int] = {}
    for position, group in enumerate(groups):
        first.setdefault(group, position)
    return np.array(list(first.values()), np.int64)
