"""Faults that `check` reports: in compiled pipelines that KFP would accept, and in cluster files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.schema import DataError
from components.params import load_pipeline_params
from pipelines import ir
from pipelines.__main__ import main
from pipelines.check import find_faults, find_placement_faults
from pipelines.cluster import TARGETS, Cluster, load_cluster
from pipelines.definitions import PIPELINES

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
        lambda d: _tasks(d)["require-valid"]["inputs"]["parameters"].update(
            faults={"runtimeValue": {"constant": 3.0}}
        ),
        "task require-valid, input faults: is a number, not STRING",
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

    def check(steps: dict[str, Any]) -> str:
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump({"steps": steps}))
        assert main(["check", "--cluster", str(path), "--params", str(ROOT / "params.yaml")]) == 1
        faults = list(find_placement_faults(load_cluster(path), TARGETS))
        output = capsys.readouterr().err
        assert len(faults) == len(steps) and output.endswith("\n  ".join(["", *faults]) + "\n")
        return output

    assert "c.yaml: 1 fault:\n  steps.validate: requests nvidia.com/gpu" in check({"validate": gpu})
    assert "c.yaml: 2 faults:" in check({"validate": gpu, "train": {**gpu, "image": "cpu"}})


def test_an_image_of_both_targets_is_listed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VITRINE_COMMIT", "abc")
    assert main(["check", "--cluster", "deploy/kind.yaml"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "check: not checked: image vitrine:abc-cpu: it names no registry"
    assert sum("vitrine:abc-cpu" in line for line in lines) == 1


def test_a_pipeline_that_cannot_be_compiled_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setitem(PIPELINES, "training", PIPELINES["training"]._replace(build=fail))
    with pytest.raises(DataError, match="the pipeline cannot be compiled: no such thing"):
        ir.compile_pipeline(Cluster(), "abc", {})
