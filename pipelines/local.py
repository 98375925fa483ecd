"""The pipeline on this machine, with kfp's local runner: every step in a process or a container of its own."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog import store
from catalog.schema import DataError
from pipelines.cluster import USER, Cluster, checkout
from pipelines.fetch import resolve
from pipelines.training import pipeline

PASSED = ("MLFLOW_", "AWS_", "GIT_", "VITRINE_", "OMP_")  # variables that containers are given


def run(
    repo: str,
    rev: str,
    params: Mapping[str, Any],
    root: Path,
    image: str | None = None,
    shards: int = 1,
    cache: bool = False,
) -> None:
    """Run the pipeline here.

    Args:
        repo: Git repository that versions the data set.
        rev: Any name of a commit.
        params: All sections of params.yaml.
        root: Folder for the steps' outputs.
        image: That the steps run in, with no network but this machine's, a read-only root and without privileges;
            None for processes of this environment.
        shards: That featurize is divided into.
        cache: Whether steps are reused whose code, parameters and data's content are those of an earlier run.

    Raises:
        DataError: where the commit is unknown or a step fails.
    """
    from kfp import local

    repo = repo if "://" in repo else str(Path(repo).resolve())
    commit = resolve(repo, rev)
    root = root.resolve()
    # kfp's own look at the image's name says nothing here: this interpreter runs the steps
    warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)
    # nothing here counts devices, or keeps secrets
    warnings.filterwarnings("ignore", "Task .* have no effect in the current local runner", UserWarning)
    runner = _containers(image, repo, root) if image else local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(root), enable_caching=cache)
    name = image or f"vitrine:python-{code()}"  # no image, but what the cache knows the code by
    here = Cluster(images={"cpu": name, "cuda": name}, shards=shards)
    try:
        pipeline(here, checkout())(repo=repo, rev=commit, **params)
    except RuntimeError as error:
        told = re.sub(r"\x1b\[\d+m", "", str(error))
        raise DataError(f"{told}; the failing step's own message stands above") from error


def code() -> str:
    """A hash of the code that steps run here."""
    import catalog
    import components
    import eval as judge
    import fusion
    import pipelines

    places = (
        place for package in (catalog, components, fusion, judge, pipelines) for place in package.__path__
    )
    files = (path for place in places for path in sorted(Path(place).rglob("*")))
    return store.fingerprint(*(path for path in files if path.suffix in {".py", ".jinja"}))


def _containers(image: str, repo: str, root: Path) -> Any:
    import docker
    from docker.errors import DockerException, ImageNotFound
    from docker.types import Mount
    from kfp import local

    try:
        docker.from_env().images.get(image)
    except ImageNotFound as error:
        raise DataError(
            f"--image {image}: not on this machine; pull it, or build it (make test-image)"
        ) from error
    except DockerException as error:
        raise DataError(f"--image {image}: no Docker engine answers here ({error})") from error
    root.mkdir(parents=True, exist_ok=True)
    user = os.getuid() or USER
    if user != os.getuid():
        os.chown(root, user, user)
    mounts = [] if "://" in repo else [Mount(repo, repo, "bind", read_only=True)]
    given = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    return local.DockerRunner(
        user=f"{user}:{user}",
        read_only=True,
        tmpfs={"/tmp": "exec"},  # noqa: S108 - the container's own
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="host",
        shm_size="1g",
        working_dir=str(root),  # where a local MLflow store is
        mounts=mounts,
        environment=given,
    )
