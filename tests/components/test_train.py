import csv
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from catalog import store
from catalog.schema import DataError
from components.params import TrainParams
from components.train import prepare, train
from fusion.featurizer import FILES
from fusion.model import ProductSearchModel, embed
from pipelines import processes

SMALL = TrainParams(epochs=2, dim=16, hidden=16, batch_size=64)


def test_what_it_leaves(model: Path, features: Path) -> None:
    with (model / "history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert {"loss", "text", "vision", "fused", "score"} <= set(history[0])
    for name in FILES:
        assert (model / name).read_bytes() == (features / name).read_bytes()
    assert not list(model.glob("*checkpoint*"))
    assert ProductSearchModel.load(model).config.dim == 16


def test_the_same_seed_gives_the_same_model(model: Path, features: Path, tmp_path: Path) -> None:
    train(features, SMALL, tmp_path / "again")
    assert store.fingerprint(tmp_path / "again") == store.fingerprint(model)
    train(features, SMALL.model_copy(update={"seed": 1}), tmp_path / "other")
    assert (tmp_path / "other" / "weights.safetensors").read_bytes() != (
        model / "weights.safetensors"
    ).read_bytes()


def test_it_does_not_see_the_test_split(model: Path, features: Path, tmp_path: Path) -> None:
    """Not even its queries: without them, the same weights."""
    shutil.copytree(features, tmp_path / "features")
    for path in (tmp_path / "features" / "queries").iterdir():
        table = pq.read_table(path)
        assert "test" in table["splits"].to_pylist()
        pq.write_table(table.filter(pc.not_equal(table["splits"], "test")), path)
    train(tmp_path / "features", SMALL, tmp_path / "model")
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() == (
        model / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("split", "message"), [("train", "nothing to train on"), ("valid", "early stopping")]
)
def test_a_split_without_judgements(features: Path, tmp_path: Path, split: str, message: str) -> None:
    shutil.copytree(features, tmp_path / "features")
    queries = pq.read_table(tmp_path / "features" / "queries")
    query_ids = queries.filter(pc.equal(queries["splits"], split))["ids"].combine_chunks()
    path = tmp_path / "features" / "judgements.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.invert(pc.is_in(table["query_id"], query_ids))), path)
    with pytest.raises(DataError, match=f"no judged query has the split '{split}'; .*{message}"):
        train(tmp_path / "features", SMALL, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_validation_heeds_those_who_judge_best(features: Path, tmp_path: Path) -> None:
    """With some queries judged by people and the rest by clicks or derived, it is as with the former alone."""
    shutil.copytree(features, tmp_path / "features")
    queries = pq.read_table(tmp_path / "features" / "queries")
    query_ids = queries.filter(pc.equal(queries["splits"], "valid"))["ids"].to_pylist()
    path = tmp_path / "features" / "judgements.parquet"
    table = pq.read_table(path)
    assert set(table["judged_by"].to_pylist()) == {"derived"}
    people = query_ids[:3]
    rows = [
        row | {"judged_by": "human" if row["query_id"] in people else "implicit"} for row in table.to_pylist()
    ]
    scores = {}
    for name, selected in {
        "all": rows,
        "people's": [row for row in rows if row["query_id"] not in query_ids[3:]],
        "one kind": [row | {"judged_by": "human"} for row in rows],
    }.items():
        pq.write_table(pa.Table.from_pylist(selected, schema=table.schema), path)
        network, training, validate = prepare(tmp_path / "features", SMALL)
        scores[name] = validate(network.eval(), embed(network, training.products, "product"))
    assert scores["all"] == scores["people's"] != scores["one kind"]


def test_a_learning_rate_that_is_too_high(features: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) in epoch \d+, step \d+; lower train"):
        train(features, SMALL.model_copy(update={"learning_rate": 1e30, "epochs": 5}), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_a_process_that_fails_is_one_message(features: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train: one of 2 processes failed"):
        processes.train_on_gpus(
            features, SMALL.model_copy(update={"learning_rate": 1e9}), tmp_path / "two", processes=2
        )
    assert not (tmp_path / "two").exists()
