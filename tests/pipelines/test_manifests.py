"""Manifests against the schema of Kubernetes' API, as its own client has it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes import client

from components.params import pipeline_params
from pipelines import ir
from pipelines.check import faults, placement_faults
from pipelines.cluster import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KINDS = {
    "ServiceAccount": "V1ServiceAccount",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "ClusterRole": "V1ClusterRole",
    "ClusterRoleBinding": "V1ClusterRoleBinding",
    "PersistentVolumeClaim": "V1PersistentVolumeClaim",
    "NetworkPolicy": "V1NetworkPolicy",
    "Secret": "V1Secret",
}
MANIFESTS = [
    one for path in sorted(DEPLOY.glob("manifests/*.yaml")) for one in yaml.safe_load_all(path.read_text())
]


def through_the_schema(manifest: dict[str, Any]) -> Any:
    """What is left of a manifest when the client has read it: fields that it does not know are not."""
    api = client.ApiClient()
    response = SimpleNamespace(data=json.dumps(manifest))
    return api.sanitize_for_serialization(api.deserialize(response, KINDS[manifest["kind"]]))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_a_manifest_is_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    assert through_the_schema(manifest) == manifest
    broken = manifest | {"speck": {}}
    assert through_the_schema(broken) != broken


def test_the_cluster_file_names_what_the_manifests_make() -> None:
    cluster = load(DEPLOY / "cluster.yaml")
    made = {(one["kind"], one["metadata"]["name"]): one for one in MANIFESTS}
    assert ("ServiceAccount", cluster.service_account) in made
    assert ("PersistentVolumeClaim", cluster.storage) in made
    assert all(one["metadata"].get("namespace", cluster.namespace) == cluster.namespace for one in MANIFESTS)
    for step in cluster.steps.values():
        for secret in step.secrets:
            assert set(secret.keys) <= set(made["Secret", secret.name]["stringData"])
    assert (
        cluster.labels.items()
        >= made["NetworkPolicy", "vitrine"]["spec"]["podSelector"]["matchLabels"].items()
    )


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("name", ["cluster", "kind"])
def test_a_cluster_file_of_ours_has_no_faults(name: str, nodes: int) -> None:
    cluster = load(DEPLOY / f"{name}.yaml").model_copy(update={"nodes": nodes})
    assert [
        *placement_faults(cluster),
        *faults(ir.compiled(cluster, "abc", pipeline_params(ROOT / "params.yaml"))),
    ] == []


def test_no_secret_is_filled_in() -> None:
    for one in MANIFESTS:
        assert set(one.get("stringData", {}).values()) <= {"FILL-IN"} and "data" not in one
