from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.__main__ import main
from fusion.model import embed
from fusion.search.catalogue_search import load_model
from fusion.search.matching import MAX_OTHERS, score_matches


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_by_hand() -> None:
    """The second and third product have swapped pictures."""
    texts = np.eye(4, dtype=np.float32)
    pictures = texts[[0, 2, 1, 3]]
    assert score_matches(texts, pictures).tolist() == [1, 0, 0, 1]


def test_one_side_alone_is_not_enough() -> None:
    """The second picture fits its own text best, and its text fits the first picture better."""
    texts = np.array([[1, 0], [0.8, 0.6]], np.float32)
    pictures = np.array([[0.9, 0.1], [0.2, 0.9]], np.float32)
    assert texts[1] @ pictures[1] > texts[0] @ pictures[1] and texts[1] @ pictures[0] > texts[1] @ pictures[1]
    assert score_matches(texts, pictures).tolist() == [1, 0]


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_scores_agree_with_comparing_all_pairs(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    texts, pictures = (unit(random.normal(size=(count, 8))) for _ in range(2))
    scores = pictures @ texts.T
    expected = [
        min(
            np.mean(np.delete(scores[i] < scores[i, i], i)),
            np.mean(np.delete(scores[:, i] < scores[i, i], i)),
        )
        for i in range(count)
    ]
    np.testing.assert_allclose(score_matches(texts, pictures), expected, atol=1e-6)


def test_many_products_are_compared_with_a_sample() -> None:
    random = np.random.default_rng(0)
    texts = unit(random.normal(size=(3 * MAX_OTHERS, 16)))
    pictures = unit(texts + 0.1 * random.normal(size=texts.shape))
    swapped = np.arange(0, len(texts), 50)
    pictures[swapped] = pictures[np.roll(swapped, 1)]
    match_scores = score_matches(texts, pictures)
    assert np.quantile(np.delete(match_scores, swapped), 0.01) > 0.98
    assert 0.2 < match_scores[swapped].mean() < 0.5  # the minimum of two uniform shares has mean 1/3
    assert (score_matches(texts, pictures) == match_scores).all()


@pytest.mark.parametrize("count", [0, 1])
def test_no_other_product(count: int) -> None:
    vectors = np.ones((count, 4), np.float32)
    assert np.isnan(score_matches(vectors, vectors)).all()


def test_embed_command(saved: Path, tiny_data: Path, tmp_path: Path) -> None:
    products_path = tmp_path / "products.parquet"
    pq.write_table(pa.table({"product_id": ["p11", "p3", "p7", "p0", "unknown"]}), products_path)
    command = ["embed", "--model", saved, "--data", tiny_data, "--products", products_path]
    assert main([str(word) for word in [*command, "--vectors", tmp_path / "vectors.parquet"]]) == 0
    table = pq.read_table(tmp_path / "vectors.parquet")
    assert table["product_id"].to_pylist() == ["p0", "p3", "p7", "p11"]
    model, featurizer = load_model(saved)
    products = featurizer.featurize_table(tiny_data, "products")
    np.testing.assert_allclose(
        np.array(table["vector"].to_pylist()), embed(model, products, "product")[[0, 3, 7, 11]], atol=1e-6
    )
    # p11 has no picture
    assert [match is None for match in table["match"].to_pylist()] == [False, False, False, True]


def test_embed_command_without_a_model(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    products_path = tmp_path / "products.parquet"
    pq.write_table(pa.table({"product_id": ["p1"]}), products_path)
    command = ["embed", "--model", tmp_path, "--data", tiny_data, "--products", products_path]
    assert main([str(word) for word in [*command, "--vectors", tmp_path / "vectors.parquet"]]) == 1
    assert "not a model of the train stage" in capsys.readouterr().err
    assert not (tmp_path / "vectors.parquet").exists()
