"""MLflow: the only place that starts, resumes or tags a run."""

import json
import logging
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from catalog.schema import DataError

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient

EXPERIMENT = "product-search"
CHAIN = "vitrine.chain"


def metric_name(name: str) -> str:
    """A metric's name as MLflow accepts it, which forbids "@": "ndcg@10" → "ndcg_at_10"."""
    return name.replace("@", "_at_")


def home() -> Path:
    """The project's folder, also from within the temporary copies that `dvc exp run --temp` and `--queue` work in."""
    return Path(os.environ.get("DVC_ROOT", Path.cwd()))


def connect() -> "MlflowClient":
    """A client of MLFLOW_TRACKING_URI, or else of a SQLite file in the project's folder with artifacts beside it.

    Raises:
        DataError: where the store cannot be reached.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):  # their progress is not the user's
        logging.getLogger(name).setLevel(logging.ERROR)
    local = "MLFLOW_TRACKING_URI" not in os.environ
    if local:
        mlflow.set_tracking_uri(f"sqlite:///{home() / 'mlflow.db'}")
    try:
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, (home() / "mlartifacts").as_uri() if local else None)
        mlflow.set_experiment(EXPERIMENT)
    except (MlflowException, OSError) as error:
        raise DataError(
            f"MLflow at {mlflow.get_tracking_uri()} cannot be reached ({error}); check MLFLOW_TRACKING_URI"
        ) from error
    return mlflow.MlflowClient()


@contextmanager
def run(chain: str, tags: Mapping[str, str]) -> Iterator["ActiveRun"]:
    """The one MLflow run of a chain: started, or taken up again where an earlier attempt left it.

    Args:
        chain: Identifies what the chain made; a second call with the same one finds the first one's run.
        tags: Set on the run when it is started; what it came from does not change later.
    """
    import mlflow

    found = mlflow.search_runs(
        experiment_names=[EXPERIMENT], filter_string=f"tags.`{CHAIN}` = '{chain}'", output_format="list"
    )
    run_id = found[0].info.run_id if found else None
    # an MLFLOW_RUN_ID left in the environment would win over what was found
    os.environ.pop("MLFLOW_RUN_ID", None)
    started: dict[str, Any] = (
        {} if found else {"run_name": f"chain-{chain[:8]}", "tags": {CHAIN: chain, **tags}}
    )
    with mlflow.start_run(run_id=run_id, **started) as one:
        yield one


def log(
    client: "MlflowClient",
    one: "ActiveRun",
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    curves: list[dict[str, float]],
) -> None:
    """Parameters, metrics and learning curves of a run; saying the same twice changes nothing.

    Args:
        client: Of `connect`.
        one: Of `run`.
        params: Name → value.
        metrics: Name → value.
        curves: One row an epoch, with its number in `epoch`.
    """
    from mlflow.entities import Metric, Param

    at = one.info.start_time  # a fixed time makes a repeated point the same point
    points = [Metric(metric_name(name), value, at, 0) for name, value in metrics.items()]
    for row in curves:
        points += [
            Metric(f"train/{name}", value, at, int(row["epoch"]))
            for name, value in row.items()
            if name != "epoch"
        ]
    settings = [Param(name, _text(value)) for name, value in params.items()]
    client.log_batch(one.info.run_id, points, settings)


def _text(value: Any) -> str:
    """The same for equal values: KFP passes the keys of a mapping in any order, and MLflow refuses what changes."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def attach(one: "ActiveRun", folder: Path, names: Sequence[str], under: str | None = None) -> None:
    """Files and folders of `folder` as artifacts of a run, in its folder `under`."""
    import mlflow

    client = mlflow.MlflowClient()
    for name in names:
        path = folder / name
        if path.is_dir():
            client.log_artifacts(one.info.run_id, str(path), f"{under}/{name}" if under else name)
        else:
            client.log_artifact(one.info.run_id, str(path), under)


def fetch(run_id: str, name: str, into: Path) -> Path:
    """An artifact of a run, as a file or folder below `into`."""
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=str(into)))


def lineage(data: str) -> dict[str, str]:
    """Where a run comes from, as tags: git commit, DVC hash and fingerprint of the data, image and pipeline run.

    What is not known where the code runs (no git in a container, no pipeline on a laptop) is left out.

    Args:
        data: Fingerprint of the data set.
    """
    tags = {"vitrine.data": data}
    commit = os.environ.get("VITRINE_COMMIT") or _git("rev-parse", "HEAD")
    if commit:
        tags["vitrine.git.commit"] = commit
        # dvc.lock is a result, which the stages before this one have just written
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!dvc.lock")
        tags["vitrine.git.dirty"] = str(bool(changed)).lower()
    pointer = Path("data.dvc")
    if pointer.exists():
        tags["vitrine.data.dvc"] = yaml.safe_load(pointer.read_text())["outs"][0]["md5"]
    for tag, variable in (("vitrine.image", "VITRINE_IMAGE"), ("vitrine.pipeline.run", "KFP_RUN_ID")):
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    return tags


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # no git here, or not a repository
