"""The pipeline on this machine: what is reused and what is not, one shard and several, processes and containers."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import warm_python
from containers import run_in_container
from dvc_repository import add_and_push

from catalog.sample import write_sample
from catalog.schema import DataError
from components.featurize import FILE_ROWS
from components.params import SECTIONS, load_pipeline_params
from pipelines import local
from pipelines.__main__ import main
from pipelines.cluster import Cluster
from pipelines.definitions import PIPELINES, load_parameters
from pipelines.local import run_pipeline
from registry import mlflow_store
from registry.__main__ import main as registry_main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "train": {"epochs": 1, "dim": 16, "hidden": 16},
    "register": {"floors": {"ndcg@10": 0.0}, "baselines": {}, "min_queries": 2, "budgets": {}},
}
RUN_STEP = "kfp.local.subprocess_task_handler.run_local_subprocess"  # its own processes: in test_chain
PLANTED = "hunter2-planted"
WHO = ["-c", "user.name=shop", "-c", "user.email=shop"]


def run_step(full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
    """Run a step of kfp's local runner, in place of `run_local_subprocess`; returns its exit code."""
    shell, _, _, source, *arguments = full_command
    assert shell == "sh" and "import kfp" in source
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        module = Path(folder) / "ephemeral_component.py"
        module.write_text(source)
        words = ["-m", "kfp.dsl.executor_main", "--component_module_path", str(module), *arguments]
        environment = {**os.environ, **(env_vars or {}), "_KFP_RUNTIME": "true"}
        process = warm_python.start(words, Path.cwd(), environment, log.fileno())
        process.join()
        log.seek(0)
        print(log.read())
    assert process.exitcode is not None
    return process.exitcode


class Shop:
    """A git repository whose data DVC versions, with a remote inside it, as in this project."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / ".dvc").mkdir(parents=True)
        for name in (".dvc/config", ".gitignore"):
            shutil.copy(ROOT / name, root / name)
        self.git("init", "--quiet")

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, data: Path) -> str:
        shutil.rmtree(self.root / "data", ignore_errors=True)
        shutil.copytree(data, self.root / "data")
        add_and_push(self.root)
        self.git("add", "--all")
        self.git(*WHO, "commit", "--quiet", "--allow-empty", "--message", "data")
        return self.git("rev-parse", "HEAD")


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    content = load_pipeline_params(ROOT / "params.yaml")
    return {name: content[name] | SMALL.get(name, {}) for name in SECTIONS}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose features fill two files."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    write_sample(folder, products=FILE_ROWS + 50, seed=5, queries=60, workers=1)
    return folder


@pytest.fixture(scope="module")
def shop(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("repositories") / "shop")
    shop.commit(data)
    return shop


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(autouse=True)
def tracking(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes artifacts into the working directory; steps start at once."""
    monkeypatch.setattr(RUN_STEP, run_step)
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")


def latest_run(root: Path, pipeline: str = "training") -> Path:
    """The folder of the latest run of a pipeline."""
    return max(root.glob(f"vitrine-{pipeline}-*"), key=lambda path: path.name)


def executed_steps(root: Path, pipeline: str = "training") -> set[str]:
    """Steps of the latest run of a pipeline that were not reused."""
    return {path.parent.name for path in latest_run(root, pipeline).rglob("executor_output.json")}


