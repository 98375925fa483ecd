"""Publishes an index that `python -m serving refresh` built.

The index is logged to an MLflow run of its own. Then the version's tag names it, as the last step: a reader sees the
previous index or the whole new one, and a killed attempt is taken up by the next.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.schema import DataError
from fusion.search.marker import IndexMarker
from registry.live_index import INDEX
from registry.mlflow_store import ensure_experiment, translate_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

EXPERIMENT = "vitrine-refresh"
JUDGED_INDEX = "vitrine.judged_index"  # tag of a version: marker of the index that it was judged with
MODEL, VERSION, MARKER = (
    "vitrine.index.model",
    "vitrine.index.version",
    "vitrine.index.marker",
)  # tags of a run
NO_TAGS: Mapping[str, str] = {}
FOLDER = "index"  # artifact of a run
ABANDONED = timedelta(days=1)  # an older attempt that did not finish was killed
DELETED_RUNS = 10  # looked at for files that a killed command left


def publish(
    client: "MlflowClient",
    version: "ModelVersion",
    folder: Path,
    metrics: Mapping[str, float],
    keep: int,
    tags: Mapping[str, str] = NO_TAGS,
) -> str:
    """Make an index the one that a version serves; a repeated call changes nothing.

    Args:
        client: Of `registry.mlflow_store.connect`.
        version: Whose model made the index.
        folder: The index.
        metrics: Logged with it.
        keep: Number of the version's indexes to keep; older ones are deleted.
        tags: Of a new run.

    Returns:
        The address of the index.

    Raises:
        DataError: where another model made the index, or MLflow cannot be reached.
    """
    marker = IndexMarker.load(folder)
    require_model(version, marker)
    with translate_errors():
        experiment = ensure_experiment(client, EXPERIMENT)
        described = {MARKER: json.dumps(marker.describe(), sort_keys=True), **_identify(version), **tags}
        address = _log_index(client, experiment, version, folder, described, metrics)
        client.set_model_version_tag(version.name, str(version.version), INDEX, address)
        _delete_old_indexes(client, experiment, version, address, keep)
    return address


def require_model(version: "ModelVersion", marker: IndexMarker) -> None:
    """Refuse an index of another model than the version's.

    Raises:
        DataError: the markers differ, or the version has none.
    """
    judged = json.loads(version.tags.get(JUDGED_INDEX, "{}"))
    if any(judged.get(part) != value for part, value in marker.model._asdict().items()):
        raise DataError(
            f"version {version.version} of {version.name} did not make this index ({marker.model}); refresh again"
        )


def _log_index(
    client: "MlflowClient",
    experiment: str,
    version: "ModelVersion",
    folder: Path,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
) -> str:
    """Log an index, unless an earlier attempt did; its address."""
    runs = _list_runs(client, experiment, version)
    attempts = [run for run in runs if run.data.tags[MARKER] == tags[MARKER]]
    complete = [run for run in attempts if _is_complete(run)]
    if complete:
        return _address(complete[0])
    if attempts:
        run = attempts[0]
    else:
        name = f"version {version.version} · {datetime.now(UTC):%Y-%m-%d}"
        run = client.create_run(experiment, tags=dict(tags), run_name=name)
    client.log_artifacts(run.info.run_id, str(folder), FOLDER)
    for name, value in metrics.items():
        client.log_metric(run.info.run_id, name, value)
    client.set_terminated(run.info.run_id)
    return _address(run)


def _delete_old_indexes(
    client: "MlflowClient", experiment: str, version: "ModelVersion", address: str, keep: int
) -> None:
    """Delete a version's indexes but the newest, and what killed attempts left.

    Another refresh of the same version may run: its attempt is not older than the index that is served.
    """
    runs = _list_runs(client, experiment, version)
    served = next(run for run in runs if _address(run) == address)
    complete = sorted(filter(_is_complete, runs), key=lambda run: -run.info.end_time)
    old = [run for run in complete[keep:] if run.info.end_time < served.info.end_time]
    limit = (datetime.now(UTC) - ABANDONED).timestamp() * 1000
    abandoned = [run for run in runs if not _is_complete(run) and run.info.start_time < limit]
    for run in (*old, *abandoned):
        client.delete_run(run.info.run_id)  # first: a run without its files must not look complete
    _delete_files(_list_runs(client, experiment, version, deleted=True))


def _delete_files(runs: "Iterable[Run]") -> None:
    """Delete the indexes of deleted runs; MLflow keeps their files."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for run in runs:
        files = get_artifact_repository(run.info.artifact_uri)
        if any(file.path == FOLDER for file in files.list_artifacts()):
            files.delete_artifacts(FOLDER)


def _list_runs(
    client: "MlflowClient", experiment: str, version: "ModelVersion", deleted: bool = False
) -> "list[Run]":
    """The runs of a version's indexes, the newest first; of deleted ones `DELETED_RUNS`."""
    from mlflow.entities import ViewType

    text = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in _identify(version).items())
    view, count = (ViewType.DELETED_ONLY, DELETED_RUNS) if deleted else (ViewType.ACTIVE_ONLY, 1000)
    return list(client.search_runs([experiment], text, view, count))


def _identify(version: "ModelVersion") -> dict[str, str]:
    return {MODEL: version.name, VERSION: str(version.version)}


def _is_complete(run: "Run") -> bool:
    return bool(run.info.status == "FINISHED")


def _address(run: "Run") -> str:
    return f"runs:/{run.info.run_id}/{FOLDER}"
