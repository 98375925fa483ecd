import base64
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException

from fusion.model import embed
from fusion.search import FIELDS, SearchIndex
from fusion.serving import ProductSearch


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
            "price": [*range(11), None],
            "currency": ["EUR"] * 12,
        }
    )
    vectors = rng.normal(size=(12, 32)).astype(np.float32)
    without = {name: rng.normal(size=(12, 32)).astype(np.float16) for name in ("text", "image")}
    without["image"][3] = without["text"][3] = 100 * vectors[3]  # nothing that it loses by either
    SearchIndex(fields, vectors, without).save(path)
    served = ProductSearch()
    served.load_context(SimpleNamespace(artifacts={"model": str(saved), "index": str(path)}))
    return served


def ask(served: ProductSearch, *rows: dict[str, Any], **params: Any) -> pd.DataFrame:
    return served.predict(None, pd.DataFrame(list(rows)), params or None)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_answers_are_the_models(served: ProductSearch, png: Callable[..., bytes]) -> None:
    photo = png(3)
    found = ask(
        served, {"text": "red shirt"}, {"image": b64(photo)}, {"text": "navy", "image": b64(photo)}, k=4
    )
    assert found["query"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found["rank"].tolist() == [1, 2, 3, 4] * 3
    pictures = [None, photo, photo]
    rows = [
        {"query_id": "", "text": text, "split": "", "segment": "", "image": p and {"bytes": p, "path": None}}
        for text, p in zip(["red shirt", None, "navy"], pictures, strict=True)
    ]
    queries, _ = served.featurizer.rows("queries", rows)
    scores = embed(served.model, queries, "query") @ served.index.vectors.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    assert found["product_id"].tolist() == [f"p{n}" for n in order.ravel()]
    assert found["title"].tolist() == [f"Product {n}" for n in order.ravel()]
    np.testing.assert_allclose(found["score"], np.take_along_axis(scores, order, 1).ravel(), atol=1e-5)


def test_text_picture_and_both_are_three_questions(served: ProductSearch, png: Callable[..., bytes]) -> None:
    text, image = {"text": "red"}, {"image": b64(png(3))}
    found = ask(served, text, image, text | image, k=12).groupby("query")["score"].apply(list)
    assert len(set(map(tuple, found))) == 3


@pytest.mark.parametrize(("k", "expected"), [(1, 1), (12, 12), (500, 12)])
def test_k(served: ProductSearch, k: int, expected: int) -> None:
    assert len(ask(served, {"text": "red"}, k=k)) == expected


def test_k_is_ten_unless_told(served: ProductSearch) -> None:
    assert len(ask(served, {"text": "red"})) == 10


@pytest.mark.parametrize("k", [0, -1])
def test_impossible_k(served: ProductSearch, k: int) -> None:
    with pytest.raises(MlflowException, match=rf"k.*at least 1.*{k}"):
        ask(served, {"text": "red"}, k=k)


@pytest.mark.parametrize("missing", [None, float("nan"), "", pd.NA])
def test_what_a_data_frame_has_for_nothing_is_missing(
    served: ProductSearch, png: Callable[..., bytes], missing: Any
) -> None:
    image = b64(png(3))
    plain = ask(served, {"image": image})
    assert ask(served, {"text": missing, "image": image}).equals(plain)
    text = ask(served, {"text": "red", "image": missing})
    assert text.equals(ask(served, {"text": "red"}))


@pytest.mark.parametrize("row", [{"text": None}, {"text": "", "image": ""}, {"other": "red"}])
def test_neither(served: ProductSearch, row: dict[str, Any]) -> None:
    with pytest.raises(MlflowException, match="query 1: give `text`"):
        ask(served, {"text": "red"}, row)


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
        ask(served, {"text": "red"}, {"text": "red", "image": image})


def test_no_rows(served: ProductSearch) -> None:
    found = served.predict(None, pd.DataFrame({"text": []}))
    shares = ["share_text", "share_image"]
    assert list(found.columns) == ["query", "rank", "score", "product_id", "title", *FIELDS, *shares]
    assert len(found) == 0


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
        ({"filters": {}}, set(range(12))),
        ({"filters": None, "min_price": None, "max_price": None}, set(range(12))),
    ],
)
def test_filters(served: ProductSearch, params: dict[str, Any], expected: set[int]) -> None:
    found = ask(served, {"text": "red"}, {"text": "blue"}, k=12, **params)
    for query in (0, 1):
        own = found[found["query"] == query]
        assert set(own["product_id"]) == {f"p{n}" for n in expected}
        assert own["rank"].tolist() == list(range(1, len(expected) + 1))
        assert own["score"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"filters": {"size": ["XL"]}}, "'size' is no filter; there are category, brand, color, material"),
        ({"min_price": 5.0, "max_price": 4.0}, "prices from 5 to 4: give min_price ≤ max_price"),
        ({"min_price": -1.0}, "prices from -1 to inf"),
        ({"max_price": float("nan")}, "prices from 0 to nan"),
    ],
)
def test_filters_that_mean_nothing(served: ProductSearch, params: dict[str, Any], reason: str) -> None:
    with pytest.raises(MlflowException, match=reason) as raised:
        ask(served, {"text": "red"}, **params)
    assert raised.value.get_http_status_code() == 400


def test_the_share_of_each_modality_is_what_the_score_loses_without_it(served: ProductSearch) -> None:
    found = ask(served, {"text": "red shirt"}, k=12).set_index("product_id")
    shares = found[["share_text", "share_image"]]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)
    assert (shares.loc["p3"] == 0).all() or found.loc["p3", "score"] < 0
    rows = [{"query_id": "", "text": "red shirt", "split": "", "segment": "", "image": None}]
    (query,) = embed(served.model, served.featurizer.rows("queries", rows)[0], "query")
    for n in range(12):
        one = found.loc[f"p{n}"]
        losses = [
            max(0.0, one["score"] - float(served.index.without[name][n].astype(np.float32) @ query))
            for name in ("text", "image")
        ]
        expected = np.array(losses) / sum(losses) if sum(losses) > 1e-3 else np.zeros(2)
        np.testing.assert_allclose(shares.loc[f"p{n}"], expected, atol=1e-5)


def test_what_a_product_lacks_is_missing(served: ProductSearch) -> None:
    found = ask(served, {"text": "red"}, k=12).set_index("product_id")
    assert found.loc["p0", "category"] == "Shoes/Boots" and pd.isna(found.loc["p3", "category"])
    assert found.loc["p4", "price"] == 4.0 and np.isnan(found.loc["p11", "price"])
