"""MLflow runs: the only module that starts or resumes a run, and logs to it."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from catalog.schema import TABLES, DataError
from registry.mlflow_store import EXPERIMENT, connect, ensure_experiment, translate_errors
from registry.task_runs import leave_task_run, link_task_run

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient
    from mlflow.entities import Run as MlflowRun

CHAIN = "vitrine.chain"  # tag
TRAINING = "vitrine.training"  # tag
PERIOD = "vitrine.period"  # tag
TABLES_TAG = "mlflow.loggedArtifacts"  # tells MLflow's UI which JSON files are tables


def metric_name(name: str) -> str:
    """A metric's name without "@", which MLflow forbids: "ndcg@10" → "ndcg_at_10"."""
    return name.replace("@", "_at_")


@contextmanager
def open_chain_run(chain: str, training: str, tags: Mapping[str, str]) -> Iterator["ActiveRun"]:
    """Open the one MLflow run of a chain: resume that of an earlier attempt or of its training, or start one.

    Args:
        chain: Identifies the output of the chain; a second call with the same value resumes the same run.
        training: Identifies data and settings of the training, as for `track_training`.
        tags: Set when the run first belongs to the chain. They do not change later.

    Where KFP's MLflow plugin is on, the step that first calls this is the run's parent.
    """
    import mlflow

    client = mlflow.MlflowClient()
    with leave_task_run(client) as task_run, _start_chain_run(chain, training, tags) as run:
        is_new = CHAIN not in run.data.tags  # of its training
        link_task_run(client, run, task_run, "register", move=is_new)
        if is_new:
            mlflow.set_tags({CHAIN: chain, **tags})
        yield run


def _start_chain_run(chain: str, training: str, tags: Mapping[str, str]) -> "ActiveRun":
    import mlflow

    if chain_runs := _search_runs(CHAIN, chain):
        return mlflow.start_run(run_id=chain_runs[0].info.run_id)
    if free := [trained for trained in _search_runs(TRAINING, training) if CHAIN not in trained.data.tags]:
        return mlflow.start_run(run_id=free[0].info.run_id)
    return mlflow.start_run(run_name=f"chain-{chain[:8]}", tags={TRAINING: training, CHAIN: chain, **tags})


def _search_runs(tag: str, value: str) -> list["MlflowRun"]:
    import mlflow

    return mlflow.search_runs(
        experiment_names=[EXPERIMENT], filter_string=f"tags.`{tag}` = '{value}'", output_format="list"
    )


