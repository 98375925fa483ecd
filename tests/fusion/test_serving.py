import base64
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusion.model import embed
from fusion.search import SearchIndex
from fusion.serving import ProductSearch


@pytest.fixture(scope="module")
def served(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> ProductSearch:
    """The registered model as MLflow loads it, over 12 products."""
    path = tmp_path_factory.mktemp("index") / "index.parquet"
    ids, titles = (np.array([f"{prefix}{n}" for n in range(12)], object) for prefix in ("p", "Product "))
    vectors = np.random.default_rng(0).normal(size=(12, 32)).astype(np.float32)
    SearchIndex(ids, titles, vectors).save(path)
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
    assert found["product_id"].tolist() == served.index.ids[order].ravel().tolist()
    assert found["title"].tolist() == served.index.titles[order].ravel().tolist()
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
    with pytest.raises(ValueError, match=rf"k.*at least 1.*{k}"):
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
    with pytest.raises(ValueError, match="query 1: give `text`"):
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
    with pytest.raises(ValueError, match=rf"query 1: .*{reason}"):
        ask(served, {"text": "red"}, {"text": "red", "image": image})


def test_no_rows(served: ProductSearch) -> None:
    found = served.predict(None, pd.DataFrame({"text": []}))
    assert list(found.columns) == ["query", "rank", "product_id", "title", "score"]
    assert len(found) == 0
