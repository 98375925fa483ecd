"""The signatures of the stages, dvc.yaml and the compiled pipeline describe the same chain."""

import inspect
import re
import shlex
import tomllib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import yaml

from components.__main__ import load_stage
from components.params import SECTIONS, Params
from pipelines.__main__ import compile_to
from pipelines.code_deps import PACKAGES, TEMPLATES, code_deps

ROOT = Path(__file__).parents[1]


class Shape(NamedTuple):
    """Inputs and outputs of a stage: the names of its parameters."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Edges = dict[tuple[str, str], tuple[str, str]]  # (stage, input) → (stage, output)


@pytest.fixture(scope="module")
def dvc() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("ir") / "pipeline.yaml"
    compile_to(path, ROOT / "params.yaml")
    return next(yaml.safe_load_all(path.read_text()))


def signatures() -> dict[str, Shape]:
    shapes = {}
    for name in SECTIONS:
        parameters = list(inspect.signature(load_stage(name)).parameters)
        at = parameters.index("params")
        shapes[name] = Shape(tuple(parameters[:at]), tuple(parameters[at + 1 :]))
    return shapes


@pytest.mark.parametrize("name", SECTIONS)
def test_a_stage_takes_paths_then_its_params_then_paths(name: str) -> None:
    signature = inspect.signature(load_stage(name), eval_str=True)
    kinds = [parameter.annotation for parameter in signature.parameters.values()]
    at = kinds.index(SECTIONS[name])
    assert set(kinds[:at]) == set(kinds[at + 1 :]) == {Path}
    assert list(signature.parameters)[at] == "params"
    assert signature.return_annotation is None
    assert SECTIONS[name].__name__ == f"{name.title()}Params"


def flags(entry: dict[str, Any]) -> dict[str, str]:
    """Flag → path of a DVC command."""
    words = shlex.split(entry["cmd"])[4:]
    assert all(word.startswith("--") for word in words[::2])
    return {flag.removeprefix("--"): path for flag, path in zip(words[::2], words[1::2], strict=True)}


def test_each_template_is_in_the_distribution() -> None:
    """Otherwise an image lacks it: setuptools takes only Python files by itself."""
    for pyproject, root in (
        (ROOT / "pyproject.toml", ROOT),
        (ROOT / "eval" / "pyproject.toml", ROOT / "eval"),
    ):
        patterns = tomllib.loads(pyproject.read_text())["tool"]["setuptools"]["package-data"]
        folders = [path.parent for path in root.glob("*/__init__.py")]
        templates = [path for folder in folders for kind in TEMPLATES for path in folder.rglob(kind)]
        assert templates
        for path in templates:
            package = ".".join(path.parent.relative_to(root).parts)
            assert any(path.match(pattern) for pattern in patterns.get(package, ())), path


def outs(entry: dict[str, Any]) -> list[str]:
    return [path for out in entry["outs"] for path in ([out] if isinstance(out, str) else out)]


def check_dvc(dvc: dict[str, Any]) -> None:
    """Each command has the flags of its stage. Its deps are the inputs and its code, its outs are the outputs."""
    assert list(dvc) == list(SECTIONS)
    for name, shape in signatures().items():
        entry = dvc[name]
        assert shlex.split(entry["cmd"])[:4] == ["python", "-m", "components", name]
        paths = flags(entry)
        assert tuple(paths) == (*shape.inputs, *shape.outputs), name
        assert entry["params"] == [name]

        assert outs(entry) == [paths[output] for output in shape.outputs], name
        for path in outs(entry):
            assert path.split("/")[0] not in {"data", "tests", "docs", "pipelines", *PACKAGES}, (
                f"{name} would delete {path}"
            )

        inputs = [paths[name] for name in shape.inputs]
        assert entry["deps"][: len(inputs)] == inputs, name
        code = entry["deps"][len(inputs) :]
        assert code == code_deps(name), f"{name}: other deps on code than `make deps` writes"


def dvc_edges(dvc: dict[str, Any]) -> Edges:
    """The producer of each input. `dvc pull` brings `data`; in the pipeline `fetch` does."""
    producers = {"data": ("fetch", "data")}
    for name, entry in dvc.items():
        producers |= {path: (name, flag) for flag, path in flags(entry).items() if path in outs(entry)}
    return {
        (name, flag): producers[path]
        for name, entry in dvc.items()
        for flag, path in flags(entry).items()
        if path in entry["deps"]
    }


# Steps that only the pipeline has. `require-valid` passes the report of valid data on.
PIPELINE_STEPS = {
    "resolve": Shape((), ()),
    "fetch": Shape((), ("data",)),
    "require-valid": Shape(("checked",), ("report",)),
}
PARAMETERS = {
    "resolve": {"repo": "STRING", "rev": "STRING"},
    "fetch": {"repo": "STRING", "commit": "STRING", "data_hash": "STRING"},
    "require-valid": {"faults": "STRING"},
    "register": {"params": "STRUCT", "revision": "STRING", "data_hash": "STRING", "run_id": "STRING"},
}
RESOLVED = {  # (step, parameter) → output of `resolve`
    ("fetch", "commit"): "data_commit",
    ("fetch", "data_hash"): "data_hash",
    ("register", "revision"): "commit",
    ("register", "data_hash"): "data_hash",
}
OUTPUT_PARAMETERS = {"resolve": {"commit", "data_commit", "data_hash"}, "validate": {"faults"}}
NOT_REUSED = {"resolve", "register"}  # a branch can move, the registry can change


def check_ir(ir: dict[str, Any], expected: Edges) -> None:
    """Every stage is a task of its name with its inputs, params and outputs; the data flow alone defines the order.
    Only what can change elsewhere runs in each run."""
    tasks = ir["root"]["dag"]["tasks"]
    shapes = signatures() | PIPELINE_STEPS
    assert set(tasks) == set(shapes)
    edges: Edges = {}
    resolved: dict[tuple[str, str], str] = {}
    for name, task in tasks.items():
        component = ir["components"][task["componentRef"]["name"]]
        inputs, outputs = component.get("inputDefinitions", {}), component["outputDefinitions"]
        parameters = {key: value["parameterType"] for key, value in inputs.get("parameters", {}).items()}
        assert set(inputs.get("artifacts", {})) == set(shapes[name].inputs), name
        assert set(outputs.get("artifacts", {})) == set(shapes[name].outputs), name
        assert set(outputs.get("parameters", {})) == OUTPUT_PARAMETERS.get(name, set()), name
        assert parameters == PARAMETERS.get(name, {"params": "STRUCT"}), name
        assert task["cachingOptions"].get("enableCache", False) == (name not in NOT_REUSED), name
        sources = task["inputs"]["parameters"] if parameters else {}
        if "params" in parameters:
            assert sources["params"] == {"componentInputParameter": name}, name
        before = set()
        for key, source in sources.items():
            if output := source.get("taskOutputParameter"):
                before.add(output["producerTask"])
                if output["producerTask"] == "resolve":
                    resolved[name, key] = output["outputParameterKey"]
        for key, source in task["inputs"].get("artifacts", {}).items():
            output = source["taskOutputArtifact"]
            edges[name, key] = output["producerTask"], output["outputArtifactKey"]
            before.add(output["producerTask"])
        assert set(task.get("dependentTasks", [])) == before, f"{name} waits for more than its data"
    assert resolved == RESOLVED
    assert edges.pop(("require-valid", "checked")) == (report := ("validate", "report"))
    assert report not in edges.values(), "a stage takes a report that may be of data that are not valid"
    accepted = ("require-valid", "report")
    assert {key: report if source == accepted else source for key, source in edges.items()} == expected
    check_containers(ir["deploymentSpec"]["executors"])


SECRET = re.compile(r"secret|passw|token|api_?key|access_?key|credential", re.IGNORECASE)
URL_WITH_PASSWORD = re.compile(r"://[^/\s]*:[^/\s]*@")


def check_containers(executors: dict[str, Any]) -> None:
    """Images are local and have a version; the file holds no secret."""
    for name, executor in executors.items():
        container = executor["container"]
        _, _, tag = container["image"].rpartition(":")
        assert tag and "/" not in tag and not tag.startswith("latest"), f"{name}: image {container['image']}"
        for variable in container.get("env", []):
            assert not SECRET.search(variable["name"]), f"{name}: {variable['name']} is written out"
            assert not URL_WITH_PASSWORD.search(variable["value"]), (
                f"{name}: a password in {variable['name']}"
            )


def test_dvc_runs_the_stages(dvc: dict[str, Any]) -> None:
    check_dvc(dvc)


def test_kubeflow_runs_the_same_graph_as_dvc(ir: dict[str, Any], dvc: dict[str, Any]) -> None:
    check_ir(ir, dvc_edges(dvc))


def test_the_pipeline_takes_params_yaml_as_it_is(ir: dict[str, Any]) -> None:
    inputs = ir["root"]["inputDefinitions"]["parameters"]
    assert set(inputs) == {"repo", "rev", *SECTIONS}
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, model in SECTIONS.items():
        assert model(**inputs[name]["defaultValue"]) == model(**written[name])


@pytest.mark.parametrize("name", SECTIONS)
def test_params_yaml_has_every_parameter_and_no_other(name: str) -> None:
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert list(sections) == list(SECTIONS)
    assert list(sections[name]) == list(SECTIONS[name].model_fields)


@pytest.mark.parametrize("model", SECTIONS.values())
def test_null_is_the_default_of_every_parameter_that_may_be(model: type[Params]) -> None:
    """As KFP has no null, the pipeline leaves such parameters out."""
    for name, field in model.model_fields.items():
        if type(None) in get_args(field.annotation):
            assert field.default is None, name


DVC_BREACHES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a stage is gone": lambda dvc: dvc.pop("register"),
    "another verb": lambda dvc: dvc["train"].update(cmd=dvc["train"]["cmd"].replace(" train ", " fit ")),
    "another flag": lambda dvc: dvc["train"].update(cmd=dvc["train"]["cmd"].replace("--model", "--network")),
    "a flag is gone": lambda dvc: dvc["train"].update(cmd=dvc["train"]["cmd"].split(" --model")[0]),
    "a flag too many": lambda dvc: dvc["train"].update(cmd=dvc["train"]["cmd"] + " --seed 1"),
    "an input is no dep": lambda dvc: dvc["evaluate"]["deps"].remove("artifacts/train"),
    "its own code is no dep": lambda dvc: dvc["train"]["deps"].remove("components/train.py"),
    "imported code is no dep": lambda dvc: dvc["evaluate"]["deps"].remove("fusion/search/bm25.py"),
    "a dep that is not used": lambda dvc: dvc["validate"]["deps"].append("fusion"),
    "another out": lambda dvc: dvc["train"].update(outs=["artifacts/model"]),
    "an out in the data": lambda dvc: dvc["train"].update(
        outs=["data/train"], cmd=dvc["train"]["cmd"].replace("artifacts/train", "data/train")
    ),
    "an out on the sources": lambda dvc: dvc["evaluate"].update(
        outs=["eval"], cmd=dvc["evaluate"]["cmd"].replace("artifacts/evaluate", "eval")
    ),
    "another section": lambda dvc: dvc["train"].update(params=["train", "evaluate"]),
}


@pytest.mark.parametrize("breach", DVC_BREACHES)
def test_a_difference_in_dvc_yaml_is_seen(dvc: dict[str, Any], breach: str) -> None:
    changed = deepcopy(dvc)
    DVC_BREACHES[breach](changed)
    with pytest.raises(AssertionError):
        check_dvc(changed)


def _task(ir: dict[str, Any], name: str) -> dict[str, Any]:
    return ir["root"]["dag"]["tasks"][name]


def _container(ir: dict[str, Any]) -> dict[str, Any]:
    return ir["deploymentSpec"]["executors"]["exec-train"]["container"]


IR_BREACHES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "data of another hash": lambda ir: _task(ir, "fetch")["inputs"]["parameters"].pop("data_hash"),
    "the data are fetched anew in each run": lambda ir: _task(ir, "fetch")["cachingOptions"].update(
        enableCache=False
    ),
    "a report that nobody checked": lambda ir: _task(ir, "featurize")["inputs"]["artifacts"]["report"].update(
        taskOutputArtifact={"producerTask": "validate", "outputArtifactKey": "report"}
    ),
    "register is reused": lambda ir: _task(ir, "register")["cachingOptions"].update(enableCache=True),
    "a task is gone": lambda ir: ir["root"]["dag"]["tasks"].pop("register"),
    "a task too many": lambda ir: ir["root"]["dag"]["tasks"].update(notify=_task(ir, "fetch")),
    "order without data": lambda ir: _task(ir, "train")["dependentTasks"].append("validate"),
    "another producer": lambda ir: _task(ir, "featurize")["inputs"]["artifacts"]["report"].update(
        taskOutputArtifact={"producerTask": "fetch", "outputArtifactKey": "data"}
    ),
    "another section": lambda ir: _task(ir, "train")["inputs"]["parameters"].update(
        params={"componentInputParameter": "evaluate"}
    ),
    "another type": lambda ir: ir["components"]["comp-train"]["inputDefinitions"]["parameters"].update(
        params={"parameterType": "STRING"}
    ),
    "an input is gone": lambda ir: ir["components"]["comp-train"]["inputDefinitions"].pop("artifacts"),
    "another output": lambda ir: ir["components"]["comp-train"]["outputDefinitions"].update(
        artifacts={"network": {}}
    ),
    "image latest": lambda ir: _container(ir).update(image="vitrine:latest"),
    "image without a tag": lambda ir: _container(ir).update(image="registry:5000/vitrine"),
    "a secret": lambda ir: _container(ir).update(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]),
    "a password in an address": lambda ir: _container(ir).update(
        env=[{"name": "MLFLOW_TRACKING_URI", "value": "postgresql://me:x@db/mlflow"}]
    ),
}


@pytest.mark.parametrize("breach", IR_BREACHES)
def test_a_difference_in_the_pipeline_is_seen(ir: dict[str, Any], dvc: dict[str, Any], breach: str) -> None:
    changed = deepcopy(ir)
    IR_BREACHES[breach](changed)
    with pytest.raises(AssertionError):
        check_ir(changed, dvc_edges(dvc))


def test_a_new_parameter_of_a_stage_is_seen(monkeypatch: pytest.MonkeyPatch, dvc: dict[str, Any]) -> None:
    def train(features: Path, extra: Path, params: Params, model: Path) -> None: ...

    monkeypatch.setattr("components.train.train", train)
    with pytest.raises(AssertionError):
        check_dvc(dvc)
