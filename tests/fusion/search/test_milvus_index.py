"""Milvus returns what the embedded index returns."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milvus_fixtures import CATEGORIES, NASTY, draw_catalogue, draw_queries

from catalog.schema import DataError
from fusion.search import milvus_collection
from fusion.search.filters import NO_FILTERS, Filters
from fusion.search.hybrid import Hybrid
from fusion.search.marker import MarkerError, ModelMarker, QueryEmbeddings
from fusion.search.milvus_collection import PARTIAL, ROW, IndexKind, name_collection, write_collection
from fusion.search.milvus_index import MilvusIndex
from fusion.search.query_terms import QueryTerms
from fusion.search.search_index import SearchIndex

if TYPE_CHECKING:
    from pymilvus import MilvusClient

HYBRID = Hybrid(weight=0.6, depth=20, language="en")
PLAIN = st.sampled_from([*CATEGORIES, *NASTY, "acme", "RED", "shoes/", "SHOES/boots", "", "a%b"])
FILTERS = st.builds(
    Filters,
    values=st.dictionaries(
        st.sampled_from(["category", "brand", "color", "material"]),
        st.lists(PLAIN | st.text(max_size=4), max_size=3),
        max_size=2,
    ),
    min_price=st.none() | st.floats(0, 50),
    max_price=st.none() | st.floats(50, 1e9) | st.just(float("inf")),
    available=st.booleans(),
)


@pytest.fixture(scope="module")
def index() -> SearchIndex:
    return draw_catalogue(200)


@pytest.fixture(scope="module")
def collection(index: SearchIndex, open_lite: Callable[[], "MilvusClient"]) -> str:
    name = name_collection("test", index)
    write_collection(open_lite(), index, name)
    return name


@pytest.fixture(scope="module")
def milvus(
    index: SearchIndex,
    collection: str,
    open_lite: Callable[[], "MilvusClient"],
    tmp_path_factory: pytest.TempPathFactory,
) -> MilvusIndex:
    folder = tmp_path_factory.mktemp("index") / "index"
    index.save(folder)
    HYBRID.save(folder / "hybrid.json")
    return MilvusIndex.open(open_lite(), collection, folder, folder / "hybrid.json")


def same_results(actual: list[list[dict[str, Any]]], expected: list[list[dict[str, Any]]]) -> None:
    for mine, theirs in zip(actual, expected, strict=True):
        plain = [
            {name: value for name, value in row.items() if not name.startswith("share_")} for row in theirs
        ]
        assert [row | {"score": 0} for row in mine] == [row | {"score": 0} for row in plain]
        assert [row["score"] for row in mine] == pytest.approx([row["score"] for row in plain], abs=1e-5)


@pytest.mark.parametrize("k", [10, 300])
@pytest.mark.parametrize("with_texts", [False, True])
def test_results_are_those_of_the_embedded_index(
    index: SearchIndex, milvus: MilvusIndex, k: int, with_texts: bool
) -> None:
    """With equal scores, with queries without text, and with texts that no product has."""
    queries, texts = draw_queries(index, 12)
    expected = index.serve(HYBRID).find(queries, k, texts=texts if with_texts else None)
    same_results(milvus.find(queries, k, texts=texts if with_texts else None), expected)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 10, 19, 20, 30])
@pytest.mark.parametrize("with_texts", [False, True])
def test_the_order_of_the_catalogue_decides_between_equal_scores(
    index: SearchIndex, milvus: MilvusIndex, k: int, with_texts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever products Milvus returns: here always the last ones."""
    search = milvus.client.search

    def prefer_last(name: str, limit: int, **options: Any) -> list[list[dict[str, Any]]]:
        results = search(name, limit=len(index.vectors), **options)
        order = [sorted(hits, key=lambda hit: (-hit["distance"], -hit["entity"][ROW])) for hits in results]
        return [hits[:limit] for hits in order]

    monkeypatch.setattr(milvus.client, "search", prefer_last)
    queries, texts = draw_queries(index, 12)
    expected = index.serve(HYBRID).find(queries, k, texts=texts if with_texts else None)
    same_results(milvus.find(queries, k, texts=texts if with_texts else None), expected)


@settings(max_examples=40)
@given(filters=FILTERS)
def test_filters_pass_the_same_products(index: SearchIndex, milvus: MilvusIndex, filters: Filters) -> None:
    """Whatever characters their values have."""
    queries, _ = draw_queries(index, 1)
    (passing,) = milvus.find(queries, 200, filters)
    expected = np.array(index.fields["product_id"].to_pylist(), object)[index.filter_mask(filters)]
    assert sorted(row["product_id"] for row in passing) == sorted(np.ravel(expected).tolist())


def test_the_hybrid_filters_both_rankings(index: SearchIndex, milvus: MilvusIndex) -> None:
    queries, texts = draw_queries(index, 12)
    filters = Filters({"color": ["red"]}, max_price=60)
    same_results(
        milvus.find(queries, 10, filters, texts), index.serve(HYBRID).find(queries, 10, filters, texts)
    )


