"""docs/kubernetes.md, as far as it can be followed without a cluster."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from mlflow.server.security_utils import is_allowed_host_header

from pipelines.check import find_placement_faults
from pipelines.cluster import TARGETS, Cluster, load_cluster

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


def test_the_trial_server_answers_through_a_port_forward_of_any_port() -> None:
    (hosts,) = re.findall(r"--allowed-hosts '([^']+)'", PAGE)
    service = load_cluster(ROOT / "deploy" / "kind.yaml").env["MLFLOW_TRACKING_URI"].removeprefix("http://")
    for host in (service, "localhost:5000", "localhost:5001"):
        assert is_allowed_host_header(hosts.split(","), host), host
    assert not is_allowed_host_header(hosts.split(","), "elsewhere.test:5000")


def test_the_steps_of_the_page_are_those_of_a_cluster_file() -> None:
    blocks = re.findall(r"^    steps:\n(?:      .*\n)+", PAGE, re.MULTILINE)
    train, refresh = (Cluster.model_validate(yaml.safe_load(block)) for block in blocks)
    assert train.placement("train").accelerator and train.placement("train").retries.count
    assert refresh.placement("refresh").accelerator
    assert not [*find_placement_faults(train, TARGETS), *find_placement_faults(refresh, TARGETS)]


@pytest.mark.parametrize(
    ("target", "images"),
    [
        ("image-cpu", ["vitrine:abc-cpu"]),
        ("image", ["vitrine:abc-cpu", "vitrine:abc-cuda", "vitrine:abc-serving"]),
    ],
)
def test_kind_needs_the_image_of_image_cpu_alone(target: str, images: list[str]) -> None:
    command = ["make", "--dry-run", target, "COMMIT=abc"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^docker build .* --tag (\S+)", output, re.MULTILINE) == images
    kind = load_cluster(ROOT / "deploy" / "kind.yaml")
    assert {kind.image("train", "abc"), kind.image("gather", "abc")} == {"vitrine:abc-cpu"}
    assert "make image-cpu" in PAGE and "kind load docker-image vitrine:$COMMIT-cpu" in PAGE


def test_the_manifest_of_the_service_takes_the_image_of_make_image() -> None:
    (command,) = re.findall(
        r"^    (sed .* deploy/manifests/serving.yaml) \| kubectl apply -f -$", PAGE, re.MULTILINE
    )
    environment = {"PATH": os.environ["PATH"], "REGISTRY": "registry.test/shop"}
    text = subprocess.run(
        ["bash", "-c", command.replace("$(git rev-parse HEAD)", "abc")],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    build = subprocess.run(
        ["make", "--dry-run", "image-serving", "COMMIT=abc", "IMAGE=registry.test/shop/vitrine"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    deployments = [content for content in yaml.safe_load_all(text) if content["kind"] == "Deployment"]
    (container,) = deployments[0]["spec"]["template"]["spec"]["containers"]
    assert f"--target serving --tag {container['image']} " in build
