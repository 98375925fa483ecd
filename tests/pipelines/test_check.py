"""Faults that `check` reports: in compiled pipelines that KFP would accept, in registries, and in a cluster."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.schema import DataError
from components.params import load_pipeline_params
from pipelines import check, ir
from pipelines.__main__ import main
from pipelines.check import find_faults, find_missing_images, find_missing_objects, find_placement_faults
from pipelines.cluster import Cluster, load_cluster

ROOT = Path(__file__).parents[2]
Documents = list[dict[str, Any]]


@pytest.fixture(scope="module")
def text() -> str:
    return ir.compile_pipeline(
        load_cluster(ROOT / "deploy" / "cluster.yaml"), "abc", load_pipeline_params(ROOT / "params.yaml")
    )


def _tasks(documents: Documents) -> dict[str, Any]:
    """Tasks of the chain, which is inside the exit handler."""
    return documents[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]


def _container(documents: Documents) -> dict[str, Any]:
    return documents[0]["deploymentSpec"]["executors"]["exec-train"]["container"]


BROKEN: dict[str, tuple[Callable[[Documents], Any], str]] = {
    "an unknown producer": (
        lambda d: _tasks(d)["train"]["inputs"]["artifacts"]["features"]["taskOutputArtifact"].update(
            producerTask="x"
        ),
        "task train, input features: comes from 'x', which is not a task here",
    ),
    "an output that does not exist": (
        lambda d: _tasks(d)["train"]["inputs"]["artifacts"]["features"]["taskOutputArtifact"].update(
            outputArtifactKey="vectors"
        ),
        "task train, input features: 'featurize-in-shards' has no output vectors",
    ),
    "a missing executor": (
        lambda d: d[0]["deploymentSpec"]["executors"].pop("exec-train"),
        "comp-train: there is no executor 'exec-train'",
    ),
    "a missing component": (
        lambda d: d[0]["components"].pop("comp-train"),
        "task train: there is no component 'comp-train'",
    ),
    "an input that is missing": (
        lambda d: _tasks(d)["train"]["inputs"]["parameters"].pop("params"),
        "task train: input params is missing",
    ),
    "an input that the component does not have": (
        lambda d: _tasks(d)["train"]["inputs"]["parameters"].update(speed={"runtimeValue": {"constant": 1}}),
        "task train: its component has no input speed",
    ),
    "a parameter of another type": (
        lambda d: d[0]["components"]["comp-train"]["inputDefinitions"]["parameters"]["params"].update(
            parameterType="STRING"
        ),
        "task train, input params: is STRUCT, not STRING",
    ),
    "a constant of another type": (
        lambda d: _tasks(d)["train"]["inputs"]["parameters"].update(
            features_digest={"runtimeValue": {"constant": 3.0}}
        ),
        "task train, input features_digest: is a number, not STRING",
    ),
    "a default of another type": (
        lambda d: d[0]["root"]["inputDefinitions"]["parameters"]["train"].update(defaultValue="fast"),
        "root parameter train: is a string, not STRUCT",
    ),
    "a pipeline input that is not there": (
        lambda d: _tasks(d)["train"]["inputs"]["parameters"].update(
            params={"componentInputParameter": "trian"}
        ),
        "task train, input params: comes from the input 'trian', which does not exist",
    ),
    "an artifact of another type": (
        lambda d: d[0]["components"]["comp-train"]["inputDefinitions"]["artifacts"]["features"][
            "artifactType"
        ].update(schemaTitle="system.Model"),
        "task train, input features: is system.Dataset, not system.Model",
    ),
    "an unknown dependency": (
        lambda d: _tasks(d)["train"]["dependentTasks"].append("x"),
        "task train: depends on 'x', which is not a task here",
    ),
    "a cycle": (
        lambda d: _tasks(d)["validate"].setdefault("dependentTasks", []).append("register"),
        "wait for each other",
    ),
    "a name in capitals": (
        lambda d: d[0]["pipelineInfo"].update(name="Vitrine"),
        "'Vitrine' is not a DNS name",
    ),
    "a task's name with _": (
        lambda d: _tasks(d).update(my_task=_tasks(d)["train"]),
        "task my_task: the name must be a DNS name of at most 63 letters",
    ),
    "no image": (lambda d: _container(d).pop("image"), "exec-train: has no image"),
    "the tag latest": (
        lambda d: _container(d).update(image="vitrine:latest"),
        "exec-train: 'vitrine:latest' names no",
    ),
    "a secret written out": (
        lambda d: _container(d).update(env=[{"name": "DB_PASSWORD", "value": "hunter2"}]),
        "exec-train: the value of DB_PASSWORD looks like a secret",
    ),
    "a field that KFP does not know": (
        lambda d: _container(d).update(gpus=1),
        "exec-train: ",
    ),
    "a part that KFP does not know": (lambda d: d[0].update(gpus=1), "not KFP's PipelineSpec: "),
    "a setting that Kubernetes does not know": (
        lambda d: d[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"].update(shm=1),
        "platform of exec-train: ",
    ),
    "settings of no executor": (
        lambda d: d[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].update({"exec-x": {}}),
        "platform: there is no executor 'exec-x'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pipeline_is_refused_with_the_place(name: str, text: str) -> None:
    documents = list(yaml.safe_load_all(text))
    breach, message = BROKEN[name]
    breach(documents)
    faults = find_faults(yaml.safe_dump_all(documents))
    assert any(message in fault for fault in faults), faults
    assert "hunter2" not in str(faults)


@pytest.mark.parametrize("words", ["{", "just words", "[1, 2]"])
def test_a_text_that_is_not_a_pipeline(words: str) -> None:
    assert len(find_faults(words)) == 1


def test_the_projects_pipeline_has_no_faults(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_faults(text) == []
    assert (
        find_faults(ir.compile_pipeline(Cluster(), "abc", load_pipeline_params(ROOT / "params.yaml"))) == []
    )
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert main(["check"]) == 0
    output = capsys.readouterr()
    assert "deploy/cluster.yaml: no faults found" in output.out
    assert "not checked: image vitrine:" in output.err and "no cluster is configured here" in output.err


def test_all_faults_are_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = {"accelerator": {"type": "nvidia.com/gpu"}}
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"steps": {"validate": gpu, "train": {**gpu, "image": "cpu"}}})
    )
    assert main(["check", "--cluster", str(tmp_path / "c.yaml"), "--params", str(ROOT / "params.yaml")]) == 1
    output = capsys.readouterr().err
    assert "c.yaml: 2 faults:" in output
    assert (
        "steps.validate: requests nvidia.com/gpu" in output
        and "steps.train: requests nvidia.com/gpu" in output
    )
    assert len(list(find_placement_faults(load_cluster(tmp_path / "c.yaml")))) == 2


@pytest.fixture
def server(json_handler: type[BaseHTTPRequestHandler]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that answers each path with a status and JSON: its address, and its answers by path."""
    answers: dict[str, Any] = {}

    class Handler(json_handler):  # type: ignore[misc, valid-type]
        def _route(self) -> None:
            self.send_json(*answers.get(self.path, (404, {"kind": "Status", "code": 404})))

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{http_server.server_port}", answers
    http_server.shutdown()
    http_server.server_close()


