"""A small chain; each stage runs only if a test needs it."""

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalog import store
from catalog.sample import write_sample
from components.evaluate import evaluate
from components.featurize import featurize
from components.params import EvaluateParams, FeaturizeParams, RegisterParams, TrainParams
from components.register import register
from components.train import train
from registry import mlflow_store
from registry.model_registry import ModelRegistry
from validation.champion_comparison import PROFILE
from validation.drift import profile_products

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from selenium.webdriver import Chrome

ROOT = Path(__file__).parents[1]
PROJECT_PATHS = ("data", "artifacts/validate", "artifacts/train", "artifacts/evaluate")
SMALL = TrainParams(epochs=2, dim=16, hidden=16, batch_size=64)
QUICK = EvaluateParams(resamples=200)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "data"
    write_sample(out, products=60, seed=3, queries=60, workers=1)
    queries = store.read_table(out, "queries", ["query_id", "split"]).to_pylist()
    with store.TableWriter(out, "satisfaction") as table:
        for number, query in enumerate(row["query_id"] for row in queries if row["split"] == "test"):
            table.write({"query_id": query, "model_version": "1", "rating": 1 + number % 5})
    return out


@pytest.fixture(scope="session")
def report(data: Path) -> Path:
    """A report that says the data is valid; tests of `validate` check real ones."""
    out = data.parent / "validate"
    out.mkdir()
    tables = {"products": 60, "queries": 60, "judgements": 600}
    content = {
        "data": store.fingerprint(data),
        "counts": {"tables": tables, "splits": {"train": 36, "valid": 12, "test": 12}},
        "champion": None,
        "rules": [
            {"passed": False, "says": "pictures must show more than one colour", "count": 2, "total": 60}
        ],
        "warnings": 2,
        "passed": True,
    }
    (out / "report.json").write_text(json.dumps(content))
    pq.write_table(profile_products(data, 100), out / PROFILE)
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


def copied(model: Path, folder: Path) -> Path:
    """A copy of the model, as if trained again; each copy counts as a new model."""
    shutil.copytree(model, folder)
    made_from = folder / "made_from.json"
    made_from.write_text(made_from.read_text() + "\n" * (1 + time.time_ns() % 1000))
    return folder


@pytest.fixture
def twin(model: Path, tmp_path: Path) -> Path:
    """A model that no other test has registered."""
    return copied(model, tmp_path / "twin")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with empty tables, to copy: creating them takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[MlflowClient]":
    """The client of an empty store in a new folder."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    yield mlflow_store.connect()
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def local_store(empty_store: Path) -> "Callable[[Path], AbstractContextManager[None]]":
    """Work in a folder with an empty store; child processes use it, too."""

    @contextmanager
    def enter(root: Path) -> Iterator[None]:
        import mlflow

        shutil.copy(empty_store, root / "mlflow.db")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            patch.setenv("DVC_ROOT", str(root))
            patch.setenv("MLFLOW_TRACKING_URI", "")
            patch.delenv("MLFLOW_TRACKING_URI")
            yield
            mlflow.set_tracking_uri(None)

    return enter


@pytest.fixture(scope="session")
def two_versions(request: pytest.FixtureRequest, screenshots: Path | None) -> Callable[[Path], None]:
    """Register a champion and a challenger in the current MLflow store; their files are below a folder."""
    names = ("data", "report", "model", "evaluation")
    if screenshots:
        data, report, model, evaluation = (ROOT / path for path in PROJECT_PATHS)
    else:
        data, report, model, evaluation = (request.getfixturevalue(name) for name in names)
    params = RegisterParams(floors={"ndcg@10": 0.0}, budgets={})

    def make(root: Path) -> None:
        auto = params.model_copy(update={"promote": "auto"})
        register(data, report, model, evaluation, auto, root / "one")
        register(data, report, copied(model, root / "twin"), evaluation, params, root / "two")
        # as a person may do although its gate failed: it is not better
        ModelRegistry(mlflow_store.connect(), params.model_name).update_challenger("2", earned=True)

    return make


@pytest.fixture
def keep(browser: "Chrome", screenshots: Path | None, tmp_path: Path) -> Callable[..., None]:
    """Save a small screenshot of the browser under a name."""

    def write(name: str, colors: int = 32) -> None:
        shot = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        small = shot.resize((shot.width * 65 // 100, shot.height * 65 // 100), Image.Resampling.LANCZOS)
        small.quantize(colors).save((screenshots or tmp_path) / f"{name}.png")

    return write
