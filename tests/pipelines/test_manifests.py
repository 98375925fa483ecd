"""Manifests against the schema of Kubernetes' API, as its own client has it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes import client

from components.params import load_pipeline_params
from pipelines import ir
from pipelines.check import find_faults, find_placement_faults
from pipelines.cluster import TARGETS, load_cluster

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
    "ConfigMap": "V1ConfigMap",
    "Deployment": "V1Deployment",
    "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "Service": "V1Service",
    "Secret": "V1Secret",
}
MANIFESTS = [
    manifest
    for path in sorted(DEPLOY.glob("manifests/*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
]


def through_the_schema(manifest: dict[str, Any]) -> Any:
    """A manifest after the client has read it, without unknown fields."""
    api = client.ApiClient()
    response = SimpleNamespace(data=json.dumps(manifest))
    return api.sanitize_for_serialization(api.deserialize(response, KINDS[manifest["kind"]]))


@pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=lambda manifest: f"{manifest['kind']} {manifest['metadata']['name']}"
)
def test_a_manifest_is_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    assert through_the_schema(manifest) == manifest
    broken = manifest | {"speck": {}}
    assert through_the_schema(broken) != broken


def test_the_cluster_file_names_what_the_manifests_make() -> None:
    cluster = load_cluster(DEPLOY / "cluster.yaml")
    objects = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in MANIFESTS}
    assert ("ServiceAccount", cluster.service_account) in objects
    assert ("PersistentVolumeClaim", cluster.storage) in objects
    assert all(
        manifest["metadata"].get("namespace", cluster.namespace) == cluster.namespace
        for manifest in MANIFESTS
    )
    for step in cluster.steps.values():
        for secret in step.secrets:
            assert set(secret.keys) <= set(objects["Secret", secret.name]["stringData"])
    assert (
        cluster.labels.items()
        >= objects["NetworkPolicy", "vitrine"]["spec"]["podSelector"]["matchLabels"].items()
    )


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("name", ["cluster", "kind"])
def test_the_projects_cluster_files_have_no_faults(name: str, nodes: int) -> None:
    cluster = load_cluster(DEPLOY / f"{name}.yaml").model_copy(update={"nodes": nodes})
    assert [
        *find_placement_faults(cluster, TARGETS),
        *find_faults(ir.compile_pipeline(cluster, "abc", load_pipeline_params(ROOT / "params.yaml"))),
    ] == []


def test_no_secret_is_filled_in() -> None:
    for manifest in MANIFESTS:
        assert set(manifest.get("stringData", {}).values()) <= {"FILL-IN"}
        assert manifest["kind"] != "Secret" or "data" not in manifest
