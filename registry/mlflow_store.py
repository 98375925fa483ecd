"""The connection to MLflow: which store, its errors, and repeated attempts."""

import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from catalog.schema import DataError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "product-search"
ATTEMPTS, WAIT = 4, 5  # number of attempts; seconds, multiplied by the attempt


def project_folder() -> Path:
    """The project's folder, also from the temporary copies that `dvc exp run --temp` and `--queue` work in."""
    return Path(os.environ.get("DVC_ROOT", Path.cwd()))


def store_exists() -> bool:
    """Whether there is a store: the project's file, or a configured server."""
    return "MLFLOW_TRACKING_URI" in os.environ or (project_folder() / "mlflow.db").exists()


def connect() -> "MlflowClient":
    """A client of MLFLOW_TRACKING_URI. Without one: of a SQLite file and an artifact folder in the project's folder.

    Raises:
        DataError: where the store cannot be reached.
    """
    import mlflow

    for name in ("mlflow", "alembic"):  # hides their progress messages
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        _create_store(project_folder() / "mlflow.db")
        mlflow.set_tracking_uri(_local_uri())
    with translate_errors(OSError):
        client = mlflow.MlflowClient()
        mlflow.set_experiment(experiment_id=ensure_experiment(client, EXPERIMENT))
    return client


def has_server() -> bool:
    """Whether MLFLOW_TRACKING_URI names a server, not a file."""
    return urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).scheme in ("http", "https")


def _local_uri() -> str:
    return f"sqlite:///{project_folder() / 'mlflow.db'}"


def _create_store(path: Path) -> None:
    """Let MLflow create its tables: all or none, as it does not recover from a half-created set after a kill."""
    import mlflow

    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # other experiments may start at the same time
        if not path.exists():
            partial = path.with_name(f".{path.name}.partial")
            partial.unlink(missing_ok=True)
            mlflow.MlflowClient(f"sqlite:///{partial}").search_experiments()
            partial.rename(path)
    finally:
        os.close(folder)


@contextmanager
def translate_errors(*more: type[Exception]) -> Iterator[None]:
    """Turn errors of MLflow and of the network, and the types in `more`, into one message.

    MLflow's client has retried for minutes by then, with growing pauses; see MLFLOW_HTTP_REQUEST_MAX_RETRIES.

    Raises:
        DataError: where the store cannot be reached, or refuses the request.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    caught: tuple[type[Exception], ...] = (MlflowException, RequestException, ConnectionError, TimeoutError)
    try:
        yield
    except (*caught, *more) as error:
        raise DataError(
            f"MLflow at {mlflow.get_tracking_uri()} cannot be reached, or refuses: {error}\n  check "
            "MLFLOW_TRACKING_URI and the server, then run the same command again: no work is lost, and nothing is "
            "trained again"
        ) from error


def with_retries(work: Callable[[], None]) -> None:
    """Do repeatable work; repeat it where a response was cut off, which MLflow's client does not do.

    Raises:
        DataError: as `translate_errors`; also where responses were cut off `ATTEMPTS` times.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ChunkedEncodingError

    for attempt in range(1, ATTEMPTS + 1):
        with translate_errors():
            try:
                work()
                return
            except (MlflowException, ChunkedEncodingError) as error:
                cut_off = any(isinstance(cause, ChunkedEncodingError) for cause in (error, error.__context__))
                if not cut_off or attempt == ATTEMPTS:
                    raise
        print(f"MLflow's response was cut off; retrying in {WAIT * attempt} s", file=sys.stderr)
        time.sleep(WAIT * attempt)


def ensure_experiment(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, created if missing. Without a server, its artifacts are in the project's folder."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        is_local = client.tracking_uri == _local_uri()
        artifacts = (project_folder() / "mlartifacts").as_uri() if is_local else None
        try:
            return str(client.create_experiment(name, artifacts))
        except MlflowException:  # another process was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return str(experiment.experiment_id)
