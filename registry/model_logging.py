"""The registered model: what is logged to MLflow, so that it serves without this repository."""

from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion.search.catalogue_search import FIELDS, FILTERS, SearchIndex
from registry.model_registry import copied_from

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CODE = ("catalog", "fusion", "plugins")
# MLflow runs this file where the model is served; nothing here imports it
PYFUNC = Path(__file__).parents[1] / "serving" / "pyfunc.py"


def registered(
    client: "MlflowClient",
    run: "ActiveRun",
    model: Path,
    index: Path,
    profile: Path,
    name: str,
    tags: dict[str, str],
    published: bool = False,
) -> "ModelVersion":
    """The run's model version: found, or logged and registered.

    Args:
        client: Of `tracking.connect`.
        run: Of `tracking.run`.
        model: What `train` wrote.
        index: What `fusion.search.catalogue_search.SearchIndex` wrote.
        profile: Of its data, as a file: of `validation.drift.with_vectors`.
        name: Of the registered model.
        tags: Of a new version.
        published: Whether one of its encoders is in the Hugging Face format.
    """
    if versions := _versions(client, run, name):
        return versions[0]
    import mlflow

    mlflow.register_model(_logged(client, run) or _log(model, index, profile, published), name, tags=tags)
    # A request that the server served and could not answer was sent again: the second version is one too many.
    first, *duplicates = _versions(client, run, name)
    for duplicate in duplicates:
        client.delete_model_version(name, duplicate.version)
    return first


def requirements(published: bool = False) -> list[str]:
    """What serving needs, at the versions installed here: Vitrine's own requirements and MLflow's.

    Args:
        published: Whether an encoder is in the Hugging Face format.
    """
    from packaging.requirements import Requirement
    from packaging.version import Version

    needed = [Requirement(line) for line in metadata.requires("vitrine") or []]
    names = [one.name for one in needed if not one.marker] + ["mlflow", "pandas"]
    names += ["transformers"] * published
    return [f"{name}=={Version(metadata.version(name)).public}" for name in names]


def _versions(client: "MlflowClient", run: "ActiveRun", name: str) -> "list[ModelVersion]":
    """The run's versions of one model, without the copies that MLflow makes of them, which have the same run."""
    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    originals = [version for version in versions if version.name == name and not copied_from(version)]
    return sorted(originals, key=lambda version: int(version.version))


def _logged(client: "MlflowClient", run: "ActiveRun") -> str | None:
    """Where an attempt that was killed before it registered left the model; what it did not finish is removed."""
    from mlflow.entities import LoggedModelStatus

    own = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    whole = [one for one in own if one.status == LoggedModelStatus.READY]
    for one in own:
        if one not in whole[:1]:
            client.delete_logged_model(one.model_id)
    return whole[0].model_uri if whole else None


def _log(model: Path, index: Path, profile: Path, published: bool) -> str:
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property, Schema

    values = [Property(name, Array(DataType.string), required=False) for name in FILTERS]
    params = [
        ParamSpec("k", "long", 10),
        ParamSpec("filters", Object(values), {}),
        ParamSpec("min_price", "double", None),
        ParamSpec("max_price", "double", None),
    ]
    outputs = {"query": "long", "rank": "long", "score": "double", "product_id": "string", "title": "string"}
    maybe = {name: "double" if name == "price" else "string" for name in FIELDS}
    shares = [f"share_{name}" for name in SearchIndex.load(index).without]
    columns: list[Any] = [
        ColSpec(kind, name, required=name in outputs) for name, kind in (outputs | maybe).items()
    ]
    columns += [ColSpec("double", name) for name in shares]
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=PYFUNC,
        artifacts={"model": str(model), "index": str(index), "profile": str(profile)},
        code_paths=[str(_source(package)) for package in CODE],
        # no schema of the inputs: MLflow would drop columns that it does not know, where the model refuses them
        signature=ModelSignature(None, Schema(columns), ParamSchema(params)),
        input_example=(pd.DataFrame({"text": ["red dotted mug"]}), {"k": 5, "filters": {"color": ["red"]}}),
        pip_requirements=requirements(published),
    ).model_uri


def _source(package: str) -> Path:
    return Path(import_module(package).__path__[0])
