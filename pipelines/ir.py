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
from pipelines.training import pipeline

Spec = pipeline_spec_pb2.PipelineSpec


def compiled(cluster: Cluster, commit: str, params: Mapping[str, Any]) -> str:
    """The pipeline of a cluster as YAML; the same arguments give the same bytes.

    Args:
        cluster: Where it is to run.
        commit: Of the code, for images that are named by it.
        params: Defaults of the pipeline's parameters.

    Raises:
        DataError: where KFP finds a fault.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        try:
            Compiler().compile(pipeline(cluster, commit), str(path), pipeline_parameters=dict(params))
        except (ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"the pipeline cannot be compiled: {error}") from error
        # kfp's header repeats the defaults in an order that changes from run to run; they also stand below it
        return re.sub(r"^(#.*) \[Default: .*\]$", r"\1", path.read_text(), flags=re.MULTILINE)


def parsed(text: str) -> tuple[Any, dict[str, Any]]:
    """The pipeline, and by executor what it asks of Kubernetes.

    Raises:
        DataError: where a document is not what KFP's protocol buffers say, with the place.
    """
    try:
        documents = [one for one in yaml.safe_load_all(text) if one]
    except yaml.YAMLError as error:
        raise DataError(f"not YAML: {' '.join(str(error).split())}") from error
    if not documents or not all(isinstance(one, dict) for one in documents):
        raise DataError("not a compiled pipeline: expected keys and values")
    spec, platform = documents[0], documents[1] if len(documents) > 1 else {}
    message = _message(spec, Spec(), "not KFP's PipelineSpec")
    for name, one in spec.get("deploymentSpec", {}).get("executors", {}).items():
        _message(one, pipeline_spec_pb2.PipelineDeploymentConfig.ExecutorSpec(), name)
    settings = (
        platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    )
    for name, one in settings.items():
        _message(one, platform_pb2.KubernetesExecutorConfig(), f"platform of {name}")
    return message, settings


def _message(content: dict[str, Any], kind: Any, place: str) -> Any:
    """Fill a message of protocol buffers."""
    try:
        return json_format.ParseDict(content, kind)
    except json_format.ParseError as error:
        raise DataError(f"{place}: {error}") from error
