"""Ranking from arrays, from a data set, and by the command."""

import json
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
from fusion.featurizer import SETTINGS, Featurizer
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import rank_data, rank_products
from fusion.search.hybrid import Hybrid

ROOT = Path(__file__).parents[3]


def group_by_query(run: pa.Table) -> dict[str, list[tuple[str, float]]]:
    rankings: dict[str, list[tuple[str, float]]] = {}
    for row in run.to_pylist():
        rankings.setdefault(row["query_id"], []).append((row["product_id"], row["score"]))
    return rankings


@pytest.mark.parametrize("only", [MODALITIES, ("text",), ("image",)])
def test_rank(make_model: Callable[..., ProductSearchModel], world: Any, only: tuple[str, ...]) -> None:
    model, products = make_model(), world.training.products
    run = rank_products(model, world.held_out_queries, products, 7, only)
    assert run.schema.types == [pa.string(), pa.string(), pa.float64()]
    scores = embed(model, world.held_out_queries, "query") @ embed(model, products, "product", only).T
    rankings = group_by_query(run)
    assert list(rankings) == world.held_out_queries.ids.tolist()
    for row, first in zip(scores, rankings.values(), strict=True):
        order = np.argsort(-row, kind="stable")[:7]
        assert [item for item, _ in first] == products.ids[order].tolist()
        np.testing.assert_allclose([score for _, score in first], row[order], atol=1e-6)


def test_rank_data_ranks_one_split_from_texts_and_pictures(saved: Path, tiny_data: Path) -> None:
    rankings = group_by_query(rank_data(saved, tiny_data, "test", 5))
    assert list(rankings) == ["q4", "q5"]
    model, featurizer = ProductSearchModel.load(saved), Featurizer.load(saved)
    queries, products = (featurizer.featurize_table(tiny_data, table) for table in ("queries", "products"))
    scores = embed(model, queries, "query")[4:] @ embed(model, products, "product").T
    for row, first in zip(scores, rankings.values(), strict=True):
        assert len({item for item, _ in first}) == 5
        np.testing.assert_allclose([score for _, score in first], np.sort(row)[::-1][:5], atol=1e-6)


def test_rank_data_reads_the_text_on_pictures(
    saved: Path,
    tiny_tables: dict[str, list[dict[str, Any]]],
    write_data: Callable[[dict[str, list[dict[str, Any]]]], Path],
    png: Callable[..., bytes],
    widths: str,
    tmp_path: Path,
) -> None:
    """By a hybrid in which BM25 has all the weight."""
    tiny_tables["products"][7]["images"][0]["bytes"] = png(7, 60)
    tiny_tables["queries"][4]["text"] = "60 pixels"
    data = write_data(tiny_tables)
    shutil.copytree(saved, tmp_path / "model")
    settings = json.loads((saved / SETTINGS).read_text())
    (tmp_path / "model" / SETTINGS).write_text(json.dumps(settings | {"ocr": widths}))
    Hybrid(0.0, 12).save(tmp_path / "hybrid.json")
    rankings = group_by_query(rank_data(tmp_path / "model", data, "test", 3, hybrid=tmp_path / "hybrid.json"))
    assert rankings["q4"][0][0] == "p7"


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
    run = pq.read_table(path)
    assert run.column("query_id").equals(expected.column("query_id"))
    assert run.column("product_id").equals(expected.column("product_id"))
    np.testing.assert_allclose(run["score"].to_numpy(), expected["score"].to_numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("fault", "message_part"),
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
    message_part: str,
) -> None:
    paths = {"model": saved, "data": tiny_data, "run": tmp_path / "run.parquet"}
    if fault == "broken":
        paths["model"] = shutil.copytree(saved, tmp_path / "model")
        (tmp_path / "model" / "config.json").write_text("{")
    else:
        paths[fault] = tmp_path / "nowhere" / "x"
    assert main(command(paths["model"], paths["data"], paths["run"])) == 1
    messages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vitrine: ")]
    assert len(messages) == 1
    assert message_part in messages[0]
    assert not (tmp_path / "run.parquet").exists()
