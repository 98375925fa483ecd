"""Checks of a pipeline and its cluster file before they are sent. KFP reports some of these faults only at run time."""

import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from google.protobuf import json_format

from catalog.schema import DataError
from components.params import load_pipeline_params
from pipelines import ir
from pipelines.cluster import (
    PASSWORD,
    SECRET_NAME,
    TARGETS,
    Cluster,
    check_image_tag,
    current_commit,
    load_cluster,
)
from pipelines.nodes import API, RUNTIME

TIMEOUT = 10  # seconds
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def check_pipeline(cluster_file: Path, params_file: Path) -> None:
    """Check everything that this machine can check; print what it could not check.

    Raises:
        DataError: with all faults.
    """
    cluster = load_cluster(cluster_file)
    text = ir.compile_pipeline(cluster, current_commit(), load_pipeline_params(params_file))
    faults = [*find_faults(text), *find_placement_faults(cluster)]
    for find_missing in (find_missing_images, find_missing_objects):
        try:
            faults += find_missing(cluster)
        except ConnectionError as error:
            print(f"check: not checked: {error}", file=sys.stderr)
    if faults:
        raise DataError("\n  ".join([f"{cluster_file}: {len(faults)} faults:", *faults]))
    print(f"{cluster_file}: no faults found")


def find_faults(text: str) -> list[str]:
    """Faults of a compiled pipeline, each with its place: protocol buffers, graph, types, names, images, secrets."""
    try:
        spec, platform = ir.parse_pipeline(text)
    except DataError as error:
        return [str(error)]
    executors = json_format.MessageToDict(spec.deployment_spec).get("executors", {})
    faults = [*_root_faults(spec), *_dag_faults("root", spec.root, spec)]
    for name, component in spec.components.items():
        if component.WhichOneof("implementation") == "dag":
            faults += _dag_faults(name, component, spec)
        elif component.executor_label not in executors:
            faults.append(f"{name}: there is no executor '{component.executor_label}'")
    labels = {component.executor_label for component in spec.components.values()}
    faults += [f"platform: there is no executor '{name}'" for name in platform if name not in labels]
    for name, executor in executors.items():
        faults += _container_faults(name, executor.get("container", {}))
    return faults


def _root_faults(spec: Any) -> Iterator[str]:
    """Faults in the name of the pipeline and in the defaults of its parameters."""
    if not _DNS_NAME.fullmatch(spec.pipeline_info.name):
        yield f"pipelineInfo.name: '{spec.pipeline_info.name}' is not a DNS name"
    for key, parameter in spec.root.input_definitions.parameters.items():
        if parameter.HasField("default_value") and (
            mismatch := _type_mismatch(parameter.parameter_type, parameter.default_value)
        ):
            yield f"root parameter {key}: {mismatch}"


def _dag_faults(place: str, owner: Any, spec: Any) -> Iterator[str]:
    """Faults of the tasks of one graph.

    Args:
        place: Name of the graph, for messages.
        owner: The component that holds the graph.
        spec: The whole pipeline.
    """
    tasks = owner.dag.tasks
    for name, task in tasks.items():
        task_place = f"{place}, task {name}"
        if not _DNS_NAME.fullmatch(name):
            yield f"{task_place}: the name must be a DNS name of at most 63 letters"
        component = spec.components.get(task.component_ref.name)
        if component is None:
            yield f"{task_place}: there is no component '{task.component_ref.name}'"
            continue
        for dependency in task.dependent_tasks:
            if dependency not in tasks:
                yield f"{task_place}: depends on '{dependency}', which is not a task here"
        for kind in ("artifacts", "parameters"):
            yield from _input_faults(task_place, kind, task, component, owner, spec)
    yield from _cycles(place, tasks)


def _input_faults(place: str, kind: str, task: Any, component: Any, owner: Any, spec: Any) -> Iterator[str]:
    """Faults of a task's artifacts or parameters: missing, unknown to the component, or from a wrong source."""
    definitions = getattr(component.input_definitions, kind)
    sources = getattr(task.inputs, kind)
    for key, definition in definitions.items():
        if key not in sources and not definition.is_optional and key != task.parameter_iterator.item_input:
            yield f"{place}: input {key} is missing"
    for key, source in sources.items():
        if key not in definitions:
            yield f"{place}: its component has no input {key}"
        else:
            yield from _source_faults(f"{place}, input {key}", kind, definitions[key], source, owner, spec)


