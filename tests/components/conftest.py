"""A small chain, made stage by stage and only as far as a test asks for it."""

import json
from pathlib import Path

import pytest

from catalog import store
from catalog.sample import sample
from components.evaluate import evaluate
from components.featurize import featurize
from components.params import EvaluateParams, FeaturizeParams, TrainParams
from components.train import train

SMALL = TrainParams(epochs=2, dim=16, hidden=16, batch_size=64)
QUICK = EvaluateParams(resamples=200)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "data"
    sample(out, products=60, seed=3, queries=60, workers=1)
    asked = store.read(out, "queries", ["query_id", "split"]).to_pylist()
    with store.TableWriter(out, "satisfaction") as table:
        for number, query in enumerate(row["query_id"] for row in asked if row["split"] == "test"):
            table.write({"query_id": query, "model_version": "1", "rating": 1 + number % 5})
    return out


@pytest.fixture(scope="session")
def report(data: Path) -> Path:
    """Says that the data is valid, which test_validate looks into."""
    out = data.parent / "validate"
    out.mkdir()
    (out / "report.json").write_text(json.dumps({"data": store.fingerprint(data), "passed": True}))
    return out


@pytest.fixture(scope="session")
def features(data: Path, report: Path) -> Path:
    out = data.parent / "featurize"
    featurize(data, report, FeaturizeParams(), out)
    return out


@pytest.fixture(scope="session")
def model(features: Path) -> Path:
    out = features.parent / "train"
    train(features, SMALL, out)
    return out


@pytest.fixture(scope="session")
def evaluation(data: Path, features: Path, model: Path) -> Path:
    out = model.parent / "evaluate"
    evaluate(data, features, model, QUICK, out)
    return out
