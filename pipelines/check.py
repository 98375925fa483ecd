"""Checks of a pipeline and its cluster file before they are sent. KFP reports some of these faults only at run time."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from google.protobuf import json_format

from catalog.schema import DataError
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
from pipelines.definitions import PIPELINES, load_parameters
from pipelines.inspection import inspect_cluster, inspect_images

_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def check_pipeline(cluster_file: Path, params_file: Path, settings_file: Path, pipeline: str) -> None:
    """Check everything that this machine can check; print what it could not check, and limits of the cluster.

    Args:
        cluster_file: The cluster file.
        params_file: The params.yaml.
        settings_file: The serving.yaml.
        pipeline: A key of `PIPELINES`.

    Raises:
        DataError: with all faults.
    """
    cluster = load_cluster(cluster_file)
    definition = PIPELINES[pipeline]
    params = load_parameters(definition, params_file, settings_file)
    text = ir.compile_pipeline(cluster, current_commit(), params, pipeline)
    faults = [*find_faults(text), *find_placement_faults(cluster, definition.steps), *find_log_faults(params)]
    for findings in (inspect_images(cluster), inspect_cluster(cluster, definition.steps)):
        faults += findings.faults
        for note in findings.notes:
            print(f"check: {note}", file=sys.stderr)
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise DataError("\n  ".join([f"{cluster_file}: {count}:", *faults]))
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


def find_log_faults(params: Mapping[str, Any]) -> Iterator[str]:
    """Whether pods can read the log of requests, if it is among the parameters of a pipeline."""
    if "log" not in params:
        return
    folder = params["log"].get("folder")
    if not folder or urlsplit(folder).scheme in {"", "file"}:
        yield f"log.folder: {folder or 'null'}: pods cannot read it; give an address such as s3://BUCKET/PREFIX"


def find_placement_faults(cluster: Cluster, steps: Sequence[str]) -> Iterator[str]:
    """Contradictions between keys of a cluster file, for the steps of a pipeline, that are valid by themselves."""
    for step in steps:
        placement = cluster.placement(step)
        if placement.accelerator and (placement.image or TARGETS[step]) == "cpu":
            yield (
                f"steps.{step}: requests {placement.accelerator.type}, but runs in the cpu image, "
                "which cannot use it"
            )
