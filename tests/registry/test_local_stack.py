"""MLflow as a team runs it: its own server, with PostgreSQL and S3."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml

from catalog.schema import DataError
from components.params import RegisterParams
from components.register import register
from registry import local_stack, mlflow_store
from registry.model_registry import ModelRegistry

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.services
PARAMS = RegisterParams(floors={"ndcg@10": 0.0}, budgets={}, baselines={}, min_queries=2)


@dataclass
class Team:
    """Where MLflow is, and how to stop and start it."""

    port: int
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    try:
        local_stack.find_postgres_binaries()
    except DataError as error:
        pytest.skip(str(error))
    # Not in pytest's folder, into which PostgreSQL's user may not look.
    root = Path(tempfile.mkdtemp(prefix="vitrine-"))
    root.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        database = stack.enter_context(
            local_stack.run_postgres(root / "postgres", local_stack.find_free_port())
        )
        env = stack.enter_context(local_stack.run_s3(root / "s3", local_stack.find_free_port()))
        port = local_stack.find_free_port()

        def start() -> subprocess.Popen[bytes]:
            return stack.enter_context(
                local_stack.run_mlflow_server(root, port, database, f"s3://{local_stack.BUCKET}", env)
            )

        yield Team(port, start, start())


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a registered model that only this test uses."""
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def client(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[MlflowClient]":
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.address)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    yield mlflow_store.connect()
    mlflow.set_tracking_uri(None)


def test_the_chain_registers_and_the_model_answers(
    client: "MlflowClient",
    data: Path,
    report: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    name: str,
) -> None:
    import mlflow
    import pandas as pd

    params = PARAMS.model_copy(update={"model_name": name, "promote": "auto"})
    register(data, report, twin, index, evaluation, params, tmp_path / "out")
    version = client.get_model_version_by_alias(name, "champion")
    assert version.tags["vitrine.gate"] == "passed"
    assert len(version.description or "") <= 5000
    run = client.get_run(version.run_id)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    listed = {artifact.path for artifact in client.list_artifacts(version.run_id)}
    assert {"evaluation", "registration.json", "model_card.md"} <= listed
    served = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    assert len(served.predict(pd.DataFrame({"text": ["red shirt"]}), params={"k": 3})) == 3
    assert [move.how for move in ModelRegistry(client, name).history.list_moves()] == [
        "promoted by the chain"
    ]


@pytest.mark.usefixtures("warm_start")
def test_of_two_processes_that_promote_at_once_one_wins(
    client: "MlflowClient", tmp_path: Path, name: str
) -> None:
    registry = ModelRegistry(client, name)
    experiment = mlflow_store.ensure_experiment(client, mlflow_store.EXPERIMENT)
    for _ in range(3):
        run = client.create_run(experiment).info.run_id
        tags = {"vitrine.gate": "passed", "vitrine.compared_with": ""}
        artifacts = {"index": {"path": "artifacts/index"}}  # promote refuses a version without files or index
        flavours = {"flavors": {"python_function": {"artifacts": artifacts}}}
        client.log_text(run, yaml.safe_dump(flavours), "model/MLmodel")
        client.log_text(run, "", "model/artifacts/index/marker.json")
        client.create_model_version(name, f"runs:/{run}/model", run, tags)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"register": {"model_name": name}}))
    words = [sys.executable, "-m", "registry", "promote"]
    racing = [
        subprocess.Popen([*words, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in (1, 2, 3)
    ]
    results = [(*process.communicate(timeout=120), process.returncode) for process in racing]
    (winner,) = (number for number, (_, _, code) in enumerate(results, start=1) if code == 0)
    assert results[winner - 1][0] == f"version {winner} is the champion; before, there was no champion\n"
    for number, (out, err, code) in enumerate(results, start=1):
        if number != winner:
            assert (out, code) == ("", 1)
            assert f"version {number} is not promoted" in err and "Traceback" not in err
    assert registry.reconcile_and_warn() == registry.find_by_alias("champion") == str(winner)
    assert [move.new for move in registry.history.list_moves()] == [str(winner)]


def test_a_copy_by_mlflows_page_that_bypasses_the_gate_is_recorded(
    client: "MlflowClient", team: Team, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the request that its button "Promote model" sends."""
    ModelRegistry(client, name)
    run = client.create_run(mlflow_store.ensure_experiment(client, mlflow_store.EXPERIMENT)).info.run_id
    client.create_model_version(name, f"runs:/{run}/model", run, {"vitrine.gate": "undecided"})
    client.create_registered_model(f"{name}-shop")
    body = {"name": f"{name}-shop", "source": f"models:/{name}/1", "run_id": run}
    page = f"{team.address}/ajax-api/2.0/mlflow/model-versions/create"
    requests.post(page, json=body, timeout=60).raise_for_status()
    for _ in range(2):
        ModelRegistry(client, name).reconcile_and_warn()
    (copy,) = ModelRegistry(client, name).history.list_copies()
    assert (copy.version, copy.model, copy.number, copy.verdict) == ("1", f"{name}-shop", "1", "undecided")
    warning = (
        f"{name}: warning: version 1 was copied in MLflow as {name}-shop version 1, but its gate is undecided"
    )
    assert capsys.readouterr().err.count(warning) == 2


def test_a_server_that_is_away_for_a_while_does_no_harm(
    client: "MlflowClient",
    team: Team,
    data: Path,
    report: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """Killed in the middle of the stage, and back ten seconds later."""
    params = PARAMS.model_copy(update={"model_name": name, "promote": "auto"})
    failed: list[BaseException] = []

    def work() -> None:
        try:
            register(data, report, twin, index, evaluation, params, tmp_path / "out")
        except BaseException as error:
            failed.append(error)
            raise

    stage = threading.Thread(target=work)
    stage.start()
    end = time.monotonic() + 180
    while not (tmp_path / ".out.partial").exists() or not client.search_registered_models(f"name = '{name}'"):
        assert time.monotonic() < end and stage.is_alive()
        time.sleep(0.05)
    team.kill()
    time.sleep(10)
    assert stage.is_alive(), failed
    team.process = team.start()
    stage.join(300)
    assert not failed and not stage.is_alive()
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.tags["vitrine.gate"] == "passed"
    assert set(client.get_registered_model(name).aliases) == {"champion"}
    experiment = client.get_run(version.run_id).info.experiment_id
    logged = client.search_logged_models([experiment], f"source_run_id = '{version.run_id}'")
    assert len(logged) == 1
    assert [move.new for move in ModelRegistry(client, name).history.list_moves()] == ["1"]


def test_a_server_that_stays_away_is_one_clear_message_and_nothing_is_lost(
    client: "MlflowClient",
    team: Team,
    data: Path,
    report: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from registry import comparison as module

    params = PARAMS.model_copy(update={"model_name": name})
    decide = module.decide

    def stop_server(*arguments: Any) -> Any:
        team.kill()
        return decide(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decide", stop_server)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        with pytest.raises(DataError, match=r"MLflow at http://127.0.0.1:\d+ cannot be reached, or refuses"):
            register(data, report, twin, index, evaluation, params, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    team.process = team.start()
    register(data, report, twin, index, evaluation, params, tmp_path / "out")
    assert len(client.search_model_versions(f"name = '{name}'")) == 1
    assert set(client.get_registered_model(name).aliases) == {"challenger"}
