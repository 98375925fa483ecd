"""What is wrong with a pipeline and its cluster file, before it is sent. KFP finds some of it only when it runs."""

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
from components.params import pipeline_params
from pipelines import ir
from pipelines.cluster import PASSWORD, SECRET_NAME, TARGETS, Cluster, checkout, load, tagged
from pipelines.nodes import API, RUNTIME

PATIENCE = 10  # seconds
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def report(cluster: Path, params: Path) -> None:
    """Check all that can be checked from here; what cannot is said.

    Raises:
        DataError: with all faults.
    """
    where = load(cluster)
    text = ir.compiled(where, checkout(), pipeline_params(params))
    found = [*faults(text), *placement_faults(where)]
    for ask in (missing_images, missing_objects):
        try:
            found += ask(where)
        except ConnectionError as error:
            print(f"check: not checked: {error}", file=sys.stderr)
    if found:
        raise DataError("\n  ".join([f"{cluster}: {len(found)} faults:", *found]))
    print(f"{cluster}: nothing wrong was found")


def faults(text: str) -> list[str]:
    """Faults of a compiled pipeline, each with its place: what its protocol buffers, its graph and its names say."""
    try:
        spec, platform = ir.parsed(text)
    except DataError as error:
        return [str(error)]
    executors = json_format.MessageToDict(spec.deployment_spec).get("executors", {})
    found = []
    if not _NAME.fullmatch(spec.pipeline_info.name):
        found.append(f"pipelineInfo.name: '{spec.pipeline_info.name}' is no DNS name")
    for key, default in spec.root.input_definitions.parameters.items():
        if default.HasField("default_value") and (
            told := _other_type(default.parameter_type, default.default_value)
        ):
            found.append(f"root parameter {key}: {told}")
    found += _dag_faults("root", spec.root, spec)
    for name, component in spec.components.items():
        if component.WhichOneof("implementation") == "dag":
            found += _dag_faults(name, component, spec)
        elif component.executor_label not in executors:
            found.append(f"{name}: there is no executor '{component.executor_label}'")
    labels = {one.executor_label for one in spec.components.values()}
    found += [f"platform: there is no executor '{name}'" for name in platform if name not in labels]
    for name, executor in executors.items():
        found += _container_faults(name, executor.get("container", {}))
    return found


def _dag_faults(place: str, owner: Any, spec: Any) -> Iterator[str]:
    tasks = owner.dag.tasks
    for name, task in tasks.items():
        at = f"{place}, task {name}"
        if not _NAME.fullmatch(name):
            yield f"{at}: no DNS name of at most 63 letters"
        component = spec.components.get(task.component_ref.name)
        if component is None:
            yield f"{at}: there is no component '{task.component_ref.name}'"
            continue
        for other in task.dependent_tasks:
            if other not in tasks:
                yield f"{at}: depends on '{other}', which is no task here"
        for kind in ("artifacts", "parameters"):
            wanted = getattr(component.input_definitions, kind)
            given = getattr(task.inputs, kind)
            for key, one in wanted.items():
                if key not in given and not one.is_optional and key != task.parameter_iterator.item_input:
                    yield f"{at}: input {key} is not given"
            for key, source in given.items():
                if key not in wanted:
                    yield f"{at}: its component takes no input {key}"
                else:
                    yield from _source_faults(f"{at}, input {key}", kind, wanted[key], source, owner, spec)
    yield from _cycles(place, tasks)


def _source_faults(at: str, kind: str, wanted: Any, source: Any, owner: Any, spec: Any) -> Iterator[str]:
    tasks = owner.dag.tasks
    made = source.WhichOneof("kind")
    if made in {"task_output_artifact", "task_output_parameter"}:
        one = getattr(source, made)
        key = one.output_artifact_key if kind == "artifacts" else one.output_parameter_key
        if one.producer_task not in tasks:
            yield f"{at}: comes from '{one.producer_task}', which is no task here"
            return
        maker = spec.components.get(tasks[one.producer_task].component_ref.name)
        made_there = getattr(maker.output_definitions, kind) if maker else {}
        if key not in made_there:
            yield f"{at}: '{one.producer_task}' makes no {key}"
            return
        found = made_there[key]
    elif made in {"component_input_artifact", "component_input_parameter"}:
        key = getattr(source, made)
        ours = getattr(owner.input_definitions, kind)
        loop = {one for task in tasks.values() for one in [task.parameter_iterator.item_input] if one}
        if key not in ours:
            if key not in loop:
                yield f"{at}: comes from the input '{key}', which is not there"
            return
        found = ours[key]
    elif made == "runtime_value":
        if told := _other_type(wanted.parameter_type, source.runtime_value.constant):
            yield f"{at}: {told}"
        return
    else:
        return
    if kind == "parameters" and found.parameter_type != wanted.parameter_type:
        names = ir.pipeline_spec_pb2.ParameterType.ParameterTypeEnum
        yield f"{at}: is {names.Name(found.parameter_type)}, not {names.Name(wanted.parameter_type)}"
    if kind == "artifacts" and wanted.artifact_type.schema_title not in {
        "system.Artifact",
        found.artifact_type.schema_title,
    }:
        yield f"{at}: is {found.artifact_type.schema_title}, not {wanted.artifact_type.schema_title}"


