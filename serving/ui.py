"""MLflow's UI on this machine, for the project's local store: `make ui`."""

import os
import sys
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import mlflow

from catalog.command import run_command
from components.params import RegisterParams, load_section
from registry import local_stack, mlflow_store, mlflow_urls


def build_links(model_name: str) -> str:
    """Build links to runs and versions; MLflow's first page shows neither.

    Args:
        model_name: Name of the registered model.

    Raises:
        DataError: the store cannot be reached.
    """
    client = mlflow_store.connect()
    with mlflow_store.translate_errors():
        experiment = mlflow_store.ensure_experiment(client, mlflow_store.EXPERIMENT)
    return f"  runs:     {mlflow_urls.experiment_url(experiment)}\n  versions: {mlflow_urls.model_url(model_name)}"


def main() -> None:
    """Print the links; start MLflow's server unless the store is a server already."""
    params = cast(RegisterParams, load_section(Path("params.yaml"), "register"))
    print(f"Open in a browser:\n{build_links(params.model_name)}", flush=True)
    if mlflow_store.has_server():
        return
    address = urlsplit(mlflow_urls.UI_ADDRESS)
    # SQLite allows one writer at a time: more workers gain nothing, and fail on a loaded machine
    command = ["-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", mlflow.get_tracking_uri()]
    command += ["--default-artifact-root", str(mlflow_store.project_folder() / "mlartifacts")]
    command += ["--host", str(address.hostname), "--port", str(address.port)]
    os.environ.update(local_stack.NO_JOBS)
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 - fixed program and arguments


if __name__ == "__main__":
    sys.exit(run_command(main))
