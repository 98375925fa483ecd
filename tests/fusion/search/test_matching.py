from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.__main__ import main
from fusion.model import embed
from fusion.search.catalogue_search import load
from fusion.search.matching import OTHERS, matches


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_by_hand() -> None:
    """The second and third product have each other's picture."""
    texts = np.eye(4, dtype=np.float32)
    pictures = texts[[0, 2, 1, 3]]
    assert matches(texts, pictures).tolist() == [1, 0, 0, 1]


def test_one_side_alone_is_not_enough() -> None:
    """The second picture fits its own text best, and its text fits the first picture better."""
    texts = np.array([[1, 0], [0.8, 0.6]], np.float32)
    pictures = np.array([[0.9, 0.1], [0.2, 0.9]], np.float32)
    assert texts[1] @ pictures[1] > texts[0] @ pictures[1] and texts[1] @ pictures[0] > texts[1] @ pictures[1]
    assert matches(texts, pictures).tolist() == [1, 0]


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_it_is_what_comparing_all_pairs_gives(count: int, seed: int) -> None:
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
    np.testing.assert_allclose(matches(texts, pictures), expected, atol=1e-6)


def test_of_many_products_some_are_drawn() -> None:
    random = np.random.default_rng(0)
    texts = unit(random.normal(size=(3 * OTHERS, 16)))
    pictures = unit(texts + 0.1 * random.normal(size=texts.shape))
    swapped = np.arange(0, len(texts), 50)
    pictures[swapped] = pictures[np.roll(swapped, 1)]
    found = matches(texts, pictures)
    assert np.quantile(np.delete(found, swapped), 0.01) > 0.98
    assert 0.2 < found[swapped].mean() < 0.5  # the less of two that are spread evenly: a third
    assert (matches(texts, pictures) == found).all()


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_to_be_set_beside(count: int) -> None:
    alone = np.ones((count, 4), np.float32)
    assert np.isnan(matches(alone, alone)).all()


def test_products_as_a_saved_model_sees_them(saved: Path, tiny_data: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.parquet"
    pq.write_table(pa.table({"product_id": ["p11", "p3", "p7", "p0", "unknown"]}), wanted)
    words = ["embed", "--model", saved, "--data", tiny_data, "--products", wanted]
    assert main([str(word) for word in [*words, "--vectors", tmp_path / "vectors.parquet"]]) == 0
    found = pq.read_table(tmp_path / "vectors.parquet")
    assert found["product_id"].to_pylist() == ["p0", "p3", "p7", "p11"]
    model, featurizer = load(saved)
    products = featurizer.table(tiny_data, "products")
    np.testing.assert_allclose(
        np.array(found["vector"].to_pylist()), embed(model, products, "product")[[0, 3, 7, 11]], atol=1e-6
    )
    # p11 has no picture
    assert [match is None for match in found["match"].to_pylist()] == [False, False, False, True]


def test_what_is_no_model_is_told(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = tmp_path / "wanted.parquet"
    pq.write_table(pa.table({"product_id": ["p1"]}), wanted)
    words = ["embed", "--model", tmp_path, "--data", tiny_data, "--products", wanted]
    assert main([str(word) for word in [*words, "--vectors", tmp_path / "vectors.parquet"]]) == 1
    assert "not a model of the train stage" in capsys.readouterr().err
    assert not (tmp_path / "vectors.parquet").exists()
