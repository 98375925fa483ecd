"""Cluster files: which faults are refused, and with which place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalog.schema import DataError
from pipelines.cluster import TARGETS, Cluster, load_cluster, parse_memory

ROOT = Path(__file__).parents[2]
Breach = Callable[[dict[str, Any]], Any]

BROKEN: dict[str, tuple[Breach, str]] = {
    "an unknown key": (lambda c: c.update(replicas=3), "replicas: unknown key; known are images"),
    "an unknown key of a step": (
        lambda c: c["steps"]["train"].update(gpus=1),
        "steps.train.gpus: unknown key; known are image, cpu, memory",
    ),
    "an unknown step": (
        lambda c: c["steps"].update(trian={}),
        "steps.trian: unknown step; known are resolve",
    ),
    "an image without a tag": (
        lambda c: c["images"].update(cpu="registry.test/vitrine"),
        "images.cpu: 'registry.test/vitrine' names no version",
    ),
    "the tag latest": (
        lambda c: c["images"].update(cuda="vitrine:latest"),
        "images.cuda: 'vitrine:latest' names no",
    ),
    "no image for GPUs": (lambda c: c["images"].pop("cuda"), "images.cuda is missing"),
    "memory without a unit": (
        lambda c: c["steps"]["train"].update(memory="32"),
        "steps.train.memory: String should",
    ),
    "memory in GB": (lambda c: c["defaults"].update(memory="2GB"), "defaults.memory: String should match"),
    "cores as words": (lambda c: c["defaults"].update(cpu="four"), "defaults.cpu: String should match"),
    "more shm than memory": (
        lambda c: c["steps"]["train"].update(shm="32Gi"),
        "steps.train: shm 32Gi counts against",
    ),
    "no accelerators": (
        lambda c: c["steps"]["train"]["accelerator"].update(count=0),
        "steps.train.accelerator.count: Input should be greater than or equal to 1",
    ),
    "a toleration with a superfluous value": (
        lambda c: c["steps"]["train"]["tolerations"][0].update(value="x"),
        "steps.train.tolerations.0: Equal needs a value; Exists takes no value",
    ),
    "a label with a space": (
        lambda c: c["labels"].update(team="product search"),
        "labels.team: String should match",
    ),
    "a label's key with two slashes": (lambda c: c["labels"].update({"a/b/c": "x"}), "labels.a/b/c"),
    "a namespace in capitals": (lambda c: c.update(namespace="Kubeflow"), "namespace: String should match"),
    "a service account with _": (
        lambda c: c.update(service_account="my_account"),
        "service_account: String should",
    ),
    "a timeout in words": (
        lambda c: c["defaults"].update(timeout="2 hours"),
        "defaults.timeout: String should match",
    ),
    "too many retries": (
        lambda c: c["defaults"]["retries"].update(count=100),
        "defaults.retries.count: Input should",
    ),
    "a secret without keys": (
        lambda c: c["steps"]["fetch"]["secrets"][0].update(keys={}),
        "secrets.0.keys: Dictionary",
    ),
    "a variable with a dash": (
        lambda c: c["steps"]["fetch"]["secrets"][0]["keys"].update(url="MY-URL"),
        "steps.fetch.secrets.0.keys.url: String should match",
    ),
    "a key written out": (
        lambda c: c["env"].update(AWS_SECRET_ACCESS_KEY="hunter2"),  # noqa: S106
        "env.AWS_SECRET_ACCESS_KEY looks like a secret",
    ),
    "a password in an address": (
        lambda c: c["steps"].update(register={"env": {"STORE": "postgresql://me:hunter2@db/mlflow"}}),
        "steps.register: env.STORE looks like a secret",
    ),
    "no shards": (lambda c: c.update(shards=0), "shards: Input should be greater than or equal to 1"),
    "no nodes": (lambda c: c.update(nodes=0), "nodes: Input should be greater than or equal to 1"),
    "an unknown timezone": (
        lambda c: c.update(timezone="Mars/Olympus"),
        "timezone: 'Mars/Olympus' is not in",
    ),
    "pages with a password": (
        lambda c: c.update(ui="https://me:hunter2@kfp.test"),
        "ui: must be the URL of a page",
    ),
    "a list in place of steps": (lambda c: c.update(steps=[]), "steps: Input should be a valid dictionary"),
}


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text())


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_the_place(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    breach, message = BROKEN[name]
    breach(content)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError) as caught:
        load_cluster(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_step_inherits_the_defaults(content: dict[str, Any]) -> None:
    cluster = Cluster.model_validate(content)
    assert cluster.placement("evaluate").timeout == "2h" and cluster.placement("evaluate").cpu == "4"
    assert cluster.placement("train").timeout == "12h" and cluster.placement("train").retries.count == 2
    assert cluster.placement("gather") == cluster.defaults
    launch = cluster.placement("launch")  # waits for training, but needs none of its resources
    assert (launch.timeout, launch.memory, launch.accelerator) == ("12h", "2Gi", None)
    assert (
        cluster.image("train", "abc") == "vitrine:abc-cuda"
        and cluster.image("gather", "abc") == "vitrine:abc-cpu"
    )
    assert cluster.required_secrets(list(TARGETS)).keys() == {"vitrine-data"}


def test_any_step_may_run_without_a_gpu() -> None:
    cluster = Cluster.model_validate({"steps": {"train": {"image": "cpu"}}})
    assert cluster.image("train", "abc") == "vitrine:abc-cpu"
    assert {Cluster().image(step, "abc") for step in TARGETS} == {"vitrine:abc-cpu", "vitrine:abc-cuda"}


@pytest.mark.parametrize(
    ("text", "count"), [("2Ki", 2048), ("1.5Gi", 1.5 * 2**30), ("3M", 3e6), ("1Ti", 2**40)]
)
def test_sizes(text: str, count: float) -> None:
    assert parse_memory(text) == count