def _source_faults(
    place: str, kind: str, definition: Any, source: Any, owner: Any, spec: Any
) -> Iterator[str]:
    """Faults of one input's source: it must exist and have the input's type.

    Args:
        place: Name of the input, for messages.
        kind: "artifacts" or "parameters".
        definition: The input, as its component defines it.
        source: Where its value comes from.
        owner: The component that holds the graph.
        spec: The whole pipeline.
    """
    source_kind = source.WhichOneof("kind")
    if source_kind == "runtime_value":
        if mismatch := _type_mismatch(definition.parameter_type, source.runtime_value.constant):
            yield f"{place}: {mismatch}"
        return
    if source_kind in {"task_output_artifact", "task_output_parameter"}:
        fault, output = _task_output(kind, getattr(source, source_kind), owner, spec)
    elif source_kind in {"component_input_artifact", "component_input_parameter"}:
        fault, output = _component_input(kind, getattr(source, source_kind), owner)
    else:
        return
    if fault:
        yield f"{place}: {fault}"
    elif output is not None:
        yield from _output_type_faults(place, kind, definition, output)


def _task_output(kind: str, source: Any, owner: Any, spec: Any) -> tuple[str | None, Any]:
    """A fault, or the definition of the output of another task that a source names."""
    tasks = owner.dag.tasks
    key = source.output_artifact_key if kind == "artifacts" else source.output_parameter_key
    if source.producer_task not in tasks:
        return f"comes from '{source.producer_task}', which is not a task here", None
    producer = spec.components.get(tasks[source.producer_task].component_ref.name)
    outputs = getattr(producer.output_definitions, kind) if producer else {}
    if key not in outputs:
        return f"'{source.producer_task}' has no output {key}", None
    return None, outputs[key]


def _component_input(kind: str, key: str, owner: Any) -> tuple[str | None, Any]:
    """A fault, or the definition of the input of the graph that a source names; neither for the item of a loop."""
    inputs = getattr(owner.input_definitions, kind)
    if key in inputs:
        return None, inputs[key]
    loop_items = {
        task.parameter_iterator.item_input
        for task in owner.dag.tasks.values()
        if task.parameter_iterator.item_input
    }
    return (None if key in loop_items else f"comes from the input '{key}', which does not exist"), None


def _output_type_faults(place: str, kind: str, definition: Any, output: Any) -> Iterator[str]:
    """The type of an input must be that of the output it takes; `system.Artifact` takes every artifact."""
    if kind == "parameters" and output.parameter_type != definition.parameter_type:
        names = ir.pipeline_spec_pb2.ParameterType.ParameterTypeEnum
        yield f"{place}: is {names.Name(output.parameter_type)}, not {names.Name(definition.parameter_type)}"
    if kind == "artifacts" and definition.artifact_type.schema_title not in {
        "system.Artifact",
        output.artifact_type.schema_title,
    }:
        yield f"{place}: is {output.artifact_type.schema_title}, not {definition.artifact_type.schema_title}"


def _type_mismatch(parameter_type: int, value: Any) -> str | None:
    """How the type of a constant differs from that of its parameter; None if it does not."""
    names = ir.pipeline_spec_pb2.ParameterType
    value_kinds = {
        names.STRING: {"string_value"},
        names.NUMBER_INTEGER: {"number_value"},
        names.NUMBER_DOUBLE: {"number_value"},
        names.BOOLEAN: {"bool_value"},
        names.LIST: {"list_value"},
        names.STRUCT: {"struct_value"},
    }
    kind = value.WhichOneof("kind")
    if parameter_type in value_kinds and kind not in value_kinds[parameter_type] | {None}:
        type_name = names.ParameterTypeEnum.Name(parameter_type)
        return f"is a {kind.removesuffix('_value')}, not {type_name}"
    return None


def _cycles(place: str, tasks: Mapping[str, Any]) -> Iterator[str]:
    dependencies = {
        name: {
            getattr(source, kind).producer_task
            for source in [*task.inputs.artifacts.values(), *task.inputs.parameters.values()]
            if (kind := source.WhichOneof("kind")) and kind.startswith("task_output")
        }
        | set(task.dependent_tasks)
        for name, task in tasks.items()
    }
    while ready := {name for name, before in dependencies.items() if not before & set(dependencies)}:
        dependencies = {name: before for name, before in dependencies.items() if name not in ready}
    if dependencies:
        yield f"{place}: {', '.join(sorted(dependencies))} wait for each other"


