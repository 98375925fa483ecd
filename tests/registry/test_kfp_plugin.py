"""Vitrine's runs beside those of KFP's MLflow plugin, on a real MLflow server."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from catalog import store
from components.params import RegisterParams
from components.register import register
from registry import local_stack, mlflow_runs, mlflow_store
from registry.model_registry import find_pipeline_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

pytestmark = pytest.mark.slow

PARAMS = RegisterParams(floors={"ndcg@10": 0.0}, budgets={})
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
END_STATES = {"FINISHED", "FAILED", "KILLED"}


class Plugin:
    """The requests that KFP 2.17.0 sends for one pipeline run: backend/src/common/plugins/mlflow/client.go.

    Args:
        address: Of MLflow's server.
        kfp_run: KFP's id of the pipeline run.
        experiment: `experiment_name` of the plugin's input.
    """

    def __init__(self, address: str, kfp_run: str, experiment: str = mlflow_store.EXPERIMENT) -> None:
        self.address = address
        self.experiment = self._ensure_experiment(experiment)
        tags = {  # BuildKFPTags in backend/src/apiserver/plugins/mlflow/run_start.go
            "kfp.pipeline_run_id": kfp_run,
            "kfp.pipeline_run_url": f"https://kfp.example/#/runs/details/{kfp_run}",
            "kfp.pipeline_id": "p",
            "kfp.pipeline_version_id": "v",
        }
        self.run = self._create_run("vitrine 0123456789ab", tags)

    def send(self, path: str, **body: Any) -> Any:
        answer = requests.post(f"{self.address}/api/2.0/mlflow/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def _ensure_experiment(self, name: str) -> str:
        page = f"{self.address}/api/2.0/mlflow/experiments/get-by-name"
        answer = requests.get(page, params={"experiment_name": name}, timeout=60)
        if answer.ok:
            return str(answer.json()["experiment"]["experiment_id"])
        return str(self.send("experiments/create", name=name, description="")["experiment_id"])

    def _create_run(self, name: str, tags: Mapping[str, str]) -> str:
        rows = [{"key": key, "value": value} for key, value in tags.items()]
        body = {"experiment_id": self.experiment, "run_name": name, "start_time": 1, "tags": rows}
        return str(self.send("runs/create", **body)["run"]["info"]["run_id"])

    def start_task(self, name: str, parent: str | None = None) -> str:
        """OnTaskStart in backend/src/v2/common/plugins/mlflow/handler.go; a sub-DAG is the parent of its tasks."""
        return self._create_run(name, {PARENT: parent or self.run})

    @contextmanager
    def environment(self, task: str, inject: bool = True) -> Iterator[None]:
        """What a step's process sees: OnBeforeRunCreation and RetrieveUserContainerEnvVars."""
        config = {
            "endpoint": self.address,
            "parentRunId": self.run,
            "experimentId": self.experiment,
            "authType": "none",
            "timeout": "30s",
            **({"injectUserEnvVars": True} if inject else {}),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KFP_MLFLOW_CONFIG", json.dumps(config))
            if inject:
                patch.setenv("MLFLOW_RUN_ID", task)
                patch.setenv("MLFLOW_TRACKING_URI", self.address)
                patch.setenv("MLFLOW_EXPERIMENT_ID", self.experiment)
            yield

    def end_task(self, task: str) -> None:
        """OnTaskEnd: the launcher logs the step's parameters as JSON."""
        params = [{"key": "params", "value": json.dumps({"promote": "ask"})}]
        self.send("runs/log-batch", run_id=task, metrics=[], params=params, tags=[])
        self.send("runs/update", run_id=task, status="FINISHED", end_time=2)

    def end(self, status: str) -> None:
        """SyncParentAndNestedRuns in run_start.go."""
        self.send("runs/update", run_id=self.run, status=status, end_time=3)
        self._end_nested_runs(self.run, status)

    def _end_nested_runs(self, parent: str, status: str) -> None:
        query = f"tags.\"{PARENT}\" = '{parent}'"
        body = {"experiment_ids": [self.experiment], "filter": query, "max_results": 1000}
        for row in self.send("runs/search", **body).get("runs", []):
            info = row["info"]
            if info["status"] not in END_STATES:
                self._end_nested_runs(info["run_id"], status)
                self.send("runs/update", run_id=info["run_id"], status=status, end_time=3)


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("server"), local_stack.find_free_port()
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    database, artifacts = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")
    with local_stack.run_mlflow_server(folder, port, database, artifacts):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def client(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[MlflowClient]":
    import mlflow

    for name in ("KFP_MLFLOW_CONFIG", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.setenv(name, "")  # restores it after a test that sets or deletes it
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    yield mlflow_store.connect()
    mlflow.set_tracking_uri(None)


def list_runs(client: "MlflowClient") -> "dict[str, Run]":
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id: run for run in client.search_runs(experiments)}


def ancestors(runs: "Mapping[str, Run]", run_id: str) -> list[str]:
    """The parent of a run, its parent, and so on."""
    parent = runs[run_id].data.tags.get(PARENT)
    return [parent, *ancestors(runs, parent)] if parent else []


def assert_linked(client: "MlflowClient", run: str, task: str, step: str) -> None:
    run_tags, task_tags = client.get_run(run).data.tags, client.get_run(task).data.tags
    assert run_tags[f"vitrine.task.{step}"] == task
    assert task_tags["vitrine.run"] == run
    experiment = client.get_run(run).info.experiment_id
    assert f"(#/experiments/{experiment}/runs/{run}?" in task_tags[NOTE]


def test_training_and_version_are_in_the_tree_of_the_pipeline_run(
    client: "MlflowClient",
    server: str,
    data: Path,
    report: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two runs of the pipeline; in the second, only `register` is executed, for the same chain."""
    before = list_runs(client)
    first = Plugin(server, "first")
    dag = first.start_task("exit-handler-1")
    first.end_task(dag)
    train, evaluate = first.start_task("train", dag), first.start_task("evaluate", dag)
    with (
        first.environment(train),
        mlflow_runs.track_training(store.fingerprint(twin / "made_from.json")) as log,
    ):
        log({"epoch": 1, "loss": 2.0})
        (live,) = (run for run in list_runs(client).values() if run.info.run_name.startswith("train-"))
        assert ancestors(list_runs(client), live.info.run_id) == [train, dag, first.run]
    first.end_task(train)
    first.end_task(evaluate)
    task = first.start_task("register", dag)
    monkeypatch.setenv("KFP_RUN_ID", "first")
    with first.environment(task):
        register(data, report, twin, index, evaluation, PARAMS, tmp_path / "first")
    first.end_task(task)
    first.end("FINISHED")
    run_id = json.loads((tmp_path / "first" / "registration.json").read_text())["run_id"]
    runs = list_runs(client)
    assert run_id == live.info.run_id
    assert runs.keys() - before.keys() - {first.run, dag, train, evaluate, task} <= {
        run_id,
        *history_runs(client),
    }
    assert ancestors(runs, run_id) == [task, dag, first.run]
    assert_linked(client, run_id, train, "train")
    assert_linked(client, run_id, task, "register")
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert not runs[task].data.metrics and runs[task].data.params.keys() == {"params"}

    second = Plugin(server, "second")
    other_task = second.start_task("register")
    monkeypatch.setenv("KFP_RUN_ID", "second")
    with second.environment(other_task):
        register(data, report, twin, index, evaluation, PARAMS, tmp_path / "second")
    second.end_task(other_task)
    second.end("FINISHED")
    assert list_runs(client).keys() - runs.keys() == {second.run, other_task}
    assert ancestors(list_runs(client), run_id) == [task, dag, first.run]
    assert_linked(client, run_id, other_task, "register")
    assert client.get_run(task).data.tags["vitrine.run"] == run_id
    version = find_pipeline_version("first")
    assert version and version.run_id == run_id


def history_runs(client: "MlflowClient") -> list[str]:
    """The runs that hold the histories of champions, which are in an experiment of their own."""
    experiment = client.get_experiment_by_name(f"{mlflow_store.EXPERIMENT}-registry")
    return [run.info.run_id for run in client.search_runs([experiment.experiment_id])] if experiment else []


def test_a_second_attempt_of_a_step_keeps_the_link(client: "MlflowClient", server: str) -> None:
    plugin = Plugin(server, "attempts")
    task = plugin.start_task("register")
    with plugin.environment(task):
        with pytest.raises(InterruptedError), mlflow_runs.open_chain_run("killed", "killed", {}):
            raise InterruptedError
        with mlflow_runs.open_chain_run("another", "another", {}) as run:
            pass
    assert ancestors(list_runs(client), run.info.run_id) == [task, plugin.run]
    assert_linked(client, run.info.run_id, task, "register")


def test_without_variables_for_user_code_the_parent_is_the_pipeline_run(
    client: "MlflowClient", server: str
) -> None:
    """`injectUserEnvVars` is false by default: the step knows only the run of the pipeline."""
    plugin = Plugin(server, "default")
    task = plugin.start_task("register")
    with plugin.environment(task, inject=False), mlflow_runs.open_chain_run("default", "default", {}) as run:
        pass
    assert ancestors(list_runs(client), run.info.run_id) == [plugin.run]
    assert_linked(client, run.info.run_id, plugin.run, "register")


def test_another_experiment_of_the_plugin_keeps_vitrines_experiment(
    client: "MlflowClient", server: str
) -> None:
    plugin = Plugin(server, "elsewhere", experiment="KFP-Default")
    task = plugin.start_task("register")
    with plugin.environment(task):
        mlflow_store.connect()
        with mlflow_runs.open_chain_run("elsewhere", "elsewhere", {}) as run:
            pass
    experiment = client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    assert experiment and run.info.experiment_id == experiment.experiment_id != plugin.experiment
    assert_linked(client, run.info.run_id, task, "register")


def test_a_run_that_was_made_without_the_plugin_gets_its_first_parent(
    client: "MlflowClient", server: str
) -> None:
    with mlflow_runs.open_chain_run("laptop", "laptop", {}) as run:
        pass
    assert not {PARENT, "vitrine.task.register"} & client.get_run(run.info.run_id).data.tags.keys()
    plugin = Plugin(server, "laptop")
    task = plugin.start_task("register")
    with plugin.environment(task), mlflow_runs.open_chain_run("laptop", "laptop", {}) as same:
        pass
    assert same.info.run_id == run.info.run_id
    assert ancestors(list_runs(client), run.info.run_id) == [task, plugin.run]


def test_a_training_that_was_killed_ends_with_the_pipeline_run(client: "MlflowClient", server: str) -> None:
    plugin = Plugin(server, "killed")
    task = plugin.start_task("train")
    with plugin.environment(task), mlflow_runs.track_training("out of memory") as log:
        log({"epoch": 1, "loss": 2.0})
        plugin.end("FAILED")
        (run,) = (row for row in list_runs(client).values() if row.data.tags.get(PARENT) == task)
    assert (run.info.status, client.get_run(task).info.status) == ("FAILED", "FAILED")


def test_a_plugin_with_another_server_is_a_warning(
    client: "MlflowClient", server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = Plugin(server, "away")
    plugin.run = "0" * 32  # a run of the other server
    with plugin.environment("1" * 32, inject=False), mlflow_runs.open_chain_run("away", "away", {}) as run:
        pass
    assert PARENT not in client.get_run(run.info.run_id).data.tags
    assert "must name the same server" in capsys.readouterr().err
