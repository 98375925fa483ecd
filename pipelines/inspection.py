"""What registries and a cluster have, compared with what a cluster file needs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import yaml

from pipelines.cluster import Cluster, current_commit
from pipelines.nodes import API, RUNTIME

TIMEOUT = 10  # seconds
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)
CONTROLLER = "workflow-controller-configmap"  # Argo's settings, in the namespace of Kubeflow Pipelines
# What is retried, by Argo's policy; `Always` retries everything. Kubeflow Pipelines 2.17 sets OnError for all pipelines
# (manifests/kustomize/third-party/argo/base/workflow-controller-configmap-patch.yaml); a pipeline cannot set a policy.
POLICIES = {
    "OnError": "only lost pods are retried; a step that ends with an error runs once",
    "OnFailure": "only steps that end with an error are retried; a lost pod is not",
    "OnTransientError": "only errors that Argo takes for transient are retried",
}
KUBERNETES = (1, 31)  # lowest version for Kubeflow Trainer 2.3 (its docs/operator-guides/installation.md)


class Findings(NamedTuple):
    """Result of an inspection."""

    faults: list[str]
    notes: list[str]  # what could not be checked, and settings of the cluster that a user may not expect


def inspect_images(cluster: Cluster) -> Findings:
    """Faults: images that their registries do not have. Notes: images that cannot be checked."""
    places: dict[str, list[str]] = {}
    for target, name in cluster.images.items():
        places.setdefault(name.replace("{commit}", current_commit()), []).append(f"images.{target}")
    findings = Findings([], [])
    for image, targets in places.items():
        place = ", ".join(targets)
        host, slash, name = image.partition("/")
        if not slash or not (set(host) & {".", ":"} or host == "localhost"):
            findings.notes.append(f"not checked: image {image}: it names no registry")
            continue
        try:
            status = _request_manifest(host, name)
        except requests.RequestException as error:
            findings.faults.append(f"{place}: {host} cannot be reached ({type(error).__name__})")
            continue
        if status in {401, 403}:
            findings.notes.append(f"not checked: image {image}: its registry requires credentials")
        elif status >= 400:
            findings.faults.append(f"{place}: {image} does not exist (the registry answers {status})")
    return findings


def _request_manifest(host: str, name: str) -> int:
    """The HTTP status with which a registry answers for an image."""
    repository, tag = name.rsplit("@" if "@" in name else ":", 1)
    scheme = "http" if host.partition(":")[0] in {"localhost", "127.0.0.1"} else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{tag}"
    return requests.head(url, headers={"Accept": MANIFESTS}, timeout=TIMEOUT).status_code


def inspect_cluster(cluster: Cluster, steps: Sequence[str]) -> Findings:
    """Compare the cluster of the current context with a cluster file, as far as the steps of a pipeline need it.

    Faults: missing secrets, keys of secrets and service account, and what training on several nodes needs. Notes: which
    failures are not retried, and what this user may not read.
    """
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    findings = Findings([], [])
    parts: dict[str, tuple[Callable[[Any, Cluster], Iterator[str]], list[str]]] = {
        "secrets": (partial(_secret_faults, steps=steps), findings.faults),
        "service account": (_account_faults, findings.faults),
        "retries": (partial(_retry_notes, steps=steps), findings.notes),
    }
    if cluster.nodes > 1 and "launch" in steps:
        parts["nodes"] = _training_faults, findings.faults
    try:
        config.load_kube_config()
    except config.ConfigException as error:
        findings.notes.append(f"not checked: {', '.join(parts)}: no cluster is configured here ({error})")
        return findings
    api = client.CoreV1Api()
    host = urlsplit(api.api_client.configuration.host).netloc
    try:
        for part, (inspect, results) in parts.items():
            try:
                results.extend(inspect(api, cluster))
            except client.ApiException as error:
                findings.notes.append(f"not checked: {part}: {host} answers {error.status} ({error.reason})")
    except HTTPError as error:
        reason = f"{host} does not answer ({type(error).__name__})"
        findings.notes.append(f"not checked: {', '.join(parts)}: {reason}")
    return findings


def _secret_faults(api: Any, cluster: Cluster, steps: Sequence[str]) -> Iterator[str]:
    for name, (keys, place) in cluster.required_secrets(steps).items():
        if (secret := _read_object(api.read_namespaced_secret, name, cluster.namespace)) is None:
            yield f"{place}: there is no secret {name} in {cluster.namespace}"
        elif missing := keys - set(secret.data or {}):
            yield f"{place}: the secret {name} has no key {', '.join(sorted(missing))}"


def _account_faults(api: Any, cluster: Cluster) -> Iterator[str]:
    account = cluster.service_account
    if account and _read_object(api.read_namespaced_service_account, account, cluster.namespace) is None:
        yield f"service_account: there is no {account} in {cluster.namespace}"


def _retry_notes(api: Any, cluster: Cluster, steps: Sequence[str]) -> Iterator[str]:
    """Which failures the cluster does not retry, if a step has retries."""
    if not any(cluster.placement(step).retries.count for step in steps):
        return
    config_map = _read_object(api.read_namespaced_config_map, CONTROLLER, cluster.namespace)
    if config_map is None:
        yield f"not checked: retries: there is no ConfigMap {CONTROLLER} in {cluster.namespace}"
        return
    policy = read_retry_policy(config_map.data or {})
    if gap := POLICIES.get(policy):
        yield f"retries: {gap} (retryPolicy {policy} in the ConfigMap {CONTROLLER}; Always retries both)"


def read_retry_policy(settings: Mapping[str, str]) -> str:
    """The policy that Argo applies to a step with retries: that of its templateDefaults, or its own default.

    Args:
        settings: Data of the ConfigMap of Argo's workflow controller: a YAML text by key, or all of them in `config`
            (Argo 4.0.5, config/controller.go, parseConfigMap; workflow/controller/operator.go,
            mergedTemplateDefaultsInto; pkg/apis/workflow/v1alpha1/workflow_types.go, RetryPolicyActual).
    """
    if "config" in settings:
        content = (yaml.safe_load(settings["config"]) or {}).get("workflowDefaults")
    else:
        content = yaml.safe_load(settings.get("workflowDefaults", ""))
    for key in ("spec", "templateDefaults", "retryStrategy"):
        content = (content or {}).get(key)
    strategy = content or {}
    return strategy.get("retryPolicy") or ("Always" if strategy.get("expression") else "OnFailure")


def _training_faults(api: Any, cluster: Cluster) -> Iterator[str]:
    from kubernetes.client import CustomObjectsApi, VersionApi

    version = VersionApi().get_code(_request_timeout=TIMEOUT)
    if (int(version.major), int(version.minor.rstrip("+"))) < KUBERNETES:
        lowest = ".".join(map(str, KUBERNETES))
        yield f"nodes: Kubernetes {version.git_version} is too old for Kubeflow Trainer; it needs {lowest} or later"
    read_claim = api.read_namespaced_persistent_volume_claim
    if _read_object(read_claim, cluster.storage, cluster.namespace) is None:
        yield f"storage: there is no claim {cluster.storage} in {cluster.namespace}"
    read_runtime = partial(CustomObjectsApi().get_cluster_custom_object, *API, "clustertrainingruntimes")
    if _read_object(read_runtime, RUNTIME) is None:
        yield f"nodes: there is no ClusterTrainingRuntime {RUNTIME}; install Kubeflow Trainer"


def _read_object(read: Any, *names: str) -> Any:
    """An object of the cluster; None if it does not exist."""
    from kubernetes.client import ApiException

    try:
        return read(*names, _request_timeout=TIMEOUT)
    except ApiException as error:
        if error.status == 404:
            return None
        raise
