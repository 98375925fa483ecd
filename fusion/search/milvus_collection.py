"""Writes the index of a catalogue to Milvus: one collection per model and data set.

A collection is written under a temporary name and renamed at the end, so that it exists whole or not at all.
"""

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.groups import name_groups
from catalog.progress import show_progress
from fusion.search.filters import FILTERS
from fusion.search.lexical_index import LexicalIndex
from fusion.search.milvus_client import is_lite, translate_errors
from fusion.search.milvus_filters import LOWER
from fusion.search.query_terms import QueryTerms
from fusion.search.search_index import FIELDS, SearchIndex
from fusion.search.vector_index import ANN_MIN_PRODUCTS

if TYPE_CHECKING:
    from pymilvus import CollectionSchema, MilvusClient

VECTOR, BM25, ROW, GROUP = "vector", "bm25", "row", "group"  # fields beside product_id, title and `FIELDS`
MARKER, LARGEST_GROUP, INDEX_KIND = "vitrine.marker", "vitrine.largest_group", "vitrine.kind"  # properties
TERMS = "vitrine.terms"  # property: fingerprint of BM25's terms
PARTIAL = "_partial"  # suffix of the name of a collection that is not complete
MAX_TEXT = 65_535  # bytes, Milvus' limit of a VARCHAR
LISTS = 128  # inverted lists
BATCH = 1000  # products written at a time: a few MB, Milvus' limit is 64 MB


class IndexKind(NamedTuple):
    """How Milvus searches vectors.

    Attributes:
        name: Milvus' name of the kind of index.
        build: Its parameters.
    """

    name: str
    build: dict[str, int]

    def choose_breadth(self, depth: int) -> dict[str, int]:
        """The parameters of a search: how much of the index it reads.

        Args:
            depth: Number of results.
        """
        breadths = {"IVF_FLAT": {"nprobe": LISTS}, "HNSW": {"ef": max(256, 2 * depth)}}
        return breadths.get(self.name, {})


def choose_index(lite: bool, count: int) -> IndexKind:
    """Choose the kind of index: a graph in a cluster, exact search in Milvus Lite.

    Milvus Lite copies all vectors for each search with `FLAT`. Inverted lists of which all are read are exact as well,
    and faster with many products; a graph is not exact, the less so with filters.

    Args:
        lite: Whether Milvus is Milvus Lite.
        count: Number of products.
    """
    if not lite:
        return IndexKind("HNSW", {"M": 32, "efConstruction": 256})
    return IndexKind("IVF_FLAT", {"nlist": LISTS}) if count > ANN_MIN_PRODUCTS else IndexKind("FLAT", {})


def name_collection(alias: str, index: SearchIndex) -> str:
    """The collection of an index: the same model and data have the same name.

    Args:
        alias: Of `fusion.search.milvus_client.name_alias`.
        index: With BM25; its terms are a part of the data.
    """
    content = json.dumps([index.marker.describe(), fingerprint_terms(index)])
    return f"{alias}_{blake2b(content.encode(), digest_size=8).hexdigest()}"


def fingerprint_terms(index: SearchIndex) -> str:
    """The fingerprint of BM25's terms, whose numbers a query must use."""
    return QueryTerms.take(index.require_lexical()).fingerprint


def write_collection(client: "MilvusClient", index: SearchIndex, name: str) -> None:
    """Write an index to a collection; nothing is done if the collection exists, as its name says what is in it.

    What a killed attempt left is dropped.

    Args:
        client: Of `fusion.search.milvus_client.connect`.
        index: With BM25.
        name: Of `name_collection`.

    Raises:
        DataError: Milvus cannot be reached, or refuses the products.
    """
    with translate_errors():
        if client.has_collection(name):
            return
        partial = f"{name}{PARTIAL}"
        client.drop_collection(partial)
        count = len(index.vectors)
        lite = is_lite(client)
        kind = choose_index(lite, count)
        properties = {
            MARKER: json.dumps(index.marker.describe()),
            TERMS: fingerprint_terms(index),
            LARGEST_GROUP: str(int(np.bincount(index.groups).max(initial=1))),
            INDEX_KIND: json.dumps(kind._asdict()),
        }
        schema = _create_schema(client, index)
        client.create_collection(partial, schema=schema, properties=properties)
        batches = range(0, count, BATCH)
        columns = _collect_columns(index)
        for start in show_progress(batches, "write to Milvus", unit="batch"):
            client.insert(partial, list(_build_rows(columns, start, min(start + BATCH, count))))
        client.flush(partial)
        _create_indexes(client, partial, kind, lite)
        client.rename_collection(partial, name)


