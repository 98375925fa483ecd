"""What `check` finds: in compiled pipelines that KFP would take and fail on, in registries, and in a cluster."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.schema import DataError
from components.params import pipeline_params
from pipelines import check, ir
from pipelines.__main__ import main
from pipelines.check import faults, missing_images, missing_objects, placement_faults
from pipelines.cluster import Cluster, load

ROOT = Path(__file__).parents[2]
Documents = list[dict[str, Any]]


@pytest.fixture(scope="module")
def text() -> str:
    return ir.compiled(load(ROOT / "deploy" / "cluster.yaml"), "abc", pipeline_params(ROOT / "params.yaml"))


def _tasks(documents: Documents) -> dict[str, Any]:
    """Of the chain, which stands within the one that tells how it ended."""
    return documents[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]


def _container(documents: Documents) -> dict[str, Any]:
    return documents[0]["deploymentSpec"]["executors"]["exec-train"]["container"]


BROKEN: dict[str, tuple[Callable[[Documents], Any], str]] = {
    "an unknown producer": (
        lambda d: _tasks(d)["train"]["inputs"]["artifacts"]["features"]["taskOutputArtifact"].update(
            producerTask="x"
        ),
        "task train, input features: comes from 'x', which is no task here",
    ),
    "an output that nobody makes": (
        lambda d: _tasks(d)["train"]["inputs"]["artifacts"]["features"]["taskOutputArtifact"].update(
            outputArtifactKey="vectors"
        ),
        "task train, input features: 'featurize-in-shards' makes no vectors",
    ),
    "a missing executor": (
        lambda d: d[0]["deploymentSpec"]["executors"].pop("exec-train"),
        "comp-train: there is no executor 'exec-train'",
    ),
    "a missing component": (
        lambda d: d[0]["components"].pop("comp-train"),
        "task train: there is no component 'comp-train'",
    ),
    "an input that is not given": (
        lambda d: _tasks(d)["train"]["inputs"]["parameters"].pop("params"),
        "task train: input params is not given",
    ),
    "an input that nobody takes": (
        lambda d: _tasks(d)["train"]["inputs"]["parameters"].update(speed={"runtimeValue": {"constant": 1}}),
        "task train: its component takes no input speed",
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
        "task train, input params: comes from the input 'trian', which is not there",
    ),
    "an artifact of another type": (
        lambda d: d[0]["components"]["comp-train"]["inputDefinitions"]["artifacts"]["features"][
            "artifactType"
        ].update(schemaTitle="system.Model"),
        "task train, input features: is system.Dataset, not system.Model",
    ),
    "an order that nobody keeps": (
        lambda d: _tasks(d)["train"]["dependentTasks"].append("x"),
        "task train: depends on 'x', which is no task here",
    ),
    "steps that wait for each other": (
        lambda d: _tasks(d)["validate"].setdefault("dependentTasks", []).append("register"),
        "wait for each other",
    ),
    "a name in capitals": (lambda d: d[0]["pipelineInfo"].update(name="Vitrine"), "'Vitrine' is no DNS name"),
    "a task's name with _": (
        lambda d: _tasks(d).update(my_task=_tasks(d)["train"]),
        "task my_task: no DNS name of at most 63 letters",
    ),
    "no image": (lambda d: _container(d).pop("image"), "exec-train: names no image"),
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
    breach, told = BROKEN[name]
    breach(documents)
    found = faults(yaml.safe_dump_all(documents))
    assert any(told in one for one in found), found
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("words", ["{", "just words", "[1, 2]"])
def test_what_is_no_pipeline(words: str) -> None:
    assert len(faults(words)) == 1


def test_ours_has_no_faults(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faults(text) == []
    assert faults(ir.compiled(Cluster(), "abc", pipeline_params(ROOT / "params.yaml"))) == []
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert main(["check"]) == 0
    said = capsys.readouterr()
    assert "deploy/cluster.yaml: nothing wrong was found" in said.out
    assert "not checked: image vitrine:" in said.err and "no cluster is configured here" in said.err


def test_all_faults_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = {"accelerator": {"type": "nvidia.com/gpu"}}
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"steps": {"validate": gpu, "train": {**gpu, "image": "cpu"}}})
    )
    assert main(["check", "--cluster", str(tmp_path / "c.yaml"), "--params", str(ROOT / "params.yaml")]) == 1
    said = capsys.readouterr().err
    assert "c.yaml: 2 faults:" in said
    assert (
        "steps.validate: asks for nvidia.com/gpu" in said and "steps.train: asks for nvidia.com/gpu" in said
    )
    assert len(list(placement_faults(load(tmp_path / "c.yaml")))) == 2


@pytest.fixture
def server(json_handler: type[BaseHTTPRequestHandler]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Answers each path with a status and JSON; its address, and what it has."""
    answers: dict[str, Any] = {}

    class Handler(json_handler):  # type: ignore[misc, valid-type]
        def _route(self) -> None:
            self.say(*answers.get(self.path, (404, {"kind": "Status", "code": 404})))

    one = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{one.server_port}", answers
    one.shutdown()
    one.server_close()


