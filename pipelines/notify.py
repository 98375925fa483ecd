"""Messages about the end of a run, through a webhook like those of Slack and Teams."""

import os
import sys

import requests

from catalog.schema import DataError
from registry.model_registry import GATE, REASONS, find_pipeline_version

TIMEOUT = 30  # seconds


def send_notification(state: str, error: str | None, run_id: str, ui: str) -> None:
    """Post the outcome of a run to the URL in VITRINE_WEBHOOK; does nothing if that is not set.

    A failed post is logged, without the URL, and does not fail the step.

    Args:
        state: "SUCCEEDED", "FAILED" or another state of KFP.
        error: KFP's error message.
        run_id: KFP's id of the run.
        ui: URL of KFP's pages; "" if unknown.
    """
    webhook = os.environ.get("VITRINE_WEBHOOK")
    if not webhook:
        return
    link = f"\n{ui}/#/runs/details/{run_id}" if ui else ""
    message = compose_message(state, error, run_id) + link
    try:
        answer = requests.post(webhook, json={"text": message}, timeout=TIMEOUT)
        if not answer.ok:
            print(f"notify: the webhook answered {answer.status_code}; no message was sent", file=sys.stderr)
    except requests.RequestException as failure:  # its message would hold the URL
        print(f"notify: the webhook cannot be reached ({type(failure).__name__})", file=sys.stderr)


def compose_message(state: str, error: str | None, run_id: str) -> str:
    """The outcome of a run and its reasons."""
    if state != "SUCCEEDED":
        return f"Vitrine: run {run_id} {state.lower()}: {error or 'no reason given'}"
    try:
        version = find_pipeline_version(run_id)
    except DataError as failure:
        return f"Vitrine: run {run_id} succeeded; its verdict is unknown, MLflow cannot be reached: {failure}"
    if version is None:
        return f"Vitrine: run {run_id} succeeded; it registered no new version"
    verdict = version.tags.get(REASONS) or f"Gate: {version.tags.get(GATE, 'unknown')}."
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    link = (
        f"\n{server}/#/models/{version.name}/versions/{version.version}" if server.startswith("http") else ""
    )
    return f"Vitrine: {version.name} version {version.version}. {verdict}{link}"