def _create_schema(client: "MilvusClient", index: SearchIndex) -> "CollectionSchema":
    from pymilvus import DataType

    kinds = {pa.string(): DataType.VARCHAR, pa.float64(): DataType.DOUBLE, pa.bool_(): DataType.BOOL}
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("product_id", DataType.VARCHAR, max_length=MAX_TEXT, is_primary=True)
    schema.add_field("title", DataType.VARCHAR, max_length=MAX_TEXT)
    for name in FIELDS:
        kind = kinds[index.fields.schema.field(name).type]
        length = {"max_length": MAX_TEXT} if kind == DataType.VARCHAR else {}
        schema.add_field(name, kind, nullable=True, **length)
    for name in [GROUP, *(f"{field}{LOWER}" for field in FILTERS)]:
        schema.add_field(name, DataType.VARCHAR, max_length=MAX_TEXT)
    schema.add_field(ROW, DataType.INT64)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=index.vectors.shape[1])
    schema.add_field(BM25, DataType.SPARSE_FLOAT_VECTOR)
    return schema


def _create_indexes(client: "MilvusClient", collection: str, kind: IndexKind, lite: bool) -> None:
    indexes = client.prepare_index_params()
    # Both levels of `params`: pymilvus removes the first, and Milvus Lite ignores parameters without the second.
    indexes.add_index(VECTOR, index_type=kind.name, metric_type="IP", params={"params": kind.build})
    indexes.add_index(BM25, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_index(collection, indexes, sync=not lite)  # Milvus Lite builds it before it answers


class Columns(NamedTuple):
    """What is written, in the order of the products.

    Attributes:
        table: All fields but the vectors.
        vectors: float32 (P, dim).
        terms: BM25's scores.
    """

    table: pa.Table
    vectors: np.ndarray
    terms: "TermScores"


def _collect_columns(index: SearchIndex) -> Columns:
    fields = index.fields
    table = fields.append_column(GROUP, name_groups(fields["product_id"], fields["group_id"]))
    for field in FILTERS:
        table = table.append_column(f"{field}{LOWER}", pc.fill_null(pc.utf8_lower(fields[field]), ""))
    table = table.append_column(ROW, pa.array(np.arange(len(table))))
    return Columns(table, index.vectors, TermScores(index.require_lexical()))


def _build_rows(columns: Columns, start: int, end: int) -> Iterator[dict[str, Any]]:
    rows = columns.table.slice(start, end - start).to_pylist()
    for number, row in enumerate(rows, start=start):
        yield {**row, VECTOR: columns.vectors[number], BM25: columns.terms.read(number)}


class TermScores:
    """BM25's scores by product: with the number of times that a query has each term, their inner product is BM25.

    bm25s has them by term.

    Args:
        lexical: BM25 over all products.
    """

    def __init__(self, lexical: LexicalIndex) -> None:
        scores = lexical.index.scores
        sizes = np.diff(scores["indptr"])
        order = np.argsort(scores["indices"], kind="stable")
        self._terms = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._scores = scores["data"][order]
        self._starts = np.searchsorted(scores["indices"][order], np.arange(scores["num_docs"] + 1))
        self._unused_term = len(lexical.index.vocab_dict)

    def read(self, product: int) -> dict[int, float]:
        """The scores of a product: term → score > 0.

        A product without text has a score for a term that no query has: Milvus Lite allows no empty vector.
        """
        part = slice(self._starts[product], self._starts[product + 1])
        pairs = zip(self._terms[part].tolist(), self._scores[part].tolist(), strict=True)
        return {term: score for term, score in pairs if score > 0} or {self._unused_term: 1.0}