def test_images_are_asked_for(server: tuple[str, dict[str, Any]]) -> None:
    host, answers = server
    cluster = Cluster.model_validate(
        {"images": {"cpu": f"{host}/shop/vitrine:1-cpu", "cuda": f"{host}/shop/vitrine:1"}}
    )
    told = [
        f"images.{one}: {cluster.images[one]} is not there (the registry answers 404)"
        for one in ("cpu", "cuda")
    ]
    assert missing_images(cluster) == told
    answers["/v2/shop/vitrine/manifests/1-cpu"] = (200, {})
    assert missing_images(cluster) == told[1:]
    answers["/v2/shop/vitrine/manifests/1"] = (401, {})
    with pytest.raises(ConnectionError, match="its registry wants credentials"):
        missing_images(cluster)
    gone = Cluster.model_validate({"images": {"cpu": "127.0.0.1:1/v:1", "cuda": "127.0.0.1:1/v:2"}})
    assert missing_images(gone)[0] == "images.cpu: 127.0.0.1:1 cannot be reached (ConnectionError)"


def test_secrets_and_the_service_account_are_asked_for(
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
    cluster = load(ROOT / "deploy" / "cluster.yaml")
    core = "/api/v1/namespaces/kubeflow"
    place = "steps.fetch.secrets: "
    assert missing_objects(cluster) == [
        f"{place}there is no secret vitrine-data in kubeflow",
        "service_account: there is no vitrine in kubeflow",
    ]
    answers[f"{core}/secrets/vitrine-data"] = (200, {"data": {"access-key": "eA=="}})
    answers[f"{core}/serviceaccounts/vitrine"] = (200, {})
    assert missing_objects(cluster) == [f"{place}the secret vitrine-data has no key secret-key"]
    answers[f"{core}/secrets/vitrine-data"] = (200, {"data": {"access-key": "eA==", "secret-key": "eA=="}})
    assert missing_objects(cluster) == []
    several = cluster.model_copy(update={"nodes": 2})
    assert missing_objects(several) == [
        "storage: there is no claim vitrine-training in kubeflow",
        "nodes: there is no ClusterTrainingRuntime torch-distributed; install Kubeflow Trainer",
    ]
    answers[f"{core}/persistentvolumeclaims/vitrine-training"] = (200, {})
    answers["/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/torch-distributed"] = (200, {})
    assert missing_objects(several) == []
    answers[f"{core}/serviceaccounts/vitrine"] = (403, {})
    with pytest.raises(ConnectionError, match="does not answer"):
        missing_objects(cluster)


def test_a_pipeline_that_cannot_be_compiled_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(ir, "pipeline", never)
    with pytest.raises(DataError, match="the pipeline cannot be compiled: no such thing"):
        ir.compiled(Cluster(), "abc", {})
    assert check.PATIENCE < 60
