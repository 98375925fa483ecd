"""The pipeline on this machine, with kfp's local runner: each step runs in its own process or container."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog import store
from catalog.schema import DataError
from pipelines.cluster import USER_ID, Cluster, current_commit
from pipelines.code_deps import PACKAGES, PLUGINS, ROOT
from pipelines.definitions import DEFAULT, PIPELINES
from pipelines.fetch import resolve_commit

CONTAINER_VARIABLES = (
    "MLFLOW_",
    "AWS_",
    "GIT_",
    "VITRINE_",
    "OMP_",
)  # prefixes of variables passed to containers
CODE_SUFFIXES = {".py", ".jinja", ".css"}


def run_pipeline(
    repo: str,
    rev: str,
    params: Mapping[str, Any],
    root: Path,
    image: str | None = None,
    shards: int = 1,
    cache: bool = False,
    pipeline: str = DEFAULT,
) -> None:
    """Run a pipeline on this machine.

    Args:
        repo: Git repository that versions the data set.
        rev: Commit id, branch or tag.
        params: Values of the parameters; see `pipelines.definitions.load_parameters`.
        root: Folder for the steps' outputs.
        image: Image for the steps; containers get only this machine's network, a read-only root and no privileges. None
            runs the steps as processes of this environment.
        shards: Number of featurize shards.
        cache: Whether to reuse steps of earlier runs that had the same code, parameters and data.
        pipeline: A key of `PIPELINES`.

    Raises:
        DataError: if the commit is unknown or a step fails.
    """
    from kfp import local

    repo = repo if "://" in repo else str(Path(repo).resolve())
    commit = resolve_commit(repo, rev)
    root = root.resolve()
    # kfp warns about the image's name, but this interpreter runs the steps
    warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)
    # the local runner has no accelerators and no secrets
    warnings.filterwarnings("ignore", "Task .* have no effect in the current local runner", UserWarning)
    runner = _docker_runner(image, repo, root) if image else local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(root), enable_caching=cache)
    name = image or f"vitrine:python-{hash_code()}"  # not a real image: identifies the code in KFP's cache
    cluster = Cluster(images={"cpu": name, "cuda": name}, shards=shards)
    try:
        PIPELINES[pipeline].build(cluster, current_commit())(repo=repo, rev=commit, **params)
    except RuntimeError as error:
        message = re.sub(r"\x1b\[\d+m", "", str(error))
        raise DataError(f"{message}; see the message of the failed step above") from error


def hash_code() -> str:
    """A hash of the code that the steps run."""
    files = (
        path for package in (*PACKAGES, PLUGINS, "pipelines") for path in sorted((ROOT / package).rglob("*"))
    )
    return store.fingerprint(*(path for path in files if path.suffix in CODE_SUFFIXES))


def _docker_runner(image: str, repo: str, root: Path) -> Any:
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
    user = os.getuid() or USER_ID
    if user != os.getuid():
        os.chown(root, user, user)
    mounts = [] if "://" in repo else [Mount(repo, repo, "bind", read_only=True)]
    environment = {name: value for name, value in os.environ.items() if name.startswith(CONTAINER_VARIABLES)}
    return local.DockerRunner(
        user=f"{user}:{user}",
        read_only=True,
        tmpfs={"/tmp": "exec"},  # noqa: S108 - inside the container
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="host",
        shm_size="1g",
        working_dir=str(root),  # holds the local MLflow store
        mounts=mounts,
        environment=environment,
    )
