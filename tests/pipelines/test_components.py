"""Components that other pipelines load: their files, a pipeline of them, and each of them run alone."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kfp import dsl, local
from kfp.compiler import Compiler
from kfp.components import load_component_from_file
from kfp.dsl import Dataset, Input, Model

from catalog import store
from pipelines import steps
from pipelines.__main__ import main
from pipelines.check import find_faults
from pipelines.components import COMPONENTS, export_components
from pipelines.local import _docker_runner

CLASSES = {"data": Dataset, "features": Dataset, "model": Model}  # others are plain artifacts


class Task(NamedTuple):
    """A component to run alone: its inputs by name and fixture, its parameters, and an output to compare."""

    inputs: dict[str, str]
    parameters: dict[str, Any]
    output: str
    fixture: str | None  # makes the same output; None: the output holds times or numbers of versions


TASKS = {  # the stages of the chain
    "validate": Task({"data": "data"}, {"params": {}}, "report/report.json", None),
    "require_valid": Task({"checked": "report"}, {"faults": ""}, "report/report.json", "report"),
    "featurize": Task({"data": "data", "report": "report"}, {"params": {}}, "features/products", "features"),
    "train": Task(
        {"features": "features"},
        {"params": {"epochs": 2, "dim": 16, "hidden": 16, "batch_size": 64}},
        "model/weights.safetensors",
        "model",
    ),
    "index": Task(
        {"data": "data", "features": "features", "model": "model"},
        {"params": {}},
        "index/products.parquet",
        "index",
    ),
    "evaluate": Task(
        {"data": "data", "features": "features", "model": "model", "index": "index"},
        {"params": {}},
        "evaluation/metrics.json",
        "evaluation",
    ),
    "register": Task(
        {"data": "data", "report": "report", "model": "model", "index": "index", "evaluation": "evaluation"},
        {
            "params": {"floors": {"ndcg@10": 0.0}, "budgets": {}},
            "revision": "c0ffee",
            "data_hash": "abc.dir",
            "run_id": "run-1",
        },
        "registration/registration.json",
        None,
    ),
}


@pytest.fixture
def cluster_file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({"images": {"cpu": "shop/vitrine:7-cpu", "cuda": "shop/vitrine:7-cuda"}}))
    return path


def images(folder: Path) -> dict[str, str]:
    """The image that each component names, by its name."""
    names = {}
    for path in folder.iterdir():
        executors = yaml.safe_load(path.read_text())["deploymentSpec"]["executors"]
        (executor,) = executors.values()
        names[path.stem] = executor["container"]["image"]
    return names


def test_each_file_is_a_component_in_the_image_of_its_step(
    cluster_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "components"
    command = ["components", "--out", str(folder), "--cluster", str(cluster_file)]
    assert main(command) == 0
    assert capsys.readouterr().out.split() == [str(folder / f"{name}.yaml") for name in COMPONENTS]
    assert {path.name for path in folder.iterdir()} == {f"{name}.yaml" for name in COMPONENTS}
    targets = {name: "cuda" if name in {"featurize", "train"} else "cpu" for name in COMPONENTS}
    assert images(folder) == {name: f"shop/vitrine:7-{target}" for name, target in targets.items()}
    for name in COMPONENTS:
        component, step = load_component_from_file(str(folder / f"{name}.yaml")), getattr(steps, name)
        assert component.description.startswith(step.description)  # kfp adds the rest of the docstring
        for side in ("inputs", "outputs"):
            specs, step_specs = (getattr(owner.component_spec, side) or {} for owner in (component, step))
            assert {key: spec.type for key, spec in specs.items()} == {
                key: spec.type for key, spec in step_specs.items()
            }


def test_the_images_carry_the_commit_and_the_files_are_the_same_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_COMMIT", "abc")
    export_components(tmp_path / "first")
    export_components(tmp_path / "second")
    assert images(tmp_path / "first")["train"] == "vitrine:abc-cuda"
    assert store.fingerprint(tmp_path / "first") == store.fingerprint(tmp_path / "second")
    (tmp_path / "first" / "theirs.yaml").write_text("")
    monkeypatch.setenv("VITRINE_COMMIT", "def")
    export_components(tmp_path / "first")  # replaces its own files, and no others
    assert (tmp_path / "first" / "theirs.yaml").exists()
    (tmp_path / "first" / "theirs.yaml").unlink()
    assert images(tmp_path / "first")["train"] == "vitrine:def-cuda"


def test_a_folder_that_cannot_be_written_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["components", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == f"vitrine: {tmp_path / 'file'}: File exists\n"


def test_another_pipeline_can_use_them_together(tmp_path: Path) -> None:
    export_components(tmp_path / "components")
    load = {name: load_component_from_file(str(tmp_path / "components" / f"{name}.yaml")) for name in TASKS}

    @dsl.pipeline(name="theirs")
    def theirs(data: Input[Dataset]):
        checked = load["validate"](data=data, params={}).outputs
        report = load["require_valid"](checked=checked["report"], faults=checked["faults"]).output
        features = load["featurize"](data=data, report=report, params={}).output
        model = load["train"](features=features, params={}).output
        index = load["index"](data=data, features=features, model=model, params={}).output
        indexed = {"data": data, "model": model, "index": index}
        evaluation = load["evaluate"](**indexed, features=features, params={}).output
        artifacts = {**indexed, "report": report, "evaluation": evaluation}
        load["register"](**artifacts, **TASKS["register"].parameters)

    Compiler().compile(theirs, str(tmp_path / "theirs.yaml"))
    assert find_faults((tmp_path / "theirs.yaml").read_text()) == []


def run_alone(name: str, component: Path, chain: dict[str, Path]) -> None:
    """Run a component in a pipeline of its own. kfp runs a component without a pipeline only if it takes no artifacts.

    Args:
        name: A key of `TASKS`.
        component: Its file.
        chain: Artifacts by the names of their fixtures.
    """
    task = TASKS[name]
    load = load_component_from_file(str(component))

    @dsl.pipeline(name="alone")
    def alone():
        artifacts = {
            key: dsl.importer(
                artifact_uri=str(chain[fixture]), artifact_class=CLASSES.get(key, dsl.Artifact)
            ).output
            for key, fixture in task.inputs.items()
        }
        load(**artifacts, **task.parameters)

    alone()


def check_output(name: str, root: Path, chain: dict[str, Path]) -> None:
    """The output must be that of the chain's own stage, where it can be the same."""
    task = TASKS[name]
    (output,) = root.glob(f"alone-*/*/{task.output}")
    if task.fixture:
        assert store.fingerprint(output) == store.fingerprint(chain[task.fixture] / output.name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You may be attemping:RuntimeWarning")
def test_a_component_runs_alone_as_a_process(
    data: Path, report: Path, features: Path, tmp_path: Path
) -> None:
    chain = {"data": data, "report": report, "features": features}
    export_components(tmp_path / "components")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    run_alone("featurize", tmp_path / "components" / "featurize.yaml", chain)
    check_output("featurize", tmp_path / "root", chain)


@pytest.mark.docker
@pytest.mark.parametrize("name", TASKS)
def test_each_stage_runs_alone_in_a_container(
    name: str,
    image: str,
    data: Path,
    report: Path,
    features: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a read-only root, no privileges, and a user that is not root."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # the store is in the working directory of the container
    # files that every user may read: safetensors writes them for its own user alone, as pytest does its folders
    shutil.copytree(data.parent, tmp_path / "chain", copy_function=shutil.copyfile)
    for folder in (tmp_path, *tmp_path.parents[:2], tmp_path / "chain"):
        folder.chmod(0o755)
    paths = {"data": data, "report": report, "features": features, "model": model, "index": index}
    paths["evaluation"] = evaluation
    chain = {fixture: tmp_path / "chain" / path.name for fixture, path in paths.items()}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"images": {"cpu": image, "cuda": image}}))
    export_components(tmp_path / "components", tmp_path / "cluster.yaml")
    root = tmp_path / "root"
    local.init(_docker_runner(image, str(tmp_path / "chain"), root), pipeline_root=str(root))
    run_alone(name, tmp_path / "components" / f"{name}.yaml", chain)
    check_output(name, root, chain)
