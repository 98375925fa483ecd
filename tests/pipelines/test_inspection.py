"""What `check` finds in registries and in a cluster, and what it says if it may not look."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.__main__ import main
from pipelines.cluster import Cluster, load_cluster
from pipelines.definitions import PIPELINES
from pipelines.inspection import CONTROLLER, Findings, inspect_cluster, inspect_images, read_retry_policy

ROOT = Path(__file__).parents[2]
TRAINING = PIPELINES["training"].steps
CORE = "/api/v1/namespaces/kubeflow"
CONFIG_MAP = f"{CORE}/configmaps/{CONTROLLER}"
Server = tuple[str, dict[str, Any]]  # address, and answers by path

# Kubeflow Pipelines 2.17.0, manifests/kustomize/third-party/argo/base/workflow-controller-configmap-patch.yaml
WORKFLOW_DEFAULTS = """\
spec:
  ttlStrategy:
    secondsAfterCompletion: 3600
  templateDefaults:
    retryStrategy:
      limit: '2'
      retryPolicy: OnError
"""
ONLY_LOST_PODS = (
    "retries: only lost pods are retried; a step that ends with an error runs once "
    "(retryPolicy OnError in the ConfigMap workflow-controller-configmap; Always retries both)"
)


@pytest.fixture
def server(json_handler: type[BaseHTTPRequestHandler]) -> Iterator[Server]:
    """A server that answers each path with a status and JSON."""
    answers: dict[str, Any] = {}

    class Handler(json_handler):  # type: ignore[misc, valid-type]
        def _route(self) -> None:
            self.send_json(*answers.get(self.path, (404, {"kind": "Status", "code": 404})))

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{http_server.server_port}", answers
    http_server.shutdown()
    http_server.server_close()


@pytest.fixture
def kubernetes(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Answers of the cluster of the current context, by path. Argo retries everything there."""
    host, answers = server
    answers[CONFIG_MAP] = (
        200,
        {"data": {"workflowDefaults": WORKFLOW_DEFAULTS.replace("OnError", "Always")}},
    )
    set_context(host, tmp_path / "config", monkeypatch)
    return answers