def _container_faults(name: str, container: Mapping[str, Any]) -> Iterator[str]:
    if not container.get("image"):
        yield f"{name}: has no image"
    else:
        try:
            check_image_tag(container["image"])
        except ValueError as error:
            yield f"{name}: {error}"
    for variable in container.get("env", []):
        if SECRET_NAME.search(variable["name"]) or PASSWORD.search(variable.get("value", "")):
            yield f"{name}: the value of {variable['name']} looks like a secret; everybody could read it in KFP"


def find_placement_faults(cluster: Cluster) -> Iterator[str]:
    """Contradictions between keys of a cluster file that are valid by themselves."""
    for step, target in TARGETS.items():
        placement = cluster.placement(step)
        if placement.accelerator and (placement.image or target) == "cpu":
            yield (
                f"steps.{step}: requests {placement.accelerator.type}, but runs in the cpu image, "
                "which cannot use it"
            )


def find_missing_images(cluster: Cluster) -> list[str]:
    """Images that their registries do not have.

    Raises:
        ConnectionError: if an image cannot be checked: it names no registry, or the registry requires credentials.
    """
    faults, unchecked = [], []
    for target in cluster.images:
        image = cluster.images[target].replace("{commit}", current_commit())
        host, slash, name = image.partition("/")
        if not slash or not (set(host) & {".", ":"} or host == "localhost"):
            unchecked.append(f"image {image}: it names no registry")
            continue
        try:
            status = _request_manifest(host, name)
        except requests.RequestException as error:
            faults.append(f"images.{target}: {host} cannot be reached ({type(error).__name__})")
            continue
        if status in {401, 403}:
            unchecked.append(f"image {image}: its registry requires credentials")
        elif status >= 400:
            faults.append(f"images.{target}: {image} does not exist (the registry answers {status})")
    if unchecked and not faults:
        raise ConnectionError("; ".join(unchecked))
    return faults


def _request_manifest(host: str, name: str) -> int:
    """The HTTP status with which a registry answers for an image."""
    repository, tag = name.rsplit("@" if "@" in name else ":", 1)
    scheme = "http" if host.partition(":")[0] in {"localhost", "127.0.0.1"} else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{tag}"
    return requests.head(url, headers={"Accept": MANIFESTS}, timeout=TIMEOUT).status_code


def find_missing_objects(cluster: Cluster) -> list[str]:
    """What the cluster lacks: secrets, keys of secrets, the service account, and what multi-node training needs.

    Raises:
        ConnectionError: if no cluster can be reached.
    """
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    try:
        config.load_kube_config()
    except config.ConfigException as error:
        raise ConnectionError(
            f"secrets and service account: no cluster is configured here ({error})"
        ) from error
    api = client.CoreV1Api()
    try:
        faults = [*_secret_faults(api, cluster), *_account_faults(api, cluster)]
        if cluster.nodes > 1:
            faults += _training_faults(api, cluster)
    except (HTTPError, client.ApiException) as error:
        host = urlsplit(api.api_client.configuration.host).netloc
        raise ConnectionError(
            f"secrets and service account: {host} does not answer ({type(error).__name__})"
        ) from error
    return faults


def _secret_faults(api: Any, cluster: Cluster) -> Iterator[str]:
    for name, (keys, place) in cluster.required_secrets().items():
        if (secret := _read_object(api.read_namespaced_secret, name, cluster.namespace)) is None:
            yield f"{place}: there is no secret {name} in {cluster.namespace}"
        elif missing := keys - set(secret.data or {}):
            yield f"{place}: the secret {name} has no key {', '.join(sorted(missing))}"


def _account_faults(api: Any, cluster: Cluster) -> Iterator[str]:
    account = cluster.service_account
    if account and _read_object(api.read_namespaced_service_account, account, cluster.namespace) is None:
        yield f"service_account: there is no {account} in {cluster.namespace}"


def _training_faults(api: Any, cluster: Cluster) -> Iterator[str]:
    from kubernetes.client import CustomObjectsApi

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
