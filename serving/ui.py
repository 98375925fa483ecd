"""MLflow's UI on this machine, over the project's own store: `make ui`."""

import os
import sys
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import mlflow

from catalog.command import run
from components.params import RegisterParams, load
from registry import local_stack, tracking


def links(model_name: str) -> str:
    """Where runs and versions are; MLflow's first page shows neither.

    Args:
        model_name: Of the registered model.

    Raises:
        DataError: where the store cannot be reached.
    """
    client = tracking.connect()
    with tracking.reached():
        experiment = tracking.experiment(client, tracking.EXPERIMENT)
    return f"  runs:     {tracking.experiment_url(experiment)}\n  versions: {tracking.model_url(model_name)}"


def main() -> None:
    """Print the links, and become MLflow's server, where the store is not a server already."""
    params = cast(RegisterParams, load(Path("params.yaml"), "register"))
    print(f"Open in a browser:\n{links(params.model_name)}", flush=True)
    if tracking.has_server():
        return
    address = urlsplit(tracking.UI_ADDRESS)
    # SQLite has one writer at a time: more workers gain nothing, and on a loaded machine they end each other
    words = ["-m", "mlflow", "server", "--workers", "1", "--backend-store-uri", mlflow.get_tracking_uri()]
    words += ["--default-artifact-root", str(tracking.home() / "mlartifacts")]
    words += ["--host", str(address.hostname), "--port", str(address.port)]
    os.environ.update(local_stack.NO_JOBS)
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - a program and arguments of our own


if __name__ == "__main__":
    sys.exit(run(main))