@contextmanager
def track_training(training: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """Log a training to MLflow while it runs, where MLFLOW_TRACKING_URI is set.

    An error of MLflow prints one warning. The training goes on without logging.

    Args:
        training: Identifies data and settings; the same training resumes the same run.

    Yields:
        A function to call after each epoch, with the epoch's number in `epoch`, and metrics.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ:
        yield lambda _: None
        return
    from mlflow.exceptions import MlflowException

    with ExitStack() as stack:
        try:
            client = connect()
            run = stack.enter_context(_open_training_run(client, training))
        except (DataError, MlflowException) as error:
            print(f"train: warning: not shown in MLflow: {error}", file=sys.stderr)
            yield lambda _: None
            return
        yield _epoch_logger(client, run)


@contextmanager
def _open_training_run(client: "MlflowClient", training: str) -> Iterator["ActiveRun"]:
    with leave_task_run(client) as task_run, _start_training_run(training) as run:
        link_task_run(client, run, task_run, "train")
        yield run


def _start_training_run(training: str) -> "ActiveRun":
    import mlflow

    if runs := _search_runs(TRAINING, training):
        return mlflow.start_run(run_id=runs[0].info.run_id)
    return mlflow.start_run(run_name=f"train-{training[:8]}", tags={TRAINING: training})


def _epoch_logger(client: "MlflowClient", run: "ActiveRun") -> Callable[[dict[str, float]], None]:
    """A function that logs one epoch; only its first failure prints a warning."""
    from mlflow.exceptions import MlflowException

    errors: list[str] = []

    def log_epoch(row: dict[str, float]) -> None:
        try:
            log_values(client, run, {}, {}, [row])
        except MlflowException as error:
            if not errors:
                print(f"train: warning: no longer shown in MLflow: {error}", file=sys.stderr)
            errors.append(str(error))

    return log_epoch


def log_values(
    client: "MlflowClient",
    run: "MlflowRun",
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    curves: list[dict[str, float]],
) -> None:
    """Log parameters, metrics and learning curves to a run; a repeated call changes nothing.

    Args:
        client: Of `connect`.
        run: Of `open_chain_run`.
        params: Name → value.
        metrics: Name → value.
        curves: One row per epoch, with its number in `epoch`.
    """
    from mlflow.entities import Metric, Param

    start_time = run.info.start_time  # a fixed time: repeated points are identical
    points = [Metric(metric_name(name), value, start_time, 0) for name, value in metrics.items()]
    for row in curves:
        points += [
            Metric(f"train/{name}", value, start_time, int(row["epoch"]))
            for name, value in row.items()
            if name != "epoch"
        ]
    settings = [Param(name, _param_text(value)) for name, value in params.items()]
    client.log_batch(run.info.run_id, points, settings)


def _param_text(value: Any) -> str:
    """The same text for equal values: KFP changes the order of keys, and MLflow refuses changed parameters."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def log_table(client: "MlflowClient", run: "MlflowRun", name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log a table as an artifact, which MLflow's UI shows as a table; a repeated call changes nothing.

    MLflow's own `log_table` would append to the table of an earlier attempt.

    Args:
        client: Of `connect`.
        run: Of `open_chain_run`.
        name: Of the artifact; ends in ".json".
        rows: With equal columns; numbers, texts or None. Numbers are rounded to four decimals.
    """
    columns = list(rows[0]) if rows else []
    cells = [[row[column] for column in columns] for row in rows]
    rounded = [[round(cell, 4) if isinstance(cell, float) else cell for cell in line] for line in cells]
    table = {"columns": columns, "data": rounded}
    client.log_text(run.info.run_id, json.dumps(table, allow_nan=False), name)
    tags = client.get_run(run.info.run_id).data.tags
    tables = json.loads(tags.get(TABLES_TAG, "[]"))
    entry = {"path": name, "type": "table"}
    if entry not in tables:
        client.set_tag(run.info.run_id, TABLES_TAG, json.dumps([*tables, entry]))


def log_files(run: "MlflowRun", folder: Path, names: Sequence[str], destination: str | None = None) -> None:
    """Log files and folders below `folder` as artifacts, at the same relative paths below `destination`."""
    import mlflow

    client = mlflow.MlflowClient()
    for name in names:
        path, place = folder / name, PurePosixPath(destination or "", name)
        if path.is_dir():
            client.log_artifacts(run.info.run_id, str(path), str(place))
        else:
            client.log_artifact(run.info.run_id, str(path), str(place.parent) if place.parent.name else None)


def download_artifact(run_id: str, name: str, folder: Path) -> Path:
    """Download an artifact of a run, a file or folder; its path below `folder`."""
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=str(folder)))


def log_dataset(
    client: "MlflowClient", run: "MlflowRun", validation: Mapping[str, Any], lineage: Mapping[str, str]
) -> None:
    """Log the data set as the run's input; a repeated call changes nothing.

    Args:
        client: Of `connect`.
        run: Of `open_chain_run`.
        validation: The report of `validate` on the data.
        lineage: Of `registry.lineage.collect_lineage`.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [
        {"name": f"{table}.{field.name}", "type": str(field.type), "required": not field.nullable}
        for table, schema in TABLES.items()
        for field in schema
    ]
    source = {tag.removeprefix("vitrine."): text for tag, text in lineage.items() if "data" in tag}
    dataset = Dataset(
        name="data",
        digest=lineage["vitrine.data"],
        source_type="dvc",
        source=json.dumps(source),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(validation["counts"]),
    )
    context = InputTag("mlflow.data.context", "training and evaluation")
    client.log_inputs(run.info.run_id, [DatasetInput(dataset, [context])])


def log_period(
    experiment: str,
    period: tuple[datetime, datetime],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    pages: Mapping[str, str],
) -> tuple[str, str]:
    """Log a period to the one run that it has in an experiment; a repeated call changes only what differs.

    Args:
        experiment: Name, created if missing.
        period: Start and end, with a time zone.
        metrics: Name → value.
        tags: Name → value.
        pages: Name of a file → its text.

    Returns:
        The ids of the experiment and of the run.

    Raises:
        DataError: where MLflow cannot be reached.
    """
    from mlflow.entities import Metric, RunTag

    client = connect()
    key = "/".join(time.astimezone(UTC).isoformat(timespec="minutes") for time in period)
    start, end = (int(1000 * time.timestamp()) for time in period)
    with translate_errors():
        experiment_id = ensure_experiment(client, experiment)
        runs = client.search_runs([experiment_id], f"tags.`{PERIOD}` = '{key}'")
        run = runs[0] if runs else client.create_run(experiment_id, start, {PERIOD: key}, key.split("+")[0])
        now = int(1000 * datetime.now(UTC).timestamp())  # the latest value of a metric counts
        changed = {name: value for name, value in metrics.items() if run.data.metrics.get(name) != value}
        points = [Metric(name, value, now, 0) for name, value in changed.items()]
        client.log_batch(run.info.run_id, points, tags=[RunTag(name, value) for name, value in tags.items()])
        for name, text in pages.items():
            client.log_text(run.info.run_id, text, name)
        client.set_terminated(run.info.run_id, end_time=end)
    return experiment_id, str(run.info.run_id)
