"""Ranking from arrays, from a data set, and by the command."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.schema import DataError
from fusion.__main__ import main
from fusion.features import MODALITIES
from fusion.featurizer import Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import SearchIndex, load, rank, rank_data
from fusion.search.explanations import explain_data
from fusion.search.vector_index import Lists

ROOT = Path(__file__).parents[3]


def lists(run: pa.Table) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for row in run.to_pylist():
        found.setdefault(row["query_id"], []).append((row["product_id"], row["score"]))
    return found


def drawn(model: ProductSearchModel, count: int) -> np.ndarray:
    """Vectors as the model makes them of queries."""
    return np.random.default_rng(0).normal(size=(count, model.config.dim)).astype(np.float32)


@pytest.mark.parametrize("only", [MODALITIES, ("text",), ("image",)])
def test_rank(make_model: Callable[..., ProductSearchModel], world: Any, only: tuple[str, ...]) -> None:
    model, products = make_model(), world.training.products
    run = rank(model, world.asked, products, 7, only)
    assert run.schema.types == [pa.string(), pa.string(), pa.float64()]
    scores = embed(model, world.asked, "query") @ embed(model, products, "product", only).T
    found = lists(run)
    assert list(found) == world.asked.ids.tolist()
    for row, first in zip(scores, found.values(), strict=True):
        order = np.argsort(-row, kind="stable")[:7]
        assert [item for item, _ in first] == products.ids[order].tolist()
        np.testing.assert_allclose([score for _, score in first], row[order], atol=1e-6)


def test_index_survives_saving(saved: Path, tiny_data: Path, tmp_path: Path) -> None:
    model, products = ProductSearchModel.load(saved), Featurizer.load(saved).table(tiny_data, "products")
    index = SearchIndex.build(model, products, tiny_data, drawn(model, 3))
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
        "price": 10.0,
        "currency": None,
    }
    assert np.array_equal(loaded.vectors, embed(model, products, "product"))
    assert list(loaded.without) == list(model.config.modalities)
    for name, vectors in loaded.without.items():
        assert vectors.dtype == np.float16 and np.array_equal(vectors, index.without[name])
    assert loaded.nbytes == loaded.vectors.nbytes * (1 + len(loaded.without) / 2)
    assert loaded.lists is None


def test_a_large_catalogue_has_lists(
    saved: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, products = ProductSearchModel.load(saved), Featurizer.load(saved).table(tiny_data, "products")
    wide = np.eye(model.config.dim, dtype=np.float32).repeat(50, axis=0)
    large, queries = Lists.build(wide, wide[:3]), drawn(model, 3)
    small = SearchIndex.build(model, products, tiny_data, queries)
    asked = []
    monkeypatch.setattr("fusion.search.catalogue_search.WORTH_IT", len(products) - 1)
    monkeypatch.setattr(Lists, "build", lambda *vectors: asked.append(vectors) or large)
    built = SearchIndex.build(model, products, tiny_data, queries)
    ((vectors, shown),) = asked
    assert vectors is built.vectors and shown is queries
    built.save(tmp_path / "index")
    loaded = SearchIndex.load(tmp_path / "index")
    assert loaded.lists and loaded.nbytes == small.nbytes + large.nbytes
    monkeypatch.setattr(Lists, "top_k", lambda _, *rest: rest)
    allowed = np.ones(len(products), bool)
    assert all(
        one is other or np.array_equal(one, other)
        for one, other in zip(
            loaded.search(queries, 4, allowed), (queries, built.vectors, 4, allowed), strict=True
        )
    )


def test_shares_are_of_what_explain_finds(saved: Path, tiny_data: Path) -> None:
    model, featurizer = load(saved)
    products, asked = (featurizer.table(tiny_data, table) for table in ("products", "queries"))
    index = SearchIndex.build(model, products, tiny_data, drawn(model, 3))
    (query,) = embed(model, asked.take(np.array([4])), "query")
    at = np.arange(3)
    shares = index.shares(query, at, index.vectors[at] @ query)
    for n in at:
        told = explain_data(saved, tiny_data, asked.ids[4], products.ids[n]).modalities
        losses = {name: max(0.0, loss) for name, loss in told.items()}
        total = sum(losses.values())
        for name, loss in losses.items():
            assert shares[name][n] == pytest.approx(loss / total if total > 1e-3 else 0.0, abs=0.02)


def test_rank_data_ranks_one_split_from_texts_and_pictures(saved: Path, tiny_data: Path) -> None:
    found = lists(rank_data(saved, tiny_data, "test", 5))
    assert list(found) == ["q4", "q5"]
    model, featurizer = ProductSearchModel.load(saved), Featurizer.load(saved)
    queries, products = (featurizer.table(tiny_data, table) for table in ("queries", "products"))
    scores = embed(model, queries, "query")[4:] @ embed(model, products, "product").T
    for row, first in zip(scores, found.values(), strict=True):
        assert len({item for item, _ in first}) == 5
        np.testing.assert_allclose([score for _, score in first], np.sort(row)[::-1][:5], atol=1e-6)


def test_no_query_of_the_split(
    saved: Path,
    tiny_tables: dict[str, list[dict[str, Any]]],
    write_data: Callable[[dict[str, list[dict[str, Any]]]], Path],
) -> None:
    queries = [query for query in tiny_tables["queries"] if query["split"] != "valid"]
    with pytest.raises(DataError, match="no query has the split 'valid'"):
        rank_data(saved, write_data(tiny_tables | {"queries": queries}), "valid", 5)


def command(saved: Path, data: Path, run: Path) -> list[str]:
    return ["rank", "--model", str(saved), "--data", str(data), "--depth", "3", "--run", str(run)]


def test_command(saved: Path, tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    done = subprocess.run(
        [sys.executable, "-m", "fusion", *command(saved, tiny_data, path)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = rank_data(saved, tiny_data, "test", 3)
    found = pq.read_table(path)
    assert found.column("query_id").equals(expected.column("query_id"))
    assert found.column("product_id").equals(expected.column("product_id"))
    np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("model", "nowhere"),
        ("data", "nowhere"),
        ("run", "nowhere"),
        ("broken", "not a model of the train stage"),
    ],
)
def test_command_on_a_bad_path(
    saved: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    told: str,
) -> None:
    paths = {"model": saved, "data": tiny_data, "run": tmp_path / "run.parquet"}
    if fault == "broken":
        paths["model"] = shutil.copytree(saved, tmp_path / "model")
        (tmp_path / "model" / "config.json").write_text("{")
    else:
        paths[fault] = tmp_path / "nowhere" / "x"
    assert main(command(paths["model"], paths["data"], paths["run"])) == 1
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vitrine: ")]
    assert len(message) == 1
    assert told in message[0]
    assert not (tmp_path / "run.parquet").exists()