def set_context(host: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": f"http://{host}"}}],
        "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def cluster() -> Cluster:
    return load_cluster(ROOT / "deploy" / "cluster.yaml")


def test_missing_images(server: Server) -> None:
    host, answers = server
    names = {"cpu": f"{host}/shop/vitrine:1-cpu", "cuda": f"{host}/shop/vitrine:1"}
    cluster = Cluster.model_validate({"images": names})
    faults = [
        f"images.{target}: {name} does not exist (the registry answers 404)" for target, name in names.items()
    ]
    assert inspect_images(cluster) == Findings(faults, [])
    note = f"not checked: image {names['cuda']}: its registry requires credentials"
    answers["/v2/shop/vitrine/manifests/1"] = (401, {})
    assert inspect_images(cluster) == Findings(faults[:1], [note])
    answers["/v2/shop/vitrine/manifests/1-cpu"] = (200, {})
    assert inspect_images(cluster) == Findings([], [note])
    same = Cluster.model_validate({"images": {"cpu": names["cuda"], "cuda": names["cuda"]}})
    assert inspect_images(same) == Findings([], [note])
    gone = Cluster.model_validate({"images": {"cpu": "127.0.0.1:1/v:1", "cuda": "127.0.0.1:1/v:1"}})
    fault = "images.cpu, images.cuda: 127.0.0.1:1 cannot be reached (ConnectionError)"
    assert inspect_images(gone) == Findings([fault], [])


def test_missing_secrets_and_service_account(kubernetes: dict[str, Any], cluster: Cluster) -> None:
    place = "steps.fetch.secrets: "
    assert inspect_cluster(cluster, TRAINING).faults == [
        f"{place}there is no secret vitrine-data in kubeflow",
        "service_account: there is no vitrine in kubeflow",
    ]
    kubernetes[f"{CORE}/secrets/vitrine-data"] = (200, {"data": {"access-key": "eA=="}})
    kubernetes[f"{CORE}/serviceaccounts/vitrine"] = (200, {})
    assert inspect_cluster(cluster, TRAINING).faults == [
        f"{place}the secret vitrine-data has no key secret-key"
    ]
    keys = {"access-key": "eA==", "secret-key": "eA=="}
    kubernetes[f"{CORE}/secrets/vitrine-data"] = (200, {"data": keys})
    assert inspect_cluster(cluster, TRAINING) == Findings([], [])


def test_only_what_the_steps_of_the_pipeline_need_is_missing(kubernetes: dict[str, Any]) -> None:
    """Whoever trains need not be able to read the log of requests, or to train on several nodes to refresh."""
    secret = {"name": "vitrine-log", "keys": {"key": "AWS_ACCESS_KEY_ID"}}
    cluster = Cluster.model_validate({"nodes": 2, "steps": {"monitor": {"secrets": [secret]}}})
    assert inspect_cluster(cluster, PIPELINES["refresh"].steps) == Findings([], [])
    assert inspect_cluster(cluster, PIPELINES["monitor"].steps).faults == [
        "steps.monitor.secrets: there is no secret vitrine-log in kubeflow"
    ]


@pytest.mark.parametrize(("version", "minor"), [("v1.30.3", "30"), ("v1.30.3-gke.1", "30+")])
def test_training_on_several_nodes_needs_a_claim_a_runtime_and_a_recent_kubernetes(
    version: str, minor: str, kubernetes: dict[str, Any]
) -> None:
    cluster = Cluster(nodes=2)
    old, recent = (
        {"major": "1", "minor": minor, "gitVersion": version},
        {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
    )
    fields = ("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform")
    kubernetes["/version/"] = (200, old | dict.fromkeys(fields, ""))
    assert inspect_cluster(cluster, TRAINING).faults == [
        f"nodes: Kubernetes {version} is too old for Kubeflow Trainer; it needs 1.31 or later",
        "storage: there is no claim vitrine-training in kubeflow",
        "nodes: there is no ClusterTrainingRuntime torch-distributed; install Kubeflow Trainer",
    ]
    kubernetes["/version/"] = (200, recent | dict.fromkeys(fields, ""))
    kubernetes[f"{CORE}/persistentvolumeclaims/vitrine-training"] = (200, {})
    kubernetes["/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/torch-distributed"] = (200, {})
    assert inspect_cluster(cluster, TRAINING) == Findings([], [])


def test_a_cluster_that_retries_only_lost_pods_is_no_fault_but_is_reported(
    kubernetes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cluster.yaml"
    arguments = ["check", "--cluster", str(path), "--params", str(ROOT / "params.yaml")]
    path.write_text("steps: {train: {retries: {count: 1}}}")
    kubernetes[CONFIG_MAP] = (200, {"data": {"workflowDefaults": WORKFLOW_DEFAULTS}})
    assert main(arguments) == 0
    assert f"check: {ONLY_LOST_PODS}\n" in capsys.readouterr().err
    path.write_text("steps: {train: {retries: {count: 0}}}")
    assert main(arguments) == 0
    assert "retries" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({"workflowDefaults": WORKFLOW_DEFAULTS}, "OnError"),
        ({"config": yaml.safe_dump({"workflowDefaults": yaml.safe_load(WORKFLOW_DEFAULTS)})}, "OnError"),
        ({"workflowDefaults": "spec: {templateDefaults: {retryStrategy: {expression: 'true'}}}"}, "Always"),
        ({"workflowDefaults": "spec:"}, "OnFailure"),
        ({"config": ""}, "OnFailure"),
        ({}, "OnFailure"),
    ],
)
def test_the_policy_is_that_of_argos_defaults(settings: dict[str, str], policy: str) -> None:
    assert read_retry_policy(settings) == policy


def test_what_this_user_may_not_read_is_reported_and_the_rest_is_checked(
    kubernetes: dict[str, Any], cluster: Cluster
) -> None:
    kubernetes[f"{CORE}/serviceaccounts/vitrine"] = (403, {})
    del kubernetes[CONFIG_MAP]
    findings = inspect_cluster(cluster, TRAINING)
    assert findings.faults == ["steps.fetch.secrets: there is no secret vitrine-data in kubeflow"]
    account, retries = findings.notes
    assert account.startswith("not checked: service account: 127.0.0.1:")
    assert account.endswith("answers 403 (Forbidden)")
    assert retries == f"not checked: retries: there is no ConfigMap {CONTROLLER} in kubeflow"


def test_a_cluster_that_does_not_answer_is_a_single_note(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_context("127.0.0.1:1", tmp_path / "config", monkeypatch)
    findings = inspect_cluster(cluster.model_copy(update={"nodes": 2}), TRAINING)
    reason = "127.0.0.1:1 does not answer (MaxRetryError)"
    assert findings == Findings([], [f"not checked: secrets, service account, retries, nodes: {reason}"])
