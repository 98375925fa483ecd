"""The chain with an image encoder that training tunes: torchvision's, with random weights from a file."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from chain_fixtures import index_and_evaluate
from safetensors.torch import load_file, save_file

from catalog.schema import DataError
from components.featurize import featurize
from components.index import index
from components.params import EvaluateParams, FeaturizeParams, IndexParams, TrainParams, Tune
from components.train import train
from fusion.featurizer import Featurizer, load_items
from fusion.search.catalogue_search import rank_data
from pipelines import processes
from scoring.systems import CANDIDATE

pytestmark = pytest.mark.slow

TUNED = TrainParams(
    epochs=2, dim=16, hidden=16, batch_size=32, dropout=0.0, fusion="attention", tune=Tune(image="last_1")
)


@pytest.fixture(scope="module")
def features(data: Path, report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torchvision

    folder = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(0)
    save_file(torchvision.models.resnet18(weights=None).state_dict(), folder / "resnet18.safetensors")
    params = FeaturizeParams(
        image_encoder="resnet18",
        image_weights=str(folder / "resnet18.safetensors"),
        image_size=32,
        image_grid=1,
        keep_pictures=True,
    )
    featurize(data, report, params, folder / "features")
    return folder / "features"


@pytest.fixture(scope="module")
def model(features: Path) -> Path:
    train(features, TUNED, features.parent / "model")
    return features.parent / "model"


@pytest.fixture
def without_pictures(features: Path, tmp_path: Path) -> Path:
    out = tmp_path / "features"
    shutil.copytree(features, out, ignore=shutil.ignore_patterns("*.npy"))
    return out


def test_the_encoder_is_the_models_own(features: Path, model: Path) -> None:
    before, after = (load_file(folder / "encoder.safetensors") for folder in (features, model))
    assert before.keys() == after.keys()
    moved = {name for name, value in before.items() if not value.equal(after[name])}
    weights = {name for name in before if name.startswith("network.layer4.")}
    assert moved == {name for name in weights if name.endswith(("weight", "bias"))}
    assert not any("encoder" in name for name in load_file(model / "weights.safetensors"))


def test_the_tuned_encoder_runs_in_pytorch(features: Path, model: Path) -> None:
    runtimes = [
        json.loads((folder / "featurizer.json").read_text())["runtime"] for folder in (features, model)
    ]
    assert runtimes == ["openvino", "torch"]
    assert Featurizer.load(model).session.name == "torch"


def test_pictures_that_were_kept_are_encoded_again(data: Path, features: Path, model: Path) -> None:
    reader = Featurizer.load(model)
    for table in ("products", "queries"):
        items, expected = (
            load_items(features, table, model, regions=True),
            reader.featurize_table(data, table),
        )
        np.testing.assert_allclose(items.images, expected.images, atol=2e-3, rtol=1e-2)
        np.testing.assert_allclose(items.regions, expected.regions, atol=2e-3, rtol=1e-2)
        stored = load_items(features, table, features).images
        assert np.abs(items.images - stored)[items.has_image].max() > 0.02


def test_evaluation_and_search_rank_alike(data: Path, features: Path, model: Path, tmp_path: Path) -> None:
    index_and_evaluate(data, features, model, EvaluateParams(depth=10), tmp_path)
    judged = pq.read_table(tmp_path / "evaluation" / "runs" / f"{CANDIDATE}.parquet").to_pydict()
    ranked = rank_data(model, data, "test", 10).to_pydict()
    keys = ("query_id", "product_id", "score")
    ours, theirs = (
        {(q, p): s for q, p, s in zip(*(run[k] for k in keys), strict=True)} for run in (judged, ranked)
    )
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 0.98 * len(ours)
    assert max(abs(ours[pair] - theirs[pair]) for pair in shared) < 1e-3


def test_without_pictures(data: Path, without_pictures: Path, model: Path, tmp_path: Path) -> None:
    message = r"000000\.npy: featurize kept no pictures; set featurize\.keep_pictures: true"
    with pytest.raises(DataError, match=message):
        train(without_pictures, TUNED, tmp_path / "model")
    with pytest.raises(DataError, match=message):
        index(data, without_pictures, model, IndexParams(), tmp_path / "index")
    assert not (tmp_path / "model").exists() and not (tmp_path / "index").exists()


def test_more_layers_than_there_are(features: Path, tmp_path: Path) -> None:
    params = TUNED.model_copy(update={"tune": Tune(image="last_7")})
    with pytest.raises(
        DataError, match=r"train\.tune\.image: last_7, but the encoder has 6 layers \(.*layer4"
    ):
        train(features, params, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_two_processes_train_the_model_and_the_encoder_of_one(
    features: Path, model: Path, tmp_path: Path
) -> None:
    """Up to rounding; nothing is dropped. One of them writes."""
    processes.train_on_gpus(features, TUNED, tmp_path / "two", processes=2)
    histories = []
    for folder in (model, tmp_path / "two"):
        with (folder / "history.csv").open() as stream:
            histories.append([float(row["loss"]) for row in csv.DictReader(stream)])
    assert histories[1] == pytest.approx(histories[0], rel=1e-3)
    start, single, double = (
        load_file(folder / "encoder.safetensors") for folder in (features, model, tmp_path / "two")
    )
    steps = {name: (single[name] - start[name]).abs().max() for name in single}
    differences = {name: (single[name] - double[name]).abs().max() for name in single if steps[name] > 0}
    assert differences and sum(differences.values()) < 0.2 * sum(steps[name] for name in differences)
    single, double = (load_file(folder / "weights.safetensors") for folder in (model, tmp_path / "two"))
    assert single.keys() == double.keys()
    assert max((single[key] - double[key]).abs().max() for key in single) < 0.05


@pytest.fixture(scope="module")
def clip_features(data: Path, report: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    params = FeaturizeParams(
        text_encoder=f"clip:{clip}",
        image_encoder=f"clip:{clip}",
        image_size=32,
        image_grid=1,
        max_tokens=12,
        max_unreadable=1,
        keep_pictures=True,
    )
    folder = tmp_path_factory.mktemp("adapters") / "features"
    featurize(data, report, params, folder)
    return folder


ADAPTED = TUNED.model_copy(update={"tune": Tune(text="lora_4", image="lora_2"), "fusion": "concat"})


@pytest.fixture(scope="module")
def adapted(clip_features: Path) -> Path:
    train(clip_features, ADAPTED, clip_features.parent / "model")
    return clip_features.parent / "model"


def assert_similar_adapters(first: Path, second: Path) -> None:
    """Equal up to rounding, which Adam amplifies where a gradient is nearly zero."""
    single, double = (load_file(folder / "adapters.safetensors") for folder in (first, second))
    assert single.keys() == double.keys()
    size = max(float(factor.abs().max()) for name, factor in single.items() if name.endswith("left"))
    assert max(float((single[name] - double[name]).abs().max()) for name in single) < 0.2 * size


def test_adapters_of_both_towers(
    data: Path, clip_features: Path, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published weights stay as featurize wrote them; evaluation and search need no peft."""
    for name in ("text_encoder.safetensors", "encoder.safetensors"):
        assert (adapted / name).read_bytes() == (clip_features / name).read_bytes()
    adapters = load_file(adapted / "adapters.safetensors")
    left = {name: factor for name, factor in adapters.items() if name.endswith(".left")}
    ranks = {(name.partition(".")[0], factor.shape[1]) for name, factor in left.items()}
    assert ranks == {("text", 4), ("image", 2)}
    assert any(factor.any() for name, factor in left.items() if name.startswith("text."))
    monkeypatch.setitem(sys.modules, "peft", None)
    test_evaluation_and_search_rank_alike(data, clip_features, adapted, tmp_path)


def test_chunks_and_gradient_checkpointing_train_the_same(
    clip_features: Path, adapted: Path, tmp_path: Path
) -> None:
    params = ADAPTED.model_copy(update={"chunk": 16, "gradient_checkpointing": True})
    train(clip_features, params, tmp_path / "model")
    assert_similar_adapters(adapted, tmp_path / "model")


@pytest.mark.usefixtures("warm_start")
def test_two_processes_train_the_adapters_of_one(clip_features: Path, adapted: Path, tmp_path: Path) -> None:
    processes.train_on_gpus(clip_features, ADAPTED, tmp_path / "two", processes=2)
    assert_similar_adapters(adapted, tmp_path / "two")
