import base64
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models.utils import _enforce_params_schema
from mlflow.types.schema import ParamSchema, ParamSpec

from catalog.schema import DataError
from fusion.model import embed
from fusion.search.hybrid import MODEL_ALONE, Hybrid
from fusion.search.lexical_index import LexicalIndex
from fusion.search.marker import IndexMarker, MarkerError, ModelMarker
from fusion.search.search_index import FIELDS, SearchIndex
from serving import pyfunc
from serving.pyfunc import MAX_K, PARAMETERS, ProductSearch, UnknownParameterFilter


@pytest.fixture(scope="module")
def served(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> ProductSearch:
    """The registered model as MLflow loads it, over 12 products."""
    path = tmp_path_factory.mktemp("served") / "index"
    rng = np.random.default_rng(0)
    fields = pa.table(
        {
            "product_id": [f"p{n}" for n in range(12)],
            "title": [f"Product {n}" for n in range(12)],
            "category": ["Shoes/Boots", "shoes", "shoeshine", None] * 3,
            "brand": ["Acme", None, "Zeta"] * 4,
            "color": ["red"] * 6 + ["blue"] * 6,
            "material": pa.nulls(12, pa.string()),
            "price": pa.array([*range(11), None], pa.float64()),
            "max_price": pa.nulls(12, pa.float64()),
            "currency": ["EUR"] * 12,
            "group_id": ["a"] * 5 + [None] * 4 + ["b"] * 3,
            "available": [True, None, False] * 4,
        }
    )
    vectors = rng.normal(size=(12, 32)).astype(np.float32)
    vectors_without = {name: rng.normal(size=(12, 32)).astype(np.float16) for name in ("text", "image")}
    vectors_without["image"][3] = vectors_without["text"][3] = (
        100 * vectors[3]
    )  # no loss without either modality
    SearchIndex(IndexMarker(ModelMarker.read(saved), "data", 32), fields, vectors, vectors_without).save(path)
    MODEL_ALONE.save(path.with_name("hybrid.json"))
    served = ProductSearch()
    artifacts = {"model": str(saved), "index": str(path), "hybrid": str(path.with_name("hybrid.json"))}
    served.load_context(SimpleNamespace(artifacts=artifacts))
    return served


def test_a_server_limits_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it loads the model: MLflow, not a command of ours, starts it."""

    def stop() -> None:
        raise InterruptedError

    monkeypatch.setattr(pyfunc, "limit_threads", stop)
    with pytest.raises(InterruptedError):
        ProductSearch().load_context(SimpleNamespace(artifacts={}))


def search(served: ProductSearch, *rows: dict[str, Any], **params: Any) -> pd.DataFrame:
    return served.predict(None, pd.DataFrame(list(rows)), params or None)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_results_are_the_models(served: ProductSearch, png: Callable[..., bytes]) -> None:
    photo = png(3)
    results = search(
        served, {"text": "red shirt"}, {"image": b64(photo)}, {"text": "navy", "image": b64(photo)}, k=4
    )
    assert results["query"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert results["rank"].tolist() == [1, 2, 3, 4] * 3
    pictures = [None, photo, photo]
    rows = [
        {"query_id": "", "text": text, "split": "", "segment": "", "image": p and {"bytes": p, "path": None}}
        for text, p in zip(["red shirt", None, "navy"], pictures, strict=True)
    ]
    queries, _ = served.featurizer.featurize_rows("queries", rows)
    scores = embed(served.model, queries, "query") @ served.index.vectors.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    assert results["product_id"].tolist() == [f"p{n}" for n in order.ravel()]
    assert results["title"].tolist() == [f"Product {n}" for n in order.ravel()]
    np.testing.assert_allclose(results["score"], np.take_along_axis(scores, order, 1).ravel(), atol=1e-5)


def test_text_picture_and_both_are_three_queries(served: ProductSearch, png: Callable[..., bytes]) -> None:
    text, image = {"text": "red"}, {"image": b64(png(3))}
    scores = search(served, text, image, text | image, k=12).groupby("query")["score"].apply(list)
    assert len(set(map(tuple, scores))) == 3


@pytest.mark.parametrize(("k", "expected"), [(1, 1), (12, 12), (500, 12)])
def test_k(served: ProductSearch, k: int, expected: int) -> None:
    assert len(search(served, {"text": "red"}, k=k)) == expected


def test_k_is_ten_by_default(served: ProductSearch) -> None:
    assert len(search(served, {"text": "red"})) == 10


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1, 10**9, "many", 2.5, True, [3]])
def test_impossible_k(served: ProductSearch, k: Any) -> None:
    with pytest.raises(
        MlflowException, match=r"`k`, products per query, .* from 1 to 1,000, got " + re.escape(repr(k))
    ):
        search(served, {"text": "red"}, k=k)


def test_k_is_ten_where_it_is_null(served: ProductSearch) -> None:
    assert len(search(served, {"text": "red"}, k=None)) == 10


@pytest.mark.parametrize("missing", [None, float("nan"), "", pd.NA])
def test_nulls_of_a_data_frame_are_missing_values(
    served: ProductSearch, png: Callable[..., bytes], missing: Any
) -> None:
    image = b64(png(3))
    plain = search(served, {"image": image})
    assert search(served, {"text": missing, "image": image}).equals(plain)
    text = search(served, {"text": "red", "image": missing})
    assert text.equals(search(served, {"text": "red"}))


@pytest.mark.parametrize("row", [{}, {"text": None}, {"text": "", "image": ""}, {"text": " \n"}])
def test_a_query_without_text_and_picture(served: ProductSearch, row: dict[str, Any]) -> None:
    with pytest.raises(MlflowException, match="query 1: give `text`"):
        search(served, {"text": "red"}, row)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("no base64!", "not base64"),
        ("abc", "not base64"),
        ("é" * 8, "not base64"),
        (b64(b"not a picture"), "not a JPEG"),
        (b64(b"\x89PNG\r\n\x1a\n"), "picture"),
    ],
)
def test_bad_picture(served: ProductSearch, image: str, reason: str) -> None:
    with pytest.raises(MlflowException, match=rf"query 1: .*{reason}"):
        search(served, {"text": "red"}, {"text": "red", "image": image})


@pytest.mark.parametrize("other", [{"query": "red"}, {"text": "red", "query": "red"}])
def test_an_unknown_column_is_named_with_its_row(served: ProductSearch, other: dict[str, Any]) -> None:
    with pytest.raises(
        MlflowException, match="query 1: unknown column `query`; the columns are text, image"
    ) as raised:
        search(served, {"text": "red"}, other)
    assert raised.value.get_http_status_code() == 400


def test_an_unknown_column_without_values(served: ProductSearch) -> None:
    with pytest.raises(MlflowException, match=r"^unknown column `0`"):
        served.predict(None, pd.DataFrame([[None]]))


@pytest.mark.parametrize("value", [5, True, ["red"], {"a": 1}])
@pytest.mark.parametrize("name", ["text", "image"])
def test_a_value_that_is_not_a_text_is_named_with_its_row(
    served: ProductSearch, name: str, value: Any
) -> None:
    with pytest.raises(
        MlflowException, match=f"query 1: `{name}` must be a text, got {re.escape(repr(value))}"
    ):
        search(served, {"text": "red", "image": ""}, {"text": "blue", name: value})


@pytest.mark.parametrize("queries", [{"text": np.array(["red"])}, np.array([["red"]]), "red", None])
def test_a_request_that_is_not_a_data_frame(served: ProductSearch, queries: Any) -> None:
    with pytest.raises(MlflowException, match="send the queries as `dataframe_records` or `dataframe_split`"):
        served.predict(None, queries)


def test_a_column_that_appears_twice(served: ProductSearch) -> None:
    with pytest.raises(MlflowException, match="a column appears twice"):
        served.predict(None, pd.DataFrame([["red", "blue"]], columns=["text", "text"]))


def test_no_rows(served: ProductSearch) -> None:
    results = served.predict(None, pd.DataFrame({"text": []}))
    shares = ["share_text", "share_image"]
    assert list(results.columns) == ["query", "rank", "score", "product_id", "title", *FIELDS, *shares]
    assert len(results) == 0


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"filters": {"color": ["Blue"]}}, {6, 7, 8, 9, 10, 11}),
        ({"filters": {"category": ["shoes"]}}, {0, 1, 4, 5, 8, 9}),
        ({"filters": {"category": ["SHOES/"]}}, {0, 4, 8}),
        ({"filters": {"brand": ["acme", "zeta"], "color": ["red"]}}, {0, 2, 3, 5}),
        ({"filters": {"material": ["oak"]}}, set()),
        ({"filters": {"brand": []}}, set()),
        ({"min_price": 9.0}, {9, 10}),
        ({"max_price": 1.0}, {0, 1}),
        ({"min_price": 3.0, "max_price": 5.0, "filters": {"category": ["shoes"]}}, {4, 5}),
        ({"available": True}, {0, 3, 6, 9}),
        ({"available": True, "max_price": 5.0}, {0, 3}),
        ({"filters": {}, "available": False, "collapse": False}, set(range(12))),
        ({"filters": None, "min_price": None, "max_price": None, "collapse": None}, set(range(12))),
    ],
)
def test_filters(served: ProductSearch, params: dict[str, Any], expected: set[int]) -> None:
    results = search(served, {"text": "red"}, {"text": "blue"}, k=12, **params)
    for query in (0, 1):
        query_results = results[results["query"] == query]
        assert set(query_results["product_id"]) == {f"p{n}" for n in expected}
        assert query_results["rank"].tolist() == list(range(1, len(expected) + 1))
        assert query_results["score"].is_monotonic_decreasing


@pytest.mark.parametrize("k", [1, 3, 6, 12])
@pytest.mark.parametrize("filters", [{}, {"color": ["blue"]}])
def test_only_the_best_variant_of_each_group(
    served: ProductSearch, k: int, filters: dict[str, list[str]]
) -> None:
    queries = [{"text": "red"}, {"text": "blue shirt"}]
    every = search(served, *queries, k=12, filters=filters)
    groups = {f"p{n}": group for n, group in enumerate(["a"] * 5 + ["5", "6", "7", "8"] + ["b"] * 3)}
    first = every[~every.assign(group=every["product_id"].map(groups)).duplicated(["query", "group"])]
    expected = first.groupby("query").head(k)
    collapsed = search(served, *queries, k=k, filters=filters, collapse=True)
    assert collapsed["product_id"].tolist() == expected["product_id"].tolist()
    assert collapsed["score"].tolist() == expected["score"].tolist()


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (
            {"filters": {"size": ["XL"]}},
            "'size' is not a filter; the filters are category, brand, color, material",
        ),
        ({"min_price": 5.0, "max_price": 4.0}, "prices from 5 to 4: give min_price ≤ max_price"),
        ({"min_price": -1.0}, "prices from -1 to inf"),
        ({"max_price": float("nan")}, "prices from 0 to nan"),
        ({"max_price": "5"}, "`min_price` and `max_price` must be numbers, got '5'"),
        ({"min_price": True}, "`min_price` and `max_price` must be numbers, got True"),
        ({"filters": ["red"]}, "`filters` must map fields"),
        ({"filters": {"color": "red"}}, "`filters`: color must be a list of texts, got 'red'"),
        ({"filters": {"color": [None]}}, "`filters`: color must be a list of texts"),
        ({"filters": {"color": None}}, "`filters`: color must be a list of texts, got None"),
        ({"collapse": "group_id"}, "`collapse` must be true or false, got 'group_id'"),
        ({"available": 1}, "`available` must be true or false, got 1"),
    ],
)
def test_invalid_filters(served: ProductSearch, params: dict[str, Any], reason: str) -> None:
    with pytest.raises(MlflowException, match=reason) as raised:
        search(served, {"text": "red"}, **params)
    assert raised.value.get_http_status_code() == 400


def test_modality_shares_are_the_losses_without_each_modality(served: ProductSearch) -> None:
    results = search(served, {"text": "red shirt"}, k=12).set_index("product_id")
    shares = results[["share_text", "share_image"]]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)
    assert (shares.loc["p3"] == 0).all() or results.loc["p3", "score"] < 0
    rows = [{"query_id": "", "text": "red shirt", "split": "", "segment": "", "image": None}]
    (query,) = embed(served.model, served.featurizer.featurize_rows("queries", rows)[0], "query")
    for n in range(12):
        score = results.loc[f"p{n}", "score"]
        losses = [
            max(0.0, score - float(served.index.vectors_without[name][n].astype(np.float32) @ query))
            for name in ("text", "image")
        ]
        expected = np.array(losses) / sum(losses) if sum(losses) > 1e-3 else np.zeros(2)
        np.testing.assert_allclose(shares.loc[f"p{n}"], expected, atol=1e-5)


def test_the_hybrid_is_served_where_the_index_has_one(
    served: ProductSearch,
    png: Callable[..., bytes],
    write_data: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the last product's title has the query's words; filters and shares work as without BM25."""
    rows = [{"product_id": f"p{n}", "title": f"thing {n}"} for n in range(11)]
    data = write_data(
        {"products": [*rows, {"product_id": "p11", "title": "a red shirt"}], "queries": [], "judgements": []}
    )
    index = served.index
    hybrid = SearchIndex(
        index.marker,
        index.fields,
        index.vectors,
        index.vectors_without,
        LexicalIndex.build(data),
        hybrid=Hybrid(0.25),
    )
    queries = [{"text": "red shirt"}, {"image": b64(png(3))}, {"text": "red shirt", "image": b64(png(3))}]
    alone = search(served, *queries, k=12)
    monkeypatch.setattr(served, "index", hybrid)
    results = search(served, *queries, k=12)
    first = results[results["rank"] == 1].set_index("query")
    assert first.loc[0, "product_id"] == first.loc[2, "product_id"] == "p11"
    assert first.loc[0, "score"] >= 0.75
    picture, alone_picture = (table[table["query"] == 1] for table in (results, alone))
    assert picture["product_id"].tolist() == alone_picture["product_id"].tolist()
    np.testing.assert_allclose(picture["score"], alone_picture["score"], atol=1e-6)
    shares = ["query", "product_id", "share_text", "share_image"]
    expected, actual = (
        table[shares].set_index(["query", "product_id"]).sort_index() for table in (alone, results)
    )
    pd.testing.assert_frame_equal(actual, expected, atol=1e-5)
    red = search(served, *queries, k=12, filters={"color": ["red"]})
    assert set(red["product_id"]) == {f"p{n}" for n in range(6)}


def test_an_index_of_another_model_is_not_served(served: ProductSearch, saved: Path, tmp_path: Path) -> None:
    index = served.index
    marker = index.marker._replace(model=index.marker.model._replace(encoders="0" * 32))
    SearchIndex(marker, index.fields, index.vectors, index.vectors_without).save(tmp_path / "index")
    MODEL_ALONE.save(tmp_path / "hybrid.json")
    artifacts = {"model": saved, "index": tmp_path / "index", "hybrid": tmp_path / "hybrid.json"}
    with pytest.raises(MarkerError, match="another model made this index: the queries are of encoders"):
        ProductSearch().load_context(SimpleNamespace(artifacts=artifacts))
    with pytest.raises(DataError, match="this version holds no index"):
        ProductSearch().load_context(SimpleNamespace(artifacts={"model": saved}))


def test_searches_of_several_users_are_answered_one_by_one(
    served: ProductSearch, png: Callable[..., bytes]
) -> None:
    """As the service asks: each with its own parameters, and its own error."""
    red = {"k": 3, "filters": {"color": ["red"]}}
    good, bad_picture, bad_k, none, unknown = served.answer(
        [
            ("red shirt", png(3), red),
            ("red", b"no picture", {}),
            ("red", None, {"k": 0}),
            ("red", None, {"filters": {"brand": []}}),
            ("東京", None, {"k": 1}),
        ]
    )
    query = {"text": "red shirt", "image": b64(png(3))}
    (expected,) = served.search([query], red)
    assert isinstance(good, dict)
    assert [row["product_id"] for row in good["results"]] == [row["product_id"] for row in expected]
    assert good["results"][0]["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
    assert good["unknown_tokens"] == 0
    assert isinstance(bad_picture, ValueError) and "not a JPEG" in str(bad_picture)
    assert isinstance(bad_k, ValueError) and "`k`" in str(bad_k)
    assert none == {"results": [], "unknown_tokens": 0}
    assert isinstance(unknown, dict) and unknown["unknown_tokens"] == 1


def test_similar_products(served: ProductSearch) -> None:
    similar = served.similar("p3", {"k": 12, "filters": {"color": ["red"]}})
    assert {product["product_id"] for product in similar} == {"p0", "p1", "p2", "p4", "p5"}
    with pytest.raises(LookupError, match="the index has no product 'none'"):
        served.similar("none", {})
    with pytest.raises(ValueError, match="`k`"):
        served.similar("p3", {"k": 0})


def test_a_collection_of_milvus_gives_the_same_results(
    served: ProductSearch,
    saved: Path,
    write_data: Callable[..., Path],
    open_lite: Callable[[], Any],
    tmp_path: Path,
) -> None:
    from fusion.search.milvus_collection import write_collection

    rows = [{"product_id": f"p{n}", "title": f"thing {n}"} for n in range(12)]
    lexical = LexicalIndex.build(write_data({"products": rows, "queries": [], "judgements": []}))
    index = served.index
    index = SearchIndex(index.marker, index.fields, index.vectors, index.vectors_without, lexical)
    write_collection(open_lite(), index, "c")
    index.save(tmp_path / "index")
    MODEL_ALONE.save(tmp_path / "hybrid.json")
    paths = {"model": saved, "index": tmp_path / "index", "hybrid": tmp_path / "hybrid.json"}
    artifacts = {name: str(path) for name, path in paths.items()}
    milvus = ProductSearch()
    milvus.load_context(SimpleNamespace(artifacts=artifacts, collection="c"))
    assert milvus.describe() == served.describe()
    for params in ({"k": 12}, {"k": 4, "filters": {"category": ["shoes"]}, "max_price": 9.0}):
        expected, results = (model.search([{"text": "red"}], params)[0] for model in (served, milvus))
        assert [row["product_id"] for row in results] == [row["product_id"] for row in expected]
    with pytest.raises(LookupError):
        milvus.similar("none", {})


def test_missing_values_are_null_in_strict_json(served: ProductSearch) -> None:
    results = search(served, {"text": "red"}, k=12).set_index("product_id")
    assert results.loc["p0", "category"] == "Shoes/Boots" and results.loc["p3", "category"] is None
    assert results.loc["p4", "price"] == 4.0 and results.loc["p11", "price"] is None
    json.dumps(results.to_dict("records"), allow_nan=False)


class TestUnknownParameterFilter:
    """As MLflow calls its logger, in `_enforce_params_schema`."""

    SCHEMA = ParamSchema([ParamSpec(name, "double", None) for name in PARAMETERS])
    OTHER = ParamSchema([ParamSpec(name, "double", None) for name in ("k", "temperature")])

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        logger = logging.getLogger("mlflow.models.utils")
        monkeypatch.setattr(logger, "filters", [])
        monkeypatch.setattr(
            logging.getLogger("mlflow"), "level", logging.ERROR
        )  # as `mlflow_store.connect` does
        for _ in range(2):
            UnknownParameterFilter.install()
        assert len(logger.filters) == 1

    @pytest.mark.parametrize("name", ["K", "filter", "a' Supported params are: {'a'}. b", "ü"])
    def test_error_names_the_known_parameters(self, name: str) -> None:
        with pytest.raises(MlflowException) as raised:
            _enforce_params_schema({"k": 1.0, name: 1.0}, self.SCHEMA)
        assert raised.value.message == (
            f"unknown parameter `{name}`; the parameters are k, filters, min_price, max_price, available, collapse"
        )
        assert raised.value.get_http_status_code() == 400

    def test_warnings_of_other_models_pass(self, caplog: pytest.LogCaptureFixture) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        with caplog.at_level(logging.WARNING):
            logger = logging.getLogger("mlflow")
            logger.addHandler(caplog.handler)
            try:
                assert _enforce_params_schema({"k": 1.0, "K": 1.0}, self.OTHER) == {
                    "k": 1.0,
                    "temperature": None,
                }
            finally:
                logger.removeHandler(caplog.handler)
        assert "Unrecognized params ['K']" in caplog.text

    def test_mlflows_log_level_still_applies(self, caplog: pytest.LogCaptureFixture) -> None:
        logger = logging.getLogger("mlflow.models.utils")
        logger.addHandler(caplog.handler)
        try:
            _enforce_params_schema({"k": 1.0, "K": 1.0}, self.OTHER)
        finally:
            logger.removeHandler(caplog.handler)
        assert not caplog.text