def metrics(root: Path) -> Any:
    return json.loads((latest_run(root) / "evaluate" / "evaluation" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def first(shop: Shop, params: dict[str, Any], root: Path, empty_store: Path) -> Any:
    """Metrics of a first run."""
    shutil.copy(empty_store, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch, (root / "log").open("w") as log, redirect_stdout(log):
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        patch.setattr(RUN_STEP, run_step)
        for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GIT_PASSWORD", "VITRINE_WEBHOOK"):
            patch.setenv(name, PLANTED)
        run_pipeline(str(shop.root), "HEAD", params, root, cache=True)
    assert executed_steps(root) == {"resolve", "fetch", "require-valid", *SECTIONS}
    return metrics(root)


def test_no_secret_of_the_environment_is_written_anywhere(first: Any, root: Path) -> None:
    """Not in outputs or logs of steps, in KFP's files, or in MLflow's store."""
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {"mlflow.db", "MLmodel", "log", "executor_output.json"} <= {path.name for path in files}
    assert "Executing task" in (root / "log").read_text()
    for path in files:
        assert PLANTED.encode() not in path.read_bytes(), path


def test_without_a_change_only_what_looks_elsewhere_runs(
    first: Any, shop: Shop, params: dict[str, Any], root: Path
) -> None:
    """The commit is new, but not the data."""
    shop.git(*WHO, "commit", "--quiet", "--allow-empty", "--message", "code")
    run_pipeline(str(shop.root), "HEAD", params, root, cache=True)
    assert executed_steps(root) == {"resolve", "register"}


def test_data_that_are_not_valid_end_the_run_and_leave_their_report(
    first: Any,
    shop: Shop,
    data: Path,
    params: dict[str, Any],
    root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each product stands in them twice."""
    shutil.copytree(data, tmp_path / "changed")
    file = next((tmp_path / "changed" / "products").glob("*.parquet"))
    shutil.copy(file, file.with_stem("again"))
    shop.commit(tmp_path / "changed")
    try:
        with pytest.raises(DataError, match="require-valid"):
            run_pipeline(str(shop.root), "HEAD", params, root, cache=True)
    finally:
        shop.git("reset", "--quiet", "--hard", "HEAD~1")
    assert executed_steps(root) == {"resolve", "fetch", "validate"}
    report = latest_run(root) / "validate" / "report"
    assert not json.loads((report / "report.json").read_text())["passed"]
    output = capfd.readouterr().out
    assert "rules fail" in output and f"The full report is {report / 'data.html'}" in output


def test_steps_are_known_by_their_code(shop: Shop, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's name is in the key of KFP's cache."""
    names = []

    def record_image(cluster: Cluster, _: str) -> Any:
        names.append(cluster.image("train", ""))
        raise RuntimeError

    training = PIPELINES["training"]._replace(build=record_image)
    monkeypatch.setitem(PIPELINES, "training", training)
    for change in ("one", "one", "two"):
        monkeypatch.setattr(local, "hash_code", lambda change=change: change)
        with pytest.raises(DataError):
            run_pipeline(str(shop.root), "HEAD", {}, root)
    assert names == ["vitrine:python-one", "vitrine:python-one", "vitrine:python-two"]


def test_three_shards_lead_to_the_same_metrics(
    first: Any, shop: Shop, params: dict[str, Any], root: Path
) -> None:
    """Features of other steps are other artifacts, although their bytes are the same: what follows runs again."""
    run_pipeline(str(shop.root), "HEAD", params, root, shards=3, cache=True)
    repeated = {"featurize-shard", "gather", "train", "index", "evaluate"}
    assert executed_steps(root) == {"resolve", "register"} | repeated
    assert len(list(latest_run(root).glob("*/featurize-shard"))) == 3
    assert metrics(root) == first


@pytest.mark.docker
def test_containers_give_the_same_metrics(
    image: str,
    first: Any,
    shop: Shop,
    params: dict[str, Any],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each with a read-only root, no privileges, and a user that is not root."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for folder in (tmp_path, *tmp_path.parents[:2], *shop.root.parents[:3]):
        folder.chmod(0o755)  # pytest's are for its own user alone
    run_pipeline(str(shop.root), "HEAD", params, tmp_path / "pipeline", image=image, shards=2)
    assert metrics(tmp_path / "pipeline") == first
    assert (tmp_path / "pipeline" / "mlflow.db").stat().st_uid != 0
    assert "featurize-shard" in executed_steps(tmp_path / "pipeline")


@pytest.mark.docker
def test_an_image_holds_no_tests_no_compiler_and_no_installer(image: str) -> None:
    script = "import importlib.util, shutil; print([*filter(shutil.which, ['gcc', 'cc', 'c++', 'make'])],"
    script += " [name for name in ('pip', 'pytest', 'tests') if importlib.util.find_spec(name)])"
    output = run_in_container(image, ["python", "-c", script], read_only=True)
    assert output.decode().strip() == "[] []"


@pytest.mark.docker
def test_compiled_elsewhere_it_is_the_same_file(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an image with another Python and other libraries, like another machine."""
    monkeypatch.setenv("VITRINE_COMMIT", "abc")
    arguments = ["compile", "--params", str(ROOT / "params.yaml"), "--output", str(tmp_path / "here.yaml")]
    assert main(arguments) == 0
    output = run_in_container(
        image,
        "sh -c 'python -m pipelines compile --params /params.yaml --output /tmp/there.yaml && cat /tmp/there.yaml'",
        volumes=[f"{ROOT / 'params.yaml'}:/params.yaml:ro"],
        environment={"VITRINE_COMMIT": "abc"},
    )
    assert output == (tmp_path / "here.yaml").read_bytes()


def rename_product(data: Path, title: str) -> None:
    """Give the first product of a data set another title."""
    file = next((data / "products").glob("*.parquet"))
    table = pq.read_table(file)
    place = table.schema.get_field_index("title")
    titles = pa.array([title, *table["title"].to_pylist()[1:]], table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), titles), file)


def test_a_refresh_encodes_and_publishes_what_changed(
    first: Any, shop: Shop, data: Path, root: Path, tmp_path: Path
) -> None:
    """With the champion's own code. Without a further change, there is nothing to do."""
    assert registry_main(["--params", str(ROOT / "params.yaml"), "promote", "1"]) == 0
    shutil.copytree(data, tmp_path / "changed")
    rename_product(tmp_path / "changed", "emerald teapot")
    shop.commit(tmp_path / "changed")
    params = load_parameters(PIPELINES["refresh"], ROOT / "params.yaml", ROOT / "serving.yaml")
    outcomes, executed = [], []
    for _ in range(2):
        run_pipeline(str(shop.root), "HEAD", params, root, cache=True, pipeline="refresh")
        path = latest_run(root, "refresh") / "refresh" / "outcome" / "refresh.json"
        outcomes.append(json.loads(path.read_text()))
        executed.append(executed_steps(root, "refresh"))
    assert [outcome["status"] for outcome in outcomes] == ["published", "nothing changed"]
    assert outcomes[0]["counts"]["changed"] == outcomes[0]["counts"]["encoded"] == 1
    version = mlflow_store.connect().get_model_version("product-search", "1")
    assert version.tags["vitrine.index"] == outcomes[0]["index"]
    assert executed == [
        {"resolve", "fetch", "validate", "require-valid", "refresh"},
        {"resolve", "refresh"},
    ]
