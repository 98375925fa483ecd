"""Messages about the end of a run, through a webhook like those of Slack and Teams."""

import os
import sys

from catalog.schema import DataError
from pipelines.failures import ReasonsUnavailable, explain_failures, read_failures
from registry.model_registry import GATE, REASONS, find_pipeline_version
from registry.webhook import has_webhook, post_message

# KFP passes on the states of ML Metadata (backend/src/v2/driver/resolve.go at tag 2.17.0); SUCCEEDED is its own
SUCCESS, FAILURE = {"COMPLETE", "CACHED", "SUCCEEDED"}, "FAILED"


def send_notification(state: str, run_id: str, ui: str, pipeline: str) -> None:
    """Post the outcome of a run to the URL in VITRINE_WEBHOOK; does nothing if that is not set.

    A failed post is logged, without the URL, and does not fail the step.

    Args:
        state: Of the steps of the run, from `PipelineTaskFinalStatus`. Its error is always empty.
        run_id: KFP's id of the run.
        ui: URL of KFP's pages; "" if unknown.
        pipeline: A key of `pipelines.definitions.PIPELINES`.
    """
    if not has_webhook():
        return
    link = f"\n{run_link(ui, run_id)}" if ui else ""
    post_message(compose_message(state, run_id, pipeline) + link, "notify")


def run_link(ui: str, run_id: str) -> str:
    """The address of a run's page in KFP."""
    return f"{ui}/#/runs/details/{run_id}"


def compose_message(state: str, run_id: str, pipeline: str) -> str:
    """The outcome of a run, and its reasons; after a training, the verdict on the version that it registered."""
    from kubeflow.common.utils import get_default_target_namespace

    namespace = get_default_target_namespace()
    if state in SUCCESS or (state != FAILURE and _has_succeeded(run_id, namespace)):
        result = f": {describe_version(run_id)}" if pipeline == "training" else ""
        return f"Vitrine: {pipeline} run {run_id} succeeded{result}"
    return "\n".join([f"Vitrine: {pipeline} run {run_id} failed", *explain_failures(run_id, namespace)])


def _has_succeeded(run_id: str, namespace: str) -> bool:
    """Whether a run succeeded whose state says nothing.

    Only the end of a step updates the state of the steps as a whole (`UpdateDAGExecutionsState` of
    backend/src/v2/component/launcher_v2.go at tag 2.17.0). So it remains RUNNING if a step was killed, but also if all
    shards were reused.
    """
    try:
        return not read_failures(run_id, namespace)
    except ReasonsUnavailable as error:
        print(f"notify: {error}", file=sys.stderr)
    try:
        return find_pipeline_version(run_id) is not None  # the last step registers it
    except DataError as error:
        print(f"notify: {error}", file=sys.stderr)
        return False


def describe_version(run_id: str) -> str:
    """The version that a run registered, and the verdict of its gate."""
    try:
        version = find_pipeline_version(run_id)
    except DataError as failure:
        return f"its verdict is unknown, MLflow cannot be reached: {failure}"
    if version is None:
        return "it registered no new version"
    verdict = version.tags.get(REASONS) or f"Gate: {version.tags.get(GATE, 'unknown')}."
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    link = (
        f"\n{server}/#/models/{version.name}/versions/{version.version}" if server.startswith("http") else ""
    )
    return f"{version.name} version {version.version}. {verdict}{link}"
