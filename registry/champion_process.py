"""Runs a registered model with the code it was registered with.

That needs a process of its own: modules of two versions have the same names.
"""

import os
import subprocess
import sys
from hashlib import blake2b
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from catalog.schema import DataError
from registry import mlflow_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"  # alias
MODEL_FILE = "MLmodel"  # of a package: its content
COMPLETE = "whole"  # empty file in a cached environment whose installation succeeded


def find_version(name: str, role: str = CHAMPION) -> "ModelVersion | None":
    """A version of a model; creates and records nothing.

    Args:
        name: Of the model.
        role: An alias, such as "champion", or the number of a version.

    Returns:
        None if no version has the alias or the number.

    Raises:
        DataError: where MLflow cannot be reached.
    """
    if not mlflow_store.store_exists():
        return None
    client = mlflow_store.connect()
    with mlflow_store.translate_errors():
        models = client.search_registered_models(f"name = '{name}'")
        number = models[0].aliases.get(role) if models else None
        if number:
            return client.get_model_version(name, str(number))
        versions = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    return next((version for version in versions if str(version.version) == role), None)


def download_model(version: "ModelVersion", folder: Path) -> Path:
    """Download a registered model's package; its path below `folder`."""
    import mlflow

    uri = f"models:/{version.name}/{version.version}"
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))


def list_missing_files(version: "ModelVersion") -> list[str]:
    """List the files and folders of a registered model that its store does not have any more; downloads only MLmodel.

    Raises:
        MlflowException: where the store cannot be reached.
    """
    import mlflow

    uri = f"models:/{version.name}/{version.version}"
    present = {file.path for file in mlflow.artifacts.list_artifacts(artifact_uri=uri)}
    if MODEL_FILE not in present:
        return [MODEL_FILE]
    flavour = _read_flavour(mlflow.artifacts.load_text(f"{uri}/{MODEL_FILE}"))
    paths = [artifact["path"] for artifact in flavour.get("artifacts", {}).values()]
    for folder in {str(PurePosixPath(path).parent) for path in paths}:
        for entry in mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}/{folder}"):
            # an empty folder is as bad as none
            if not entry.is_dir or mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}/{entry.path}"):
                present.add(entry.path)
    return [path for path in paths if path not in present]


def has_artifact(version: "ModelVersion", name: str) -> bool:
    """Whether the package of a registered model has an artifact, such as "index"; downloads only MLmodel.

    Raises:
        MlflowException: where the store cannot be reached.
    """
    import mlflow

    text = mlflow.artifacts.load_text(f"models:/{version.name}/{version.version}/{MODEL_FILE}")
    return name in _read_flavour(text).get("artifacts", {})


def _read_flavour(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)["flavors"].get("python_function", {})


def list_artifacts(package: Path) -> dict[str, Path]:
    """The paths of a package's artifacts, such as "model", "index", "profile" and "query_splits", by name.

    Args:
        package: Of `download_model`.
    """
    flavour = _read_flavour((package / MODEL_FILE).read_text())
    # MLflow keeps the folder's original name
    return {name: package / artifact["path"] for name, artifact in flavour.get("artifacts", {}).items()}


def find_artifact(package: Path, name: str) -> Path:
    """The path of a package's artifact.

    Raises:
        DataError: where it has none, as it was not registered by this chain.
    """
    artifacts = list_artifacts(package)
    if name not in artifacts:
        raise DataError(
            f"the champion has no {name}; move the alias 'champion' to a version that this chain registered"
        )
    return artifacts[name]


def run_in_own_environment(package: Path, verb: str, **flags: object) -> None:
    """Run `python -m fusion VERB --model … --FLAG …` of a registered model; its messages go to stderr.

    Args:
        package: Of `download_model`.
        verb: Of `fusion`.
        flags: Paths must be absolute.

    Raises:
        DataError: where it fails, or its environment cannot be created.
    """
    words = [f"--{name}={value}" for name, value in flags.items()]
    model = find_artifact(package, "model")
    command = [prepare_interpreter(package), "-m", "fusion", verb, f"--model={model}", *words]
    environment = os.environ | {"PYTHONPATH": str(package / "code"), "PYTHONSAFEPATH": "1"}
    process = subprocess.run(command, env=environment, cwd=package, check=False)
    if process.returncode:
        raise DataError(
            f"the champion's own code failed to {verb} (exit code {process.returncode}); its messages are above"
        )


def prepare_interpreter(package: Path) -> str:
    """A Python with the model's requirements: this one if they are installed here, else one of a new environment.

    The new environment stays in the user's cache, for other models with the same requirements.

    Raises:
        DataError: where it cannot be created.
    """
    lines = (package / "requirements.txt").read_text().splitlines()
    requirements = [line for line in lines if line.strip()]
    python_version = yaml.safe_load((package / "python_env.yaml").read_text())["python"]
    current = ".".join(map(str, sys.version_info[:2]))
    if python_version.startswith(f"{current}.") and all(map(_is_installed, requirements)):
        return sys.executable
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine"
    text = "\n".join([python_version, *sorted(requirements)])
    environment = cache / blake2b(text.encode(), digest_size=8).hexdigest()
    if not (environment / COMPLETE).exists():
        print(
            f"the champion needs libraries that are not installed here; creating {environment}",
            file=sys.stderr,
        )
        _create_environment(environment, python_version, requirements)
    return str(environment / "bin" / "python")


def _create_environment(environment: Path, python_version: str, requirements: list[str]) -> None:
    environment.parent.mkdir(parents=True, exist_ok=True)
    minor_version = ".".join(python_version.split(".")[:2])
    uv = [sys.executable, "-m", "uv"]
    for command in (
        [*uv, "venv", "--quiet", "--clear", "--python", minor_version, str(environment)],
        [*uv, "pip", "install", "--quiet", "--python", str(environment), *requirements],
    ):
        process = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if process.returncode:
            error = process.stderr.strip()[-500:]
            raise DataError(f"the champion's environment could not be created: {error}")
    (environment / COMPLETE).touch()


def _is_installed(line: str) -> bool:
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
