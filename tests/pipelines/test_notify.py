"""Notifications: their text, and that a failed one fails nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from webhook_fixtures import PATH

from pipelines.cluster import Cluster
from pipelines.notify import send_notification
from pipelines.training import build_training
from registry import mlflow_store


def connect_mlflow(database: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import mlflow

    mlflow.set_tracking_uri(None)  # set by earlier tests, it would override the variable
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    return mlflow_store.connect()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's, which takes seconds to create."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(database.parent)
        connect_mlflow(database, monkeypatch)
    return database


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client of an empty MLflow store."""
    monkeypatch.chdir(tmp_path)
    return connect_mlflow(Path(shutil.copy(empty_database, tmp_path)), monkeypatch)


@pytest.mark.parametrize("verdict", ["passed", "failed"])
def test_a_verdict_is_sent_with_its_reasons_and_links(verdict: str, webhook: list[Any], store: Any) -> None:
    store.create_registered_model("product-search")
    tags = {
        "vitrine.pipeline.run": "r1",
        "vitrine.gate": verdict,
        "vitrine.reasons": f"Gate {verdict}: ndcg@10 is 3 % better.",
    }
    store.create_model_version("product-search", "file:///m-1", tags=tags)
    send_notification("COMPLETE", "r1", "https://kfp.test", "training")
    sentence = f"Vitrine: training run r1 succeeded: product-search version 1. Gate {verdict}: ndcg@10 is 3 % better."
    assert webhook == [{"text": f"{sentence}\nhttps://kfp.test/#/runs/details/r1"}]


@pytest.mark.parametrize("state", ["COMPLETE", "CACHED", "SUCCEEDED"])
def test_a_run_without_a_new_version(state: str, webhook: list[Any], store: Any) -> None:
    send_notification(state, "r2", "", "training")
    assert webhook == [{"text": "Vitrine: training run r2 succeeded: it registered no new version"}]


FAILED_POD = {
    "metadata": {
        "name": "executor-1",
        "namespace": "kubeflow",
        "labels": {"pipeline/runid": "r1", "vitrine/step": "train"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "status": {"phase": "Failed", "message": "node x is gone"},
}
FAILURE = """Vitrine: training run r1 failed
train: node x is gone
  kubectl -n kubeflow logs executor-1 -c main"""


@pytest.mark.parametrize("state", ["FAILED", "RUNNING", "UNKNOWN"])
def test_a_failure_is_sent_with_its_step_and_reason(state: str, webhook: list[Any], pod_server: Any) -> None:
    """A killed step leaves the state RUNNING."""
    pod_server.pods = [FAILED_POD]
    send_notification(state, "r1", "", "training")
    assert webhook == [{"text": FAILURE}]


def test_a_running_state_without_a_failed_pod_is_a_success(
    webhook: list[Any], pod_server: Any, store: Any
) -> None:
    """As after a run that reused all shards."""
    pod_server.pods = [FAILED_POD | {"status": {"phase": "Succeeded"}}]
    send_notification("RUNNING", "r1", "", "training")
    assert webhook == [{"text": "Vitrine: training run r1 succeeded: it registered no new version"}]


@pytest.mark.parametrize(
    ("registered_by", "message"),
    [
        ("r1", "Vitrine: training run r1 succeeded: product-search version 1. Gate: passed."),
        (
            "r0",
            "Vitrine: training run r1 failed\nits failed step: the reason is in the log: Kubernetes does not let this "
            "account list pods in kubeflow (403)\n  kubectl -n kubeflow logs -l 'pipeline/runid=r1' --prefix -c main",
        ),
    ],
)
def test_without_the_right_to_read_pods_the_version_decides(
    registered_by: str, message: str, webhook: list[Any], pod_server: Any, store: Any
) -> None:
    pod_server.refusing = {"pods"}
    store.create_registered_model("product-search")
    tags = {"vitrine.pipeline.run": registered_by, "vitrine.gate": "passed"}
    store.create_model_version("product-search", "file:///m-1", tags=tags)
    send_notification("RUNNING", "r1", "", "training")
    assert webhook == [{"text": message}]


def test_an_unreachable_mlflow(webhook: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    send_notification("COMPLETE", "r1", "", "training")
    assert "training run r1 succeeded: its verdict is unknown, MLflow cannot be reached" in webhook[0]["text"]


def test_without_an_address_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITRINE_WEBHOOK", raising=False)
    send_notification("COMPLETE", "r1", "", "training")


@pytest.mark.parametrize(
    ("address", "message"),
    [("http://127.0.0.1:1/hunter2", "cannot be reached"), ("{}/hunter3", "answered 403")],
)
def test_a_broken_webhook_fails_nothing_and_stays_secret(
    address: str,
    message: str,
    webhook: list[Any],
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import os

    monkeypatch.setenv("VITRINE_WEBHOOK", address.format(os.environ["VITRINE_WEBHOOK"].removesuffix(PATH)))
    send_notification("COMPLETE", "r1", "", "training")
    stderr = capsys.readouterr().err
    assert message in stderr and "hunter" not in stderr


def test_it_is_off_unless_configured() -> None:
    """If configured, it runs last, even after a failure."""
    secret = {"name": "webhook", "keys": {"url": "VITRINE_WEBHOOK"}}
    on = Cluster.model_validate({"steps": {"notify": {"secrets": [secret]}}})
    specs = [build_training(cluster, "abc").pipeline_spec for cluster in (Cluster(), on)]
    assert ["notify" in spec.root.dag.tasks for spec in specs] == [False, True]
    strategy = specs[1].root.dag.tasks["notify"].trigger_policy.strategy
    assert strategy == strategy.__class__(2)  # ALL_UPSTREAM_TASKS_COMPLETED


def test_the_message_names_the_pipeline_and_only_a_training_has_a_verdict(
    webhook: list[Any], pod_server: Any
) -> None:
    send_notification("COMPLETE", "r1", "https://kfp.test", "refresh")
    pod_server.pods = [FAILED_POD]
    send_notification("FAILED", "r1", "", "monitor")
    assert [message["text"] for message in webhook] == [
        "Vitrine: refresh run r1 succeeded\nhttps://kfp.test/#/runs/details/r1",
        FAILURE.replace("training", "monitor"),
    ]
