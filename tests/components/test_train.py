import csv
import json
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
from fusion.__main__ import main
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


@pytest.fixture(scope="module")
def teacher(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "vectors"
    assert main(["teach", "--model", str(model), "--data", str(data), "--teacher", str(folder)]) == 0
    return folder


def test_a_teacher_changes_the_model(model: Path, features: Path, teacher: Path, tmp_path: Path) -> None:
    """Not at weight 0; the rest of the random numbers are the same."""
    for weight in (0.0, 1.0):
        params = SMALL.model_copy(update={"teacher": str(teacher), "distillation": weight})
        train(features, params, tmp_path / f"{weight}")
    weights = [
        (folder / "weights.safetensors").read_bytes()
        for folder in (model, tmp_path / "0.0", tmp_path / "1.0")
    ]
    assert weights[0] == weights[1] != weights[2]
    with (tmp_path / "1.0" / "history.csv").open() as stream:
        assert all(float(row["distillation"]) > 0 for row in csv.DictReader(stream))


def test_a_teacher_does_not_tell_about_test_queries(features: Path, teacher: Path, tmp_path: Path) -> None:
    """It writes no vector of them, and vectors from elsewhere are not read."""
    params = SMALL.model_copy(update={"teacher": str(teacher), "epochs": 1})
    train(features, params, tmp_path / "without")
    queries = pq.read_table(features / "queries", columns=["ids", "splits"])
    others = queries.filter(pc.not_equal(queries["splits"], "train"))["ids"]
    table = pq.read_table(teacher / "queries.parquet")
    assert len(others) and not pc.any(pc.is_in(table["id"], others)).as_py()
    shutil.copytree(teacher, tmp_path / "more")
    added = pa.table({"id": others, "vector": table["vector"].take([0] * len(others))}, schema=table.schema)
    pq.write_table(pa.concat_tables([table, added]), tmp_path / "more" / "queries.parquet")
    params = params.model_copy(update={"teacher": str(tmp_path / "more")})
    train(features, params, tmp_path / "with")
    assert (tmp_path / "without" / "weights.safetensors").read_bytes() == (
        tmp_path / "with" / "weights.safetensors"
    ).read_bytes()
    provenance = [
        json.loads((tmp_path / name / "made_from.json").read_text())["teacher"]
        for name in ("without", "with")
    ]
    assert provenance[0] == store.fingerprint(teacher) != provenance[1], "a killed run would start again"


def test_a_teacher_of_other_data(features: Path, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "few")
    path = tmp_path / "few" / "products.parquet"
    pq.write_table(pq.read_table(path).slice(5), path)
    with pytest.raises(DataError, match=r"products.parquet: lacks 5 of 60 ids, such as .*fusion teach"):
        train(features, SMALL.model_copy(update={"teacher": str(tmp_path / "few")}), tmp_path / "model")
    with pytest.raises(DataError, match=r"train.teacher: there is no folder 'absent'"):
        train(features, SMALL.model_copy(update={"teacher": "absent"}), tmp_path / "model")
    assert not list(tmp_path.glob("*model*"))


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
