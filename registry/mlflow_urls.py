"""Addresses of pages in MLflow's UI."""

import os
from urllib.parse import quote, urlsplit

from registry.mlflow_store import has_server

UI_ADDRESS = "http://127.0.0.1:5000"  # of `make ui`
# By default MLflow shows its view for language models, which hides training runs, models and versions.
ML_VIEW = "?workflowType=machine_learning"


def ui_url(path: str) -> str:
    """The address of a page: on the configured server, or on `make ui` where the store is a local file.

    Args:
        path: Of the page, after "#/".
    """
    server = UI_ADDRESS
    if has_server():
        uri = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
        host = uri.netloc.rpartition("@")[2]  # a page must not show the user's password
        server = f"{uri.scheme}://{host}{uri.path.rstrip('/')}"
    return f"{server}/#/{path}"


def version_url(name: str, version: str) -> str:
    """The address of a model version's page."""
    return ui_url(f"models/{quote(name, safe='')}/versions/{version}{ML_VIEW}")


def model_url(name: str) -> str:
    """The address of a registered model's page, which lists its versions."""
    return ui_url(f"models/{quote(name, safe='')}{ML_VIEW}")


def experiment_url(experiment_id: str) -> str:
    """The address of an experiment's table of runs."""
    return ui_url(f"experiments/{experiment_id}/runs{ML_VIEW}")


def run_link(experiment_id: str, run_id: str) -> str:
    """A link to the page of a run, for use in another page of MLflow's UI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{ML_VIEW}"


def artifact_link(experiment_id: str, run_id: str, path: str) -> str:
    """A link to the page of a run's artifact, for use in another page of MLflow's UI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}{ML_VIEW}"


def artifact_url(experiment_id: str, run_id: str, path: str) -> str:
    """The address of the page of a run's artifact."""
    return ui_url(artifact_link(experiment_id, run_id, path).removeprefix("#/"))