def _other_type(wanted: int, value: Any) -> str | None:
    """How a constant differs from the type of its parameter."""
    names = ir.pipeline_spec_pb2.ParameterType
    fits = {
        names.STRING: {"string_value"},
        names.NUMBER_INTEGER: {"number_value"},
        names.NUMBER_DOUBLE: {"number_value"},
        names.BOOLEAN: {"bool_value"},
        names.LIST: {"list_value"},
        names.STRUCT: {"struct_value"},
    }
    kind = value.WhichOneof("kind")
    if wanted in fits and kind not in fits[wanted] | {None}:
        return f"is a {kind.removesuffix('_value')}, not {names.ParameterTypeEnum.Name(wanted)}"
    return None


def _cycles(place: str, tasks: Mapping[str, Any]) -> Iterator[str]:
    before = {
        name: {
            getattr(source, kind).producer_task
            for source in [*task.inputs.artifacts.values(), *task.inputs.parameters.values()]
            if (kind := source.WhichOneof("kind")) and kind.startswith("task_output")
        }
        | set(task.dependent_tasks)
        for name, task in tasks.items()
    }
    while ready := {name for name, needs in before.items() if not needs & set(before)}:
        before = {name: needs for name, needs in before.items() if name not in ready}
    if before:
        yield f"{place}: {', '.join(sorted(before))} wait for each other"


def _container_faults(name: str, container: Mapping[str, Any]) -> Iterator[str]:
    if not container.get("image"):
        yield f"{name}: names no image"
    else:
        try:
            tagged(container["image"])
        except ValueError as error:
            yield f"{name}: {error}"
    for one in container.get("env", []):
        if SECRET_NAME.search(one["name"]) or PASSWORD.search(one.get("value", "")):
            yield f"{name}: the value of {one['name']} looks like a secret, and would be readable in KFP"


def placement_faults(cluster: Cluster) -> Iterator[str]:
    """What each key allows, and all of them together do not."""
    for step, target in TARGETS.items():
        wanted = cluster.placement(step)
        if wanted.accelerator and (wanted.image or target) == "cpu":
            yield f"steps.{step}: asks for {wanted.accelerator.type}, and runs in the cpu image, which cannot use it"


def missing_images(cluster: Cluster) -> list[str]:
    """Images that their registries do not have.

    Raises:
        ConnectionError: where an image names no registry, or it wants credentials.
    """
    found, unknown = [], []
    for target in cluster.images:
        image = cluster.images[target].replace("{commit}", checkout())
        host, slash, name = image.partition("/")
        if not slash or not (set(host) & {".", ":"} or host == "localhost"):
            unknown.append(f"image {image}: it names no registry that could be asked")
            continue
        repository, tag = name.rsplit("@" if "@" in name else ":", 1)
        scheme = "http" if host.partition(":")[0] in {"localhost", "127.0.0.1"} else "https"
        try:
            answer = requests.head(
                f"{scheme}://{host}/v2/{repository}/manifests/{tag}",
                headers={"Accept": MANIFESTS},
                timeout=PATIENCE,
            )
        except requests.RequestException as error:
            found.append(f"images.{target}: {host} cannot be reached ({type(error).__name__})")
            continue
        if answer.status_code in {401, 403}:
            unknown.append(f"image {image}: its registry wants credentials")
        elif not answer.ok:
            found.append(f"images.{target}: {image} is not there (the registry answers {answer.status_code})")
    if unknown and not found:
        raise ConnectionError("; ".join(unknown))
    return found


def missing_objects(cluster: Cluster) -> list[str]:
    """What the cluster lacks: secrets, keys of secrets, the service account, and what several nodes train with.

    Raises:
        ConnectionError: where no cluster can be asked.
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
    found = []
    try:
        for name, (keys, place) in cluster.secrets().items():
            if (secret := _read(api.read_namespaced_secret, name, cluster.namespace)) is None:
                found.append(f"{place}: there is no secret {name} in {cluster.namespace}")
            elif lacking := keys - set(secret.data or {}):
                found.append(f"{place}: the secret {name} has no key {', '.join(sorted(lacking))}")
        account = cluster.service_account
        if account and _read(api.read_namespaced_service_account, account, cluster.namespace) is None:
            found.append(f"service_account: there is no {account} in {cluster.namespace}")
        if cluster.nodes > 1:
            claims = api.read_namespaced_persistent_volume_claim
            if _read(claims, cluster.storage, cluster.namespace) is None:
                found.append(f"storage: there is no claim {cluster.storage} in {cluster.namespace}")
            runtimes = partial(
                client.CustomObjectsApi().get_cluster_custom_object, *API, "clustertrainingruntimes"
            )
            if _read(runtimes, RUNTIME) is None:
                found.append(f"nodes: there is no ClusterTrainingRuntime {RUNTIME}; install Kubeflow Trainer")
    except (HTTPError, client.ApiException) as error:
        host = urlsplit(api.api_client.configuration.host).netloc
        raise ConnectionError(
            f"secrets and service account: {host} does not answer ({type(error).__name__})"
        ) from error
    return found


def _read(ask: Any, *names: str) -> Any:
    from kubernetes.client import ApiException

    try:
        return ask(*names, _request_timeout=PATIENCE)
    except ApiException as error:
        if error.status == 404:
            return None
        raise
