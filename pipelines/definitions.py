"""The pipelines by name, for `--pipeline`: what builds them, their parameters and their steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl

from components.params import SECTIONS, load_pipeline_params
from pipelines.cluster import Cluster
from pipelines.monitor import build_monitor
from pipelines.refresh import build_refresh
from pipelines.training import build_training
from serving.params import load_serving_params

DEFAULT = "training"  # of --pipeline
PARAMS_FILE, SETTINGS_FILE = Path("params.yaml"), Path("serving.yaml")


class Definition(NamedTuple):
    """A pipeline."""

    name: str  # in Kubeflow Pipelines
    description: str
    build: Callable[[Cluster, str], dsl.base_component.BaseComponent]
    sections: tuple[
        str, ...
    ]  # of params.yaml, which are parameters of the pipeline; without `register`: `model_name`
    settings: tuple[str, ...]  # likewise of serving.yaml
    steps: tuple[str, ...]  # of `pipelines.cluster.TARGETS`


_DATA_STEPS = ("resolve", "fetch")
_VALID_DATA_STEPS = (*_DATA_STEPS, "validate", "require_valid")

PIPELINES = {
    "training": Definition(
        "vitrine-training",
        "train a model on a catalogue with judged queries, and register it",
        build_training,
        tuple(SECTIONS),
        (),
        (
            *_VALID_DATA_STEPS,
            "featurize",
            "gather",
            "train",
            "launch",
            "index",
            "evaluate",
            "register",
            "notify",
        ),
    ),
    "refresh": Definition(
        "vitrine-refresh",
        "publish the index of today's catalogue for the champion",
        build_refresh,
        ("validate",),
        ("refresh",),
        (*_VALID_DATA_STEPS, "refresh", "notify"),
    ),
    "monitor": Definition(
        "vitrine-monitor",
        "compare requests of yesterday with those of the week before",
        build_monitor,
        (),
        ("log", "monitor"),
        (*_DATA_STEPS, "monitor", "notify"),
    ),
}


def load_parameters(
    definition: Definition, params_file: Path = PARAMS_FILE, settings_file: Path = SETTINGS_FILE
) -> dict[str, Any]:
    """The values of a pipeline's parameters; reads serving.yaml only if some of them are there.

    Args:
        definition: The pipeline.
        params_file: The params.yaml.
        settings_file: The serving.yaml.

    Raises:
        DataError: if a file cannot be read, or any section of it is invalid.
    """
    params = load_pipeline_params(params_file)
    values: dict[str, Any] = {name: params[name] for name in definition.sections}
    if "register" not in definition.sections:
        values["model_name"] = params["register"]["model_name"]
    if definition.settings:
        settings = load_serving_params(settings_file).model_dump(mode="json", exclude_none=True)
        values |= {name: settings[name] for name in definition.settings}
    return values
