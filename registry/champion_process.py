"""A registered model, run by the code that was registered with it: in a process of its own, as modules of two
versions have the same names."""

import os
import subprocess
import sys
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from catalog.schema import DataError
from registry import tracking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"  # alias


def of(name: str) -> "ModelVersion | None":
    """A model's champion, if there is one; nothing is made or written down.

    Args:
        name: Of the model.

    Raises:
        DataError: where MLflow cannot be reached.
    """
    if not tracking.exists():
        return None
    client = tracking.connect()
    with tracking.reached():
        found = client.search_registered_models(f"name = '{name}'")
        number = found[0].aliases.get(CHAMPION) if found else None
        return client.get_model_version(name, number) if number else None


def fetch(version: "ModelVersion", folder: Path) -> Path:
    """What was registered, as a folder below `folder`."""
    import mlflow

    uri = f"models:/{version.name}/{version.version}"
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))


def artifact(package: Path, name: str) -> Path:
    """A part of what was registered: "model", "index" or "profile".

    Raises:
        DataError: where it has none, as it was not registered by this chain.
    """
    flavour = yaml.safe_load((package / "MLmodel").read_text())["flavors"].get("python_function", {})
    try:
        return package / flavour["artifacts"][name]["path"]  # MLflow keeps the name that the folder had
    except KeyError as error:
        raise DataError(
            f"the champion holds no {name}; move the alias 'champion' to a version that this chain registered"
        ) from error


def run(package: Path, verb: str, **flags: object) -> None:
    """`python -m fusion VERB --model … --FLAG …`, of a registered model; what it says goes to stderr.

    Args:
        package: Of `fetch`.
        verb: Of `fusion`.
        flags: Paths must be absolute.

    Raises:
        DataError: where it fails, or its environment cannot be made.
    """
    words = [f"--{name}={value}" for name, value in flags.items()]
    command = [python_for(package), "-m", "fusion", verb, f"--model={artifact(package, 'model')}", *words]
    environment = os.environ | {"PYTHONPATH": str(package / "code"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, env=environment, cwd=package, check=False)
    if done.returncode:
        raise DataError(
            f"the champion's own code failed to {verb} ({done.returncode}); what it said stands above"
        )


def python_for(package: Path) -> str:
    """An interpreter with what a registered model needs: this one where that is installed, else one made for it.

    What is made is kept in the user's cache, for other models that need the same.

    Raises:
        DataError: where it cannot be made.
    """
    needed = [line for line in (package / "requirements.txt").read_text().splitlines() if line.strip()]
    version = yaml.safe_load((package / "python_env.yaml").read_text())["python"]
    here = ".".join(map(str, sys.version_info[:2]))
    if version.startswith(f"{here}.") and all(_installed(line) for line in needed):
        return sys.executable
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine"
    key = blake2b("\n".join([version, *sorted(needed)]).encode(), digest_size=8).hexdigest()
    made = cache / key
    if not (made / "whole").exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"the champion needs other libraries than are installed here; making {made}", file=sys.stderr)
        major = ".".join(version.split(".")[:2])
        uv = [sys.executable, "-m", "uv"]
        for command in (
            [*uv, "venv", "--quiet", "--clear", "--python", major, str(made)],
            [*uv, "pip", "install", "--quiet", "--python", str(made), *needed],
        ):
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise DataError(f"the champion's environment could not be made: {done.stderr.strip()[-500:]}")
        (made / "whole").touch()
    return str(made / "bin" / "python")


def _installed(line: str) -> bool:
    from packaging.requirements import Requirement

    wanted = Requirement(line)
    try:
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
