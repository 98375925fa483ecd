"""Telling people how a run ended, through a webhook as Slack and Teams have them."""

import os
import sys

import requests

from catalog.schema import DataError
from registry import tracking
from registry.model_registry import GATE, REASONS

PATIENCE = 30  # seconds


def notify(state: str, error: str | None, run_id: str, ui: str) -> None:
    """Post what became of a run to the address in VITRINE_WEBHOOK; without one, nothing happens.

    What cannot be told is said in the log, without the address, and fails nothing.

    Args:
        state: "SUCCEEDED", "FAILED" or another of KFP's.
        error: Its message of a failure.
        run_id: KFP's.
        ui: Address of its pages; "" if unknown.
    """
    address = os.environ.get("VITRINE_WEBHOOK")
    if not address:
        return
    link = f"\n{ui}/#/runs/details/{run_id}" if ui else ""
    try:
        answer = requests.post(address, json={"text": text(state, error, run_id) + link}, timeout=PATIENCE)
        if not answer.ok:
            print(f"notify: the webhook answered {answer.status_code}; nobody was told", file=sys.stderr)
    except requests.RequestException as failure:  # its message would hold the address
        print(f"notify: the webhook cannot be reached ({type(failure).__name__})", file=sys.stderr)


def text(state: str, error: str | None, run_id: str) -> str:
    """What happened, and why."""
    if state != "SUCCEEDED":
        return f"Vitrine: run {run_id} {state.lower()}: {error or 'no reason given'}"
    try:
        found = tracking.of_pipeline(run_id)
    except DataError as failure:
        return f"Vitrine: run {run_id} is done; MLflow could not be asked for the verdict: {failure}"
    if found is None:
        return f"Vitrine: run {run_id} is done, and made no new version"
    verdict = found.tags.get(REASONS) or f"Gate: {found.tags.get(GATE, 'unknown')}."
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    link = f"\n{server}/#/models/{found.name}/versions/{found.version}" if server.startswith("http") else ""
    return f"Vitrine: {found.name} version {found.version}. {verdict}{link}"