@pytest.mark.parametrize("k", [3, 25])
def test_one_variant_of_each_group_is_returned(index: SearchIndex, milvus: MilvusIndex, k: int) -> None:
    """Milvus Lite's grouping search alone finds too few groups for a large k."""
    queries, texts = draw_queries(index, 12)
    served = index.serve(HYBRID)
    same_results(
        milvus.find(queries, k, texts=texts, collapse=True),
        served.find(queries, k, texts=texts, collapse=True),
    )
    for mine, theirs in zip(
        milvus.find(queries, k, collapse=True), served.find(queries, k, collapse=True), strict=True
    ):
        for row, other in zip(mine, theirs, strict=True):
            assert row["score"] == pytest.approx(other["score"], abs=1e-5)
            assert (row["group_id"] or row["product_id"]) == (other["group_id"] or other["product_id"])


def test_similar_products_are_those_of_the_embedded_index(index: SearchIndex, milvus: MilvusIndex) -> None:
    product_id = index.fields["product_id"][3].as_py()
    filters = Filters(available=True)
    same_results([milvus.find_similar(product_id, 7)], [index.find_similar(product_id, 7)])
    same_results(
        [milvus.find_similar(product_id, 7, filters, collapse=True)],
        [index.find_similar(product_id, 7, filters, collapse=True)],
    )
    with pytest.raises(ValueError, match="the index has no product 'p9'"):
        milvus.find_similar("p9", 7)


def test_queries_of_another_model_are_refused(milvus: MilvusIndex) -> None:
    queries = QueryEmbeddings(np.zeros((1, 16), np.float32), ModelMarker("x" * 32, "e" * 32))
    with pytest.raises(MarkerError, match="weights xxxxxxxx in place of wwwwwwww"):
        milvus.find(queries, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [IndexKind("IVF_FLAT", {"nlist": 8}), IndexKind("HNSW", {"M": 32})])
def test_other_kinds_of_index_give_the_same_results(
    index: SearchIndex,
    open_lite: Callable[[], "MilvusClient"],
    kind: IndexKind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(milvus_collection, "choose_index", lambda *_: kind)
    write_collection(open_lite(), index, kind.name)
    queries, _ = draw_queries(index, 12)
    filters = Filters({"color": ["blue"]})
    same_results(
        MilvusIndex(open_lite(), kind.name).find(queries, 5, filters), index.find(queries, 5, filters)
    )


@pytest.mark.slow
def test_five_thousand_products_have_the_same_results(open_lite: Callable[[], "MilvusClient"]) -> None:
    """By the model, by the hybrid and one per group, with filters and without."""
    index = draw_catalogue(5000, dim=32)
    served = index.serve(Hybrid(weight=0.4, depth=100, language="en"))
    write_collection(open_lite(), index, "large")
    terms = QueryTerms.take(index.require_lexical())
    milvus = MilvusIndex(open_lite(), "large", terms, served.hybrid)
    queries, texts = draw_queries(index, 30)
    for filters in (NO_FILTERS, Filters({"category": ["shoes"]}, 10, 60, available=True)):
        for query_texts in (None, texts):
            expected = served.find(queries, 10, filters, query_texts)
            same_results(milvus.find(queries, 10, filters, query_texts), expected)
    few, groups = QueryEmbeddings(queries.vectors[:4], queries.model), Filters(available=True)
    expected = served.find(few, 2, groups, texts[:4], collapse=True)
    same_results(milvus.find(few, 2, groups, texts[:4], collapse=True), expected)


def test_a_collection_is_written_once_and_whole(
    index: SearchIndex, open_lite: Callable[[], "MilvusClient"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed attempt left is dropped."""
    client, name = open_lite(), "whole"
    with monkeypatch.context() as patch:
        patch.setattr(milvus_collection, "_create_indexes", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_collection(client, index, name)
    assert client.has_collection(f"{name}{PARTIAL}") and not client.has_collection(name)
    write_collection(client, index, name)
    assert client.has_collection(name) and not client.has_collection(f"{name}{PARTIAL}")
    monkeypatch.setattr(client, "insert", lambda *_: 1 / 0)
    write_collection(client, index, name)  # is there already
    assert client.get_collection_stats(name)["row_count"] == 200


def test_a_collection_has_the_name_of_its_model_data_and_terms(index: SearchIndex) -> None:
    other_data, other_model = (
        index.marker._replace(data="other"),
        index.marker._replace(model=ModelMarker("x" * 32, "e" * 32)),
    )
    names = {name_collection("shop", index)}
    for marker in (other_data, other_model):
        names.add(
            name_collection("shop", SearchIndex(marker, index.fields, index.vectors, {}, index.lexical))
        )
    names.add(
        name_collection(
            "shop", SearchIndex(index.marker, index.fields, index.vectors, {}, draw_catalogue(9).lexical)
        )
    )
    assert len(names) == 4 and all(name.removeprefix("shop_").isalnum() for name in names)


def test_bm25_of_another_catalogue_is_refused(
    collection: str, open_lite: Callable[[], "MilvusClient"], tmp_path: Path
) -> None:
    """Its terms have other numbers."""
    draw_catalogue(9).save(tmp_path / "index")
    replace(HYBRID, weight=0.5).save(tmp_path / "hybrid.json")
    with pytest.raises(DataError, match="lexical is of other products than the collection"):
        MilvusIndex.open(open_lite(), collection, tmp_path / "index", tmp_path / "hybrid.json")


def test_a_missing_collection_is_named(open_lite: Callable[[], "MilvusClient"]) -> None:
    with pytest.raises(
        DataError, match="Milvus has no collection nowhere; write it: python -m serving publish"
    ):
        MilvusIndex(open_lite(), "nowhere")
