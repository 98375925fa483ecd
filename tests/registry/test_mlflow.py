import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from catalog.schema import DataError
from registry import lineage, mlflow_runs, mlflow_store, mlflow_urls
from serving import ui

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without git, as the working directory, and a store of its own in it."""
    import mlflow

    for name in ("VITRINE_COMMIT", "VITRINE_IMAGE", "KFP_RUN_ID", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    yield tmp_path
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("ndcg@10", "ndcg_at_10"), ("bm25/mrr@10", "bm25/mrr_at_10"), ("loss", "loss")]
)
def test_metric_names_that_mlflow_accepts(ours: str, theirs: str) -> None:
    assert mlflow_runs.metric_name(ours) == theirs


def test_home_is_the_project_even_from_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert mlflow_store.project_folder() == tmp_path
    monkeypatch.setenv("DVC_ROOT", "/project")
    assert mlflow_store.project_folder() == Path("/project")


def test_without_an_address_the_store_is_a_file_at_home(away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (away / "project").mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("DVC_ROOT", str(away / "project"))
    client = mlflow_store.connect()
    assert (away / "project" / "mlflow.db").is_file()
    experiment = client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    assert experiment and experiment.artifact_location == (away / "project" / "mlartifacts").as_uri()
    assert not list(away.glob("*.db"))


@pytest.mark.parametrize("address", ["sqlite:////dev/null/mlflow.db", "http://127.0.0.1:9", "gopher://x"])
def test_a_store_that_cannot_be_reached(address: str, away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        DataError, match=r"MLflow at .* cannot be reached, or refuses: [\s\S]*check MLFLOW_TRACKING_URI"
    ) as raised:
        mlflow_store.connect()
    assert address in str(raised.value)


def test_an_incomplete_store_is_created_again(away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a process that was killed while MLflow made them."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (away / ".mlflow.db.partial").write_bytes(b"half a database")
    assert mlflow_store.connect().search_experiments()
    assert [path.name for path in away.iterdir() if "mlflow" in path.name] == ["mlflow.db"]


@pytest.fixture
def client(away: Path, empty_store: Path) -> "MlflowClient":
    shutil.copy(empty_store, away / "mlflow.db")
    return mlflow_store.connect()


def everything(client: "MlflowClient") -> list[Any]:
    experiment = client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    assert experiment
    return client.search_runs([experiment.experiment_id])


def test_a_chain_has_one_run(client: "MlflowClient", monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InterruptedError), mlflow_runs.open_chain_run("a", "t", {"from": "here"}) as first:
        raise InterruptedError
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # as a parent process may leave it
    with mlflow_runs.open_chain_run("a", "t", {"from": "elsewhere"}) as second:
        pass
    with mlflow_runs.open_chain_run("b", "u", {}) as other:
        pass
    assert second.info.run_id == first.info.run_id != other.info.run_id
    runs = {run.info.run_id: run for run in everything(client)}
    assert len(runs) == 2
    assert runs[first.info.run_id].data.tags["from"] == "here"  # where it was made does not change later
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_a_chain_resumes_the_run_of_its_training(client: "MlflowClient") -> None:
    """Each epoch is there as soon as it has ended; killed and started again, a training goes on in its run."""
    with pytest.raises(InterruptedError), mlflow_runs.track_training("t") as show:
        show({"epoch": 1, "loss": 2.0, "samples_per_s": 30.0})
        (live,) = everything(client)
        assert live.info.status == "RUNNING"
        assert live.data.metrics == {"train/loss": 2.0, "train/samples_per_s": 30.0}
        raise InterruptedError
    with mlflow_runs.track_training("t") as show:
        show({"epoch": 2, "loss": 1.0})
    with mlflow_runs.open_chain_run("a", "t", {"from": "here"}) as chain:
        mlflow_runs.log_values(
            client, chain, {}, {}, [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0}]
        )
    with mlflow_runs.open_chain_run("b", "t", {}) as judged_otherwise:
        pass
    assert chain.info.run_id == live.info.run_id != judged_otherwise.info.run_id
    history = client.get_metric_history(live.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
    tags = client.get_run(live.info.run_id).data.tags
    assert (tags[mlflow_runs.CHAIN], tags["from"]) == ("a", "here")


def test_training_does_not_fail_without_a_tracking_server(
    away: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    with mlflow_runs.track_training("t") as show:
        show({"epoch": 1, "loss": 2.0})
    assert "not shown in MLflow" in capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with mlflow_runs.track_training("t") as show:
        show({"epoch": 1, "loss": 2.0})
    assert not list(away.glob("*.db"))
    assert not capsys.readouterr().err


def test_a_tracking_server_that_fails_gives_one_warning(
    client: "MlflowClient", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.exceptions import MlflowException

    def fail(*_: object) -> None:
        raise MlflowException("gone")

    with mlflow_runs.track_training("t") as show:
        monkeypatch.setattr(mlflow_runs, "log_values", fail)
        show({"epoch": 1, "loss": 2.0})
        show({"epoch": 2, "loss": 2.0})
    assert capsys.readouterr().err.count("no longer shown in MLflow: gone") == 1


def test_logging_twice_changes_nothing(client: "MlflowClient") -> None:
    curves = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.5}]
    metrics = {"ndcg@10": 0.5, "bm25/ndcg@10": 0.25}
    for gains in ({"0": 0.0, "3": 1.0}, {"3": 1.0, "0": 0.0}):  # KFP keeps no order
        with mlflow_runs.open_chain_run("a", "t", {}) as run:
            mlflow_runs.log_values(
                client, run, {"fusion": "concat", "gains": gains, "weights": None}, metrics, curves
            )
    (run,) = everything(client)
    assert run.data.params == {"fusion": "concat", "gains": '{"0": 0.0, "3": 1.0}', "weights": "null"}
    assert run.data.metrics == {"ndcg_at_10": 0.5, "bm25/ndcg_at_10": 0.25, "train/loss": 1.5}
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.5)]


def test_files_and_folders_come_back(client: "MlflowClient", tmp_path: Path) -> None:
    (tmp_path / "made" / "scores").mkdir(parents=True)
    (tmp_path / "made" / "metrics.json").write_text("{}")
    (tmp_path / "made" / "scores" / "fused.txt").write_text("1")
    with mlflow_runs.open_chain_run("a", "t", {}) as run:
        mlflow_runs.log_files(run, tmp_path / "made", ["metrics.json", "scores"], "evaluation")
        mlflow_runs.log_files(run, tmp_path / "made", ["metrics.json"])
    folder = mlflow_runs.download_artifact(run.info.run_id, "evaluation", tmp_path / "back")
    assert (folder / "metrics.json").read_text() == "{}"
    assert (folder / "scores" / "fused.txt").read_text() == "1"
    assert (
        mlflow_runs.download_artifact(run.info.run_id, "metrics.json", tmp_path / "top").read_text() == "{}"
    )


class TestAddresses:
    PAGE = "#/models/a%2Fb%20c/versions/3?workflowType=machine_learning"

    @pytest.mark.parametrize(
        ("uri", "server"),
        [
            (None, "http://127.0.0.1:5000/"),
            ("sqlite:///mlflow.db", "http://127.0.0.1:5000/"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("https://user:secret@example.org/mlflow/", "https://example.org/mlflow/"),
        ],
    )
    def test_of_a_version(self, uri: str | None, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if uri:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert mlflow_urls.version_url("a/b c", "3") == server + self.PAGE

    def test_of_an_artifact(self) -> None:
        link = "#/experiments/1/runs/ab/artifacts/evaluation/a%20b.html?workflowType=machine_learning"
        assert mlflow_urls.artifact_link("1", "ab", "evaluation/a b.html") == link


def test_a_table_is_logged_once(client: "MlflowClient", tmp_path: Path) -> None:
    rows = [{"system": "bm25", "ndcg@10": 0.123456}, {"system": "<b>", "ndcg@10": None}]
    with mlflow_runs.open_chain_run("a", "t", {}) as run:
        for name in ("systems.json", "systems.json", "other.json"):
            mlflow_runs.log_table(client, run, name, rows)
        with pytest.raises(ValueError, match="not JSON compliant"):
            mlflow_runs.log_table(client, run, "bad.json", [{"system": float("nan")}])
    assert client.load_table("1", "systems.json", [run.info.run_id])["system"].tolist() == ["bm25", "<b>"]
    table = mlflow_runs.download_artifact(run.info.run_id, "systems.json", tmp_path / "back").read_text()
    assert json.loads(table) == {"columns": ["system", "ndcg@10"], "data": [["bm25", 0.1235], ["<b>", None]]}
    tables = json.loads(client.get_run(run.info.run_id).data.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in tables] == ["systems.json", "other.json"]


def test_make_ui_prints_links_and_starts_one_worker(
    away: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(ui.os, "execv", lambda _, words: started.append(words))
    monkeypatch.setattr(ui.mlflow_store, "has_server", lambda: True)
    (away / "params.yaml").write_text("register: {model_name: shop}")
    ui.main()
    assert not started
    monkeypatch.undo()
    monkeypatch.setattr(ui.os, "execv", lambda _, words: started.append(words))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{away / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    monkeypatch.chdir(away)
    capsys.readouterr()
    ui.main()
    links = capsys.readouterr().out.splitlines()
    assert links[1:] == [
        "  runs:     http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning",
        "  versions: http://127.0.0.1:5000/#/models/shop?workflowType=machine_learning",
    ]
    words = " ".join(started[0])
    assert f"--workers 1 --backend-store-uri sqlite:///{away / 'mlflow.db'} " in words
    assert words.endswith("--host 127.0.0.1 --port 5000")


class TestLineage:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        (tmp_path / "data" / "judgements").mkdir(parents=True)
        (tmp_path / "data" / "judgements" / "0.parquet").write_text("judged")
        return tmp_path / "data"

    def test_what_is_not_known_is_left_out(self, away: Path, data: Path) -> None:
        tags = lineage.collect_lineage("abc", data)
        assert set(tags) == {"vitrine.data", "vitrine.judgements", "vitrine.libraries"}
        assert tags["vitrine.data"] == "abc"
        (data / "judgements" / "0.parquet").write_text("judged otherwise")
        assert lineage.collect_lineage("abc", data)["vitrine.judgements"] != tags["vitrine.judgements"]

    def test_of_a_pod(self, away: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VITRINE_COMMIT", "c0ffee")
        monkeypatch.setenv("VITRINE_IMAGE", "vitrine@sha256:1")
        monkeypatch.setenv("VITRINE_PIPELINE", "nightly")
        monkeypatch.setenv("KFP_RUN_ID", "run-1")
        monkeypatch.setenv("VITRINE_DATA_REVISION", "beef")
        tags = lineage.collect_lineage("abc", data)
        assert tags["vitrine.git.commit"] == "c0ffee"
        assert tags["vitrine.image"] == "vitrine@sha256:1" and tags["vitrine.pipeline.run"] == "run-1"
        assert tags["vitrine.pipeline"] == "nightly" and tags["vitrine.data.revision"] == "beef"

    @pytest.mark.parametrize("shop", [".", "shops/north"])
    def test_of_a_checkout(self, away: Path, data: Path, shop: str) -> None:
        def git(*words: str) -> None:
            who = ["-c", "user.name=a", "-c", "user.email=b"]
            subprocess.run(["git", *who, *words], cwd=away, check=True, capture_output=True)

        git("init")
        folder = Path(shop)
        folder.mkdir(parents=True, exist_ok=True)
        data = data.rename(folder / "data")
        (folder / "data.dvc").write_text("outs:\n- md5: 1234.dir\n  path: data\n")
        (folder / "dvc.lock").write_text("before")
        git("add", shop)
        git("commit", "--message", "c")
        (folder / "dvc.lock").write_text("after")  # by the stages before
        tags = lineage.collect_lineage("abc", data)
        assert len(tags["vitrine.git.commit"]) == 40
        assert tags["vitrine.git.dirty"] == "false"
        assert tags["vitrine.data.dvc"] == "1234.dir"
        assert tags["vitrine.data.revision"] == tags["vitrine.git.commit"]
        (folder / "data.dvc").write_text("outs:\n- md5: 5678.dir\n  path: data\n")
        assert lineage.collect_lineage("abc", data)["vitrine.git.dirty"] == "true"


@pytest.mark.parametrize("broken", [1, mlflow_store.ATTEMPTS - 1, mlflow_store.ATTEMPTS])
def test_responses_that_are_cut_off_are_requested_again(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client raises its own error while it handles that of requests."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ChunkedEncodingError

    waited: list[int] = []
    monkeypatch.setattr(mlflow_store.time, "sleep", waited.append)
    remaining = [broken]

    def work() -> None:
        remaining[0] -= 1
        if remaining[0] >= 0:
            try:
                raise ChunkedEncodingError("Connection broken")
            except ChunkedEncodingError as error:
                raise MlflowException(f"API request failed with exception {error}")  # noqa: B904

    if broken == mlflow_store.ATTEMPTS:
        with pytest.raises(DataError, match="cannot be reached, or refuses: API request failed"):
            mlflow_store.with_retries(work)
    else:
        mlflow_store.with_retries(work)
    assert waited == [5, 10, 15][:broken]


def test_what_mlflow_refuses_is_not_requested_again() -> None:
    from mlflow.exceptions import MlflowException

    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        raise MlflowException("no")

    with pytest.raises(DataError, match="refuses: no"):
        mlflow_store.with_retries(work)
    assert len(attempts) == 1