def test_missing_images(server: tuple[str, dict[str, Any]]) -> None:
    host, answers = server
    cluster = Cluster.model_validate(
        {"images": {"cpu": f"{host}/shop/vitrine:1-cpu", "cuda": f"{host}/shop/vitrine:1"}}
    )
    faults = [
        f"images.{target}: {cluster.images[target]} does not exist (the registry answers 404)"
        for target in ("cpu", "cuda")
    ]
    assert find_missing_images(cluster) == faults
    answers["/v2/shop/vitrine/manifests/1-cpu"] = (200, {})
    assert find_missing_images(cluster) == faults[1:]
    answers["/v2/shop/vitrine/manifests/1"] = (401, {})
    with pytest.raises(ConnectionError, match="its registry requires credentials"):
        find_missing_images(cluster)
    gone = Cluster.model_validate({"images": {"cpu": "127.0.0.1:1/v:1", "cuda": "127.0.0.1:1/v:2"}})
    assert find_missing_images(gone)[0] == "images.cpu: 127.0.0.1:1 cannot be reached (ConnectionError)"


def test_missing_secrets_and_service_account(
    server: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host, answers = server
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": f"http://{host}"}}],
        "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config")
    )
    cluster = load_cluster(ROOT / "deploy" / "cluster.yaml")
    core = "/api/v1/namespaces/kubeflow"
    place = "steps.fetch.secrets: "
    assert find_missing_objects(cluster) == [
        f"{place}there is no secret vitrine-data in kubeflow",
        "service_account: there is no vitrine in kubeflow",
    ]
    answers[f"{core}/secrets/vitrine-data"] = (200, {"data": {"access-key": "eA=="}})
    answers[f"{core}/serviceaccounts/vitrine"] = (200, {})
    assert find_missing_objects(cluster) == [f"{place}the secret vitrine-data has no key secret-key"]
    answers[f"{core}/secrets/vitrine-data"] = (200, {"data": {"access-key": "eA==", "secret-key": "eA=="}})
    assert find_missing_objects(cluster) == []
    several = cluster.model_copy(update={"nodes": 2})
    assert find_missing_objects(several) == [
        "storage: there is no claim vitrine-training in kubeflow",
        "nodes: there is no ClusterTrainingRuntime torch-distributed; install Kubeflow Trainer",
    ]
    answers[f"{core}/persistentvolumeclaims/vitrine-training"] = (200, {})
    answers["/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/torch-distributed"] = (200, {})
    assert find_missing_objects(several) == []
    answers[f"{core}/serviceaccounts/vitrine"] = (403, {})
    with pytest.raises(ConnectionError, match="does not answer"):
        find_missing_objects(cluster)


def test_a_pipeline_that_cannot_be_compiled_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(ir, "build_pipeline", fail)
    with pytest.raises(DataError, match="the pipeline cannot be compiled: no such thing"):
        ir.compile_pipeline(Cluster(), "abc", {})
    assert check.TIMEOUT < 60
