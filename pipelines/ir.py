"""The compiled pipeline: KFP's intermediate representation, as text and as messages."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.compiler import Compiler
from kfp.kubernetes import kubernetes_executor_config_pb2 as platform_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from catalog.schema import DataError
from pipelines.cluster import Cluster
from pipelines.definitions import DEFAULT, PIPELINES


def compile_pipeline(
    cluster: Cluster, commit: str, params: Mapping[str, Any], pipeline: str = DEFAULT
) -> str:
    """A pipeline for a cluster as YAML; the same arguments give the same bytes.

    Args:
        cluster: Settings of the cluster.
        commit: Commit of the code, for the names of the images.
        params: Defaults of the pipeline's parameters.
        pipeline: A key of `PIPELINES`.

    Raises:
        DataError: if KFP cannot compile it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        try:
            component = PIPELINES[pipeline].build(cluster, commit)
            Compiler().compile(component, str(path), pipeline_parameters=dict(params))
        except (ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"the pipeline cannot be compiled: {error}") from error
        # kfp's header repeats the defaults in an order that changes from run to run; they also stand below it
        return re.sub(r"^(#.*) \[Default: .*\]$", r"\1", path.read_text(), flags=re.MULTILINE)


def parse_pipeline(text: str) -> tuple[Any, dict[str, Any]]:
    """The pipeline, and the Kubernetes settings of each executor.

    Raises:
        DataError: if a document does not match KFP's protocol buffers; names the place.
    """
    try:
        documents = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        raise DataError(f"not YAML: {' '.join(str(error).split())}") from error
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise DataError("not a compiled pipeline: expected keys and values")
    spec, platform = documents[0], documents[1] if len(documents) > 1 else {}
    message = _parse_message(spec, pipeline_spec_pb2.PipelineSpec(), "not KFP's PipelineSpec")
    for name, executor in spec.get("deploymentSpec", {}).get("executors", {}).items():
        _parse_message(executor, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec(), name)
    settings = (
        platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    )
    for name, executor in settings.items():
        _parse_message(executor, platform_pb2.KubernetesExecutorConfig(), f"platform of {name}")
    return message, settings


def _parse_message(content: dict[str, Any], message: Any, place: str) -> Any:
    """Fill a protocol buffer message."""
    try:
        return json_format.ParseDict(content, message)
    except json_format.ParseError as error:
        raise DataError(f"{place}: {error}") from error
