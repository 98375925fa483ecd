"""Merging the model's rankings with BM25's, and an index that serves the result."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.combine import weighted
from vitrine_judge.rankings import Run

from catalog.schema import DataError
from fusion.search.bm25 import rank_bm25
from fusion.search.hybrid import HYBRID_FILE, MODEL_ALONE, Hybrid, merge_rankings
from fusion.search.lexical_index import LexicalIndex
from fusion.search.marker import IndexMarker, ModelMarker, QueryEmbeddings
from fusion.search.search_index import SearchIndex
from fusion.search.vector_index import top_k

TITLES = [
    "red mug",
    "red red mug",
    "blue shoe",
    "green plate",
    "red plate",
    "blue plate",
    "green shoe",
    "hat",
]
PRODUCT_IDS = pa.chunked_array(
    [[f"p{n}" for n in range(len(TITLES))][::-1]]
)  # ids are not in the order of rows
MARKER = IndexMarker(ModelMarker("weights", "encoders"), "data", 4)
RANKING = st.dictionaries(st.integers(0, 7), st.sampled_from([0.5, 1.0, 1.5, 2.0, -1.0]), min_size=1)


@pytest.fixture
def shop(write_data: Callable[..., Path]) -> Path:
    products = [
        {"product_id": f"p{n}", "title": title, "color": title.split()[0]} for n, title in enumerate(TITLES)
    ]
    queries = [{"query_id": "q", "text": "red mug", "split": "test"}]
    return write_data({"products": products, "queries": queries, "judgements": []})


@pytest.fixture
def index(shop: Path) -> SearchIndex:
    fields = pa.table({"product_id": [f"p{n}" for n in range(8)], "title": TITLES})
    vectors = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    return SearchIndex(MARKER, fields, vectors, {}, LexicalIndex.build(shop), hybrid=Hybrid(0.3, 5))


@pytest.fixture
def queries() -> QueryEmbeddings:
    vectors = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    return QueryEmbeddings(vectors, MARKER.model)


@given(RANKING, RANKING, st.floats(0, 1))
def test_merging_is_the_weighted_sum_of_the_judge(
    model: dict[int, float], lexical: dict[int, float], weight: float
) -> None:
    rankings = [[np.array([*ranking]), np.array([*ranking.values()])] for ranking in (model, lexical)]
    rows, scores = merge_rankings(*rankings[0], *rankings[1], weight, PRODUCT_IDS)
    ids = PRODUCT_IDS.to_pylist()
    runs = [
        Run.from_dict({"q": {ids[row]: score for row, score in ranking.items()}})
        for ranking in (model, lexical)
    ]
    expected = weighted(runs, [weight, 1 - weight])
    assert [ids[row] for row in rows] == expected.product_ids.tolist()  # the same order, also of equal sums
    assert scores.tolist() == expected.values.tolist()


def test_a_query_with_words_is_merged_and_others_keep_the_models_ranking(
    index: SearchIndex, queries: QueryEmbeddings
) -> None:
    rows, scores = index.search(queries, 4, texts=["red mug", None, "xyzzy"])
    model_rows, model_scores = index.search(queries, 4)
    assert rows[1:].tolist() == model_rows[1:].tolist() and scores[1:].tolist() == model_scores[1:].tolist()
    lexical = index.require_lexical().search("red mug", 5)
    best = (part[0] for part in top_k(queries.vectors[:1], index.vectors, 5))
    merged, sums = merge_rankings(*best, *lexical, 0.3, index.fields["product_id"])
    assert rows[0].tolist() == merged[:4].tolist() != model_rows[0].tolist()
    assert scores[0].tolist() == pytest.approx(sums[:4].tolist(), abs=1e-6)
    assert {0, 1} <= set(rows[0].tolist())  # the mugs


@pytest.mark.parametrize("k", [1, 4, 8, 50])
def test_both_rankings_are_of_the_products_that_pass_the_filter(
    index: SearchIndex, queries: QueryEmbeddings, k: int
) -> None:
    mask = np.array([False, True, True, False, True, True, True, False])
    rows, scores = index.search(queries, k, mask, ["red plate", "blue", None])
    assert rows.shape == scores.shape == (3, min(k, 5))
    assert mask[rows].all() and all(len(set(row)) == len(row) for row in rows.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()
    assert rows[0, 0] == 4 or k == 1  # the red plate
    nothing, _ = index.search(queries, k, np.zeros(8, bool), ["red plate", "blue", None])
    assert nothing.shape == (3, 0)


def test_the_first_results_do_not_depend_on_their_number(
    index: SearchIndex, queries: QueryEmbeddings
) -> None:
    texts = ["red mug", "blue shoe", "green"]
    five, two = (index.search(queries, k, texts=texts) for k in (5, 2))
    assert five[0][:, :2].tolist() == two[0].tolist() and five[1][:, :2].tolist() == two[1].tolist()


def test_weights_at_the_ends_are_one_of_both(shop: Path, queries: QueryEmbeddings) -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    ids, lexical = pa.chunked_array([[f"p{n}" for n in range(8)]]), LexicalIndex.build(shop)
    best = top_k(queries.vectors[:1], vectors, 8)
    alone, _ = Hybrid(1.0, 8).merge(lexical, ["red mug"], *best, ids, 7)
    assert alone.tolist() == best[0][:, :7].tolist()
    words, _ = Hybrid(0.0, 8).merge(lexical, ["red mug"], *best, ids, 2)
    assert words[0].tolist() == lexical.search("red mug", 2)[0].tolist()


def test_an_index_is_saved_without_pickle_and_its_hybrid_beside_it(
    index: SearchIndex, queries: QueryEmbeddings, tmp_path: Path
) -> None:
    index.save(tmp_path / "index")
    index.hybrid.save(tmp_path / HYBRID_FILE)
    assert {path.suffix for path in (tmp_path / "index" / "lexical").iterdir()} == {
        ".npy",
        ".json",
        ".parquet",
    }
    loaded = SearchIndex.load(tmp_path / "index", tmp_path / HYBRID_FILE)
    assert loaded.hybrid == Hybrid(0.3, 5)
    assert loaded.nbytes == index.nbytes > index.vectors.nbytes
    texts = ["red mug", "the", "green plate"]
    for array, expected in zip(
        loaded.search(queries, 6, texts=texts), index.search(queries, 6, texts=texts), strict=True
    ):
        assert array.tolist() == expected.tolist()


def test_where_the_model_alone_is_better_bm25_is_not_loaded(
    index: SearchIndex, queries: QueryEmbeddings, tmp_path: Path
) -> None:
    index.save(tmp_path / "index")
    MODEL_ALONE.save(tmp_path / HYBRID_FILE)
    loaded = SearchIndex.load(tmp_path / "index", tmp_path / HYBRID_FILE)
    for alone in (loaded, index.serve(MODEL_ALONE)):
        assert alone.lexical is None and alone.nbytes == index.vectors.nbytes
        rows, _ = alone.search(queries, 3, texts=["red mug", None, "hat"])
        assert rows.tolist() == top_k(queries.vectors, index.vectors, 3)[0].tolist()
        with pytest.raises(DataError, match="this index has no BM25"):
            alone.require_lexical()
    assert SearchIndex.load(tmp_path / "index").lexical, "to be judged, an index has BM25"


def test_bm25_is_the_same_as_a_baseline_and_in_the_index(shop: Path, index: SearchIndex) -> None:
    run = rank_bm25(shop, np.array(["q"], object), 3)
    rows, scores = index.require_lexical().search("red mug", 3)
    assert run["product_id"].to_pylist() == [f"p{row}" for row in rows]
    assert run["score"].to_pylist() == scores.tolist()
