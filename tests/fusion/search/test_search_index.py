"""The embedded index: what it holds, what it finds, which queries it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import load_model
from fusion.search.explanations import explain_data
from fusion.search.filters import Filters
from fusion.search.marker import IndexMarker, MarkerError, ModelMarker, QueryEmbeddings, embed_queries
from fusion.search.search_index import SearchIndex
from fusion.search.vector_index import IVFIndex


def draw_queries(model: ProductSearchModel, count: int) -> np.ndarray:
    """Random vectors of the shape and type of query embeddings."""
    return np.random.default_rng(0).normal(size=(count, model.config.dim)).astype(np.float32)


@pytest.fixture(scope="module")
def tiny_index() -> SearchIndex:
    """Six products, two of them variants."""
    fields = pa.table(
        {
            "product_id": [f"p{n}" for n in range(6)],
            "title": [f"Product {n}" for n in range(6)],
            "price": [1.0, 2.0, 3.0, 4.0, float("nan"), None],
            "group_id": [None, None, "g", "g", None, None],
        }
    )
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    marker = IndexMarker(ModelMarker("w" * 32, "e" * 32), "data", 4)
    return SearchIndex(marker, fields, vectors, {"text": vectors.astype(np.float16)})


def test_index_survives_saving(saved: Path, tiny_data: Path, tmp_path: Path) -> None:
    model, products = (
        ProductSearchModel.load(saved),
        Featurizer.load(saved).featurize_table(tiny_data, "products"),
    )
    index = SearchIndex.build(model, products, tiny_data, "data", draw_queries(model, 3))
    index.save(tmp_path / "index")
    loaded = SearchIndex.load(tmp_path / "index")
    assert loaded.fields.equals(index.fields.combine_chunks())
    assert loaded.fields["product_id"].to_pylist() == products.ids.tolist()
    assert loaded.fields.slice(0, 1).to_pylist()[0] == {
        "product_id": "p0",
        "title": "Red shirt",
        "category": "clothing/shirt",
        "brand": None,
        "color": None,
        "material": None,
        "max_price": None,
        "group_id": None,
        "available": None,
        "price": 10.0,
        "currency": None,
    }
    assert np.array_equal(loaded.vectors, embed(model, products, "product"))
    assert list(loaded.vectors_without) == list(model.config.modalities)
    for name, vectors in loaded.vectors_without.items():
        assert vectors.dtype == np.float16 and np.array_equal(vectors, index.vectors_without[name])
    assert loaded.nbytes == loaded.vectors.nbytes * (1 + len(loaded.vectors_without) / 2)
    assert loaded.ivf is None and loaded.marker == index.marker
    assert loaded.marker == IndexMarker(ModelMarker.read(saved), "data", model.config.dim)


def test_a_large_catalogue_has_an_ivf_index(
    saved: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, products = (
        ProductSearchModel.load(saved),
        Featurizer.load(saved).featurize_table(tiny_data, "products"),
    )
    wide = np.eye(model.config.dim, dtype=np.float32).repeat(50, axis=0)
    large, queries = IVFIndex.build(wide, wide[:3]), draw_queries(model, 3)
    small = SearchIndex.build(model, products, tiny_data, "data", queries)
    build_calls = []
    monkeypatch.setattr("fusion.search.search_index.ANN_MIN_PRODUCTS", len(products) - 1)
    monkeypatch.setattr(IVFIndex, "build", lambda *vectors: build_calls.append(vectors) or large)
    built = SearchIndex.build(model, products, tiny_data, "data", queries)
    ((vectors, tuning_queries),) = build_calls
    assert vectors is built.vectors and tuning_queries is queries
    built.save(tmp_path / "index")
    loaded = SearchIndex.load(tmp_path / "index")
    assert loaded.ivf and loaded.nbytes == small.nbytes + large.nbytes
    monkeypatch.setattr(IVFIndex, "top_k", lambda _, *rest: rest)
    mask = np.ones(len(products), bool)
    query_embeddings = QueryEmbeddings(queries, built.marker.model)
    expected_arguments = (queries, built.vectors, 4, mask)
    assert all(
        actual is expected or np.array_equal(actual, expected)
        for actual, expected in zip(loaded.search(query_embeddings, 4, mask), expected_arguments, strict=True)
    )


def test_modality_shares_agree_with_explanations(saved: Path, tiny_data: Path) -> None:
    model, featurizer = load_model(saved)
    products, queries = (featurizer.featurize_table(tiny_data, table) for table in ("products", "queries"))
    index = SearchIndex.build(model, products, tiny_data, "data", draw_queries(model, 3))
    (query,) = embed(model, queries.take(np.array([4])), "query")
    rows = np.arange(3)
    shares = index.modality_shares(query, rows)
    for row in rows:
        explanation = explain_data(saved, tiny_data, queries.ids[4], products.ids[row])
        losses = {name: max(0.0, loss) for name, loss in explanation.modality_losses.items()}
        total = sum(losses.values())
        for name, loss in losses.items():
            assert shares[name][row] == pytest.approx(loss / total if total > 1e-3 else 0.0, abs=0.02)


def test_results_have_the_fields_of_the_catalogue(tiny_index: SearchIndex) -> None:
    queries = QueryEmbeddings(tiny_index.vectors[:2], tiny_index.marker.model)
    first, second = tiny_index.find(queries, 3)
    assert first[0]["product_id"] == "p0" and second[0]["product_id"] == "p1"
    assert first[0] | {"score": 1} == {
        "score": 1,
        "product_id": "p0",
        "title": "Product 0",
        "price": 1.0,
        "group_id": None,
        "share_text": 0.0,
    }
    assert first[0]["score"] == pytest.approx(1)
    (cheap,) = tiny_index.find(QueryEmbeddings(queries.vectors[:1], queries.model), 6, Filters(max_price=2))
    assert sorted(result["product_id"] for result in cheap) == ["p0", "p1"]
    prices = {result["product_id"]: result["price"] for result in tiny_index.find(queries, 6)[0]}
    assert prices["p4"] is None and prices["p5"] is None


def test_similar_products_are_without_the_product_itself(tiny_index: SearchIndex) -> None:
    similar = [result["product_id"] for result in tiny_index.find_similar("p2", 5)]
    order = np.argsort(-(tiny_index.vectors @ tiny_index.vectors[2]))
    assert similar == [f"p{row}" for row in order if row != 2]
    assert "p3" not in {result["product_id"] for result in tiny_index.find_similar("p2", 5, collapse=True)}
    with pytest.raises(ValueError, match="the index has no product 'p9'"):
        tiny_index.find_similar("p9", 5)


@pytest.mark.parametrize(
    ("model", "width", "problem"),
    [
        (ModelMarker("x" * 32, "e" * 32), 4, "the queries are of weights xxxxxxxx in place of wwwwwwww;"),
        (ModelMarker("w" * 32, "x" * 32), 4, "the queries are of encoders xxxxxxxx in place of eeeeeeee;"),
        (ModelMarker("w" * 32, "e" * 32), 5, "the queries have 5 dimensions, the index has 4"),
    ],
)
def test_queries_of_another_model_are_refused(
    tiny_index: SearchIndex, model: ModelMarker, width: int, problem: str
) -> None:
    queries = QueryEmbeddings(np.zeros((1, width), np.float32), model)
    for search in (tiny_index.find, tiny_index.search):
        with pytest.raises(MarkerError, match=problem):
            search(queries, 3)


def test_a_marker_is_of_the_files_that_change_a_vector(saved: Path, tmp_path: Path) -> None:
    """Not of the others: how long training took is no part of the model."""
    marker = ModelMarker.read(saved)
    for name, changed in (("weights.safetensors", "weights"), ("featurizer.json", "encoders")):
        folder = shutil.copytree(saved, tmp_path / changed)
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        other = ModelMarker.read(folder)
        assert [part for part in ModelMarker._fields if getattr(other, part) != getattr(marker, part)] == [
            changed
        ]
    shutil.copytree(saved, tmp_path / "same")
    (tmp_path / "same" / "history.csv").write_text("epoch")
    assert ModelMarker.read(tmp_path / "same") == marker


def test_a_model_in_training_has_no_marker(saved: Path) -> None:
    model, featurizer = load_model(saved)
    queries, _ = featurizer.featurize_rows("queries", [])
    assert embed_queries(model, queries).model == ModelMarker.read(saved)
    model.marker = None
    with pytest.raises(MarkerError, match="not loaded from a folder"):
        embed_queries(model, queries)
