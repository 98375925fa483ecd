"""Logs and registers a model in MLflow, with all files that it needs to serve without this repository."""

import json
from collections.abc import Collection, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion.encoders.ocr import open_reader
from fusion.featurizer import SETTINGS
from fusion.model import ModelConfig
from fusion.search.filters import FILTERS
from fusion.search.search_index import FIELDS
from registry.model_registry import copied_from

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

RUNTIME_PACKAGES = {"torch": [], "openvino": ["openvino"]}  # see fusion.encoders.runtime
CODE = ("catalog", "vitrine_judge", "fusion", "plugins")
# MLflow runs this file where the model is served; nothing here imports it
PYFUNC = Path(__file__).parents[1] / "serving" / "pyfunc.py"


def ensure_registered(
    client: "MlflowClient",
    run: "ActiveRun",
    artifacts: Mapping[str, Path],
    signature: "ModelSignature",
    name: str,
    tags: dict[str, str],
    packages: Collection[str] = (),
) -> "ModelVersion":
    """The run's model version; it is logged and registered if the run has none.

    Args:
        client: Of `registry.mlflow_store.connect`.
        run: Of `registry.mlflow_runs.open_chain_run`.
        artifacts: "model", what `train` wrote; "index", what `index` wrote, unless it serves only with later indexes;
            "hybrid", of `fusion.search.hybrid.Hybrid.save`; "profile", the profile of its data, of
            `validation.drift.add_vectors`; "query_splits", of `validation.query_splits.hash_splits`.
        signature: Of `create_signature`.
        name: Of the registered model.
        tags: Of a new version.
        packages: See `list_requirements`.
    """
    if versions := _list_versions(client, run, name):
        return versions[0]
    import mlflow

    model_uri = _find_logged_model(client, run) or _log_model(artifacts, signature, packages)
    mlflow.register_model(model_uri, name, tags=tags)
    # MLflow's client repeats a request whose response was lost, which makes a second version.
    first, *duplicates = _list_versions(client, run, name)
    for duplicate in duplicates:
        client.delete_model_version(name, duplicate.version)
    return first


def list_requirements(packages: Collection[str] = ()) -> list[str]:
    """Vitrine's requirements and MLflow's, at the versions that are installed here.

    Args:
        packages: The packages that read its encoders.
    """
    from packaging.requirements import Requirement
    from packaging.version import Version

    vitrine_requirements = [Requirement(line) for line in metadata.requires("vitrine") or []]
    names = [requirement.name for requirement in vitrine_requirements if not requirement.marker]
    names.remove("vitrine-judge")  # its code is logged with the model
    names += ["mlflow", "pandas", *packages]
    return [f"{name}=={Version(metadata.version(name)).public}" for name in names]


def list_featurizer_packages(model: Path) -> list[str]:
    """The packages that run the image encoder and read the text on pictures; `model` is what `train` wrote."""
    settings = json.loads((model / SETTINGS).read_text())
    reader_packages = open_reader(settings["ocr"]).packages if settings["ocr"] else ()
    return [*RUNTIME_PACKAGES[settings["runtime"]], *reader_packages]


def _list_versions(client: "MlflowClient", run: "ActiveRun", name: str) -> "list[ModelVersion]":
    """The run's versions of one model, without copies that MLflow made of them: these have the same run."""
    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    originals = [version for version in versions if version.name == name and not copied_from(version)]
    return sorted(originals, key=lambda version: int(version.version))


def _find_logged_model(client: "MlflowClient", run: "ActiveRun") -> str | None:
    """The address of a model that a killed attempt logged and did not register; deletes incomplete ones."""
    from mlflow.entities import LoggedModelStatus

    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    ready = [model for model in models if model.status == LoggedModelStatus.READY]
    for model in models:
        if model not in ready[:1]:
            client.delete_logged_model(model.model_id)
    return ready[0].model_uri if ready else None


def _log_model(artifacts: Mapping[str, Path], signature: "ModelSignature", packages: Collection[str]) -> str:
    """Log a model to the active run; its address."""
    import mlflow
    import pandas as pd

    return mlflow.pyfunc.log_model(
        name="model",
        python_model=PYFUNC,
        artifacts={name: str(path) for name, path in artifacts.items()},
        code_paths=[str(_find_package(package)) for package in CODE],
        signature=signature,
        input_example=(pd.DataFrame({"text": ["red dotted mug"]}), {"k": 5, "filters": {"color": ["red"]}}),
        pip_requirements=list_requirements(
            sorted({*packages, *list_featurizer_packages(artifacts["model"])})
        ),
    ).model_uri


def create_signature(model: Path) -> "ModelSignature":
    """The parameters and output columns of the served model; `model` is what `train` wrote.

    It has no input schema: MLflow would drop unknown columns, but the model must reject them.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property, Schema

    values = [Property(name, Array(DataType.string), required=False) for name in FILTERS]
    params = [
        ParamSpec("k", "long", 10),
        ParamSpec("filters", Object(values), {}),
        ParamSpec("min_price", "double", None),
        ParamSpec("max_price", "double", None),
        ParamSpec("available", "boolean", None),
        ParamSpec("collapse", "boolean", None),
    ]
    outputs = {"query": "long", "rank": "long", "score": "double", "product_id": "string", "title": "string"}
    kinds = {"price": "double", "max_price": "double", "available": "boolean"}
    optional_outputs = {name: kinds.get(name, "string") for name in FIELDS}
    shares = [f"share_{name}" for name in ModelConfig.load(model).modalities]
    columns: list[Any] = [
        ColSpec(kind, name, required=name in outputs) for name, kind in (outputs | optional_outputs).items()
    ]
    columns += [ColSpec("double", name) for name in shares]
    return ModelSignature(None, Schema(columns), ParamSchema(params))


def _find_package(package: str) -> Path:
    return Path(import_module(package).__path__[0])
