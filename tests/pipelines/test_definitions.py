"""Each pipeline: its steps, its parameters, its graph, and that it is compiled to the same bytes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.__main__ import main
from pipelines.check import find_faults
from pipelines.cluster import TARGETS, load_cluster
from pipelines.definitions import DEFAULT, PIPELINES, load_parameters

ROOT = Path(__file__).parents[2]
CLUSTER = load_cluster(ROOT / "deploy" / "cluster.yaml")
OTHERS = [name for name in PIPELINES if name != DEFAULT]
# steps of a training that depend on the cluster: one pod or several
SHARDS, NODES = {"gather"}, {"launch"}

every_pipeline = pytest.mark.parametrize("name", PIPELINES)


@pytest.fixture(scope="module")
def compiled(compile_once: Any) -> Any:
    """The text of a pipeline, with the values of the project's files."""

    def compile_pipeline(name: str) -> str:
        params = load_parameters(PIPELINES[name], ROOT / "params.yaml", ROOT / "serving.yaml")
        return compile_once(CLUSTER, "abc", params, name)

    return compile_pipeline


def list_steps(text: str) -> set[str]:
    """The keys of the cluster file whose settings the steps of a compiled pipeline have."""
    platform = list(yaml.safe_load_all(text))[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {executor["podMetadata"]["labels"]["vitrine/step"] for executor in platform.values()}


@every_pipeline
def test_it_has_the_steps_and_the_parameters_of_its_definition(name: str, compiled: Any) -> None:
    definition, text = PIPELINES[name], compiled(name)
    assert find_faults(text) == []
    assert list_steps(text) == set(definition.steps) - NODES
    spec = next(yaml.safe_load_all(text))
    assert spec["pipelineInfo"]["name"] == definition.name
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    model = set() if "register" in definition.sections else {"model_name"}
    assert set(parameters) == {"repo", "rev", *definition.sections, *definition.settings, *model}
    assert {key for key, parameter in parameters.items() if "defaultValue" not in parameter} == {
        "repo",
        "rev",
    }


def test_each_step_of_a_cluster_file_belongs_to_a_pipeline() -> None:
    assert {step for definition in PIPELINES.values() for step in definition.steps} == set(TARGETS)
    assert len({definition.name for definition in PIPELINES.values()}) == len(PIPELINES)


@pytest.mark.parametrize("name", OTHERS)
def test_what_changes_the_registry_or_reads_the_time_is_never_reused(name: str, compiled: Any) -> None:
    """The data are: a night without new data fetches and checks nothing again."""
    spec = next(yaml.safe_load_all(compiled(name)))
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    always = {key for key, task in tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert always == {"resolve", name}
    assert name != "refresh" or tasks["refresh"]["inputs"]["artifacts"]["report"]["taskOutputArtifact"] == {
        "producerTask": "require-valid",
        "outputArtifactKey": "report",
    }


@pytest.mark.parametrize("name", OTHERS)
def test_compiled_twice_it_is_the_same_file(
    name: str, compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VITRINE_COMMIT", "abc")
    output = tmp_path / "pipeline.yaml"
    words = ["compile", "--pipeline", name, "--cluster", "deploy/cluster.yaml", "--output", str(output)]
    assert main(words) == 0
    assert output.read_text() == compiled(name)


def test_whoever_trains_needs_no_serving_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params, settings = tmp_path / "params.yaml", tmp_path / "serving.yaml"
    params.write_text((ROOT / "params.yaml").read_text())
    assert load_parameters(PIPELINES["training"], params, settings)
    settings.write_text("refresh: {max_removed: 2}")
    files = ["--params", str(params), "--settings", str(settings), "--output", str(tmp_path / "p.yaml")]
    assert main(["compile", "--pipeline", "refresh", *files]) == 1
    assert "refresh.max_removed: Input should be less than or equal to 1" in capsys.readouterr().err


def test_a_shop_refreshes_its_own_model(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("register: {model_name: north}")
    assert load_parameters(PIPELINES["refresh"], params, ROOT / "serving.yaml")["model_name"] == "north"
