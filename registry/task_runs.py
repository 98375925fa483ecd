"""The tie to the MLflow plugin of Kubeflow Pipelines, which makes a run per pipeline run, and below it one per task.

Sources, at KFP's tag 2.17.0: backend/src/apiserver/plugins/mlflow/handler.go sets KFP_MLFLOW_CONFIG in every step, and
backend/src/v2/common/plugins/mlflow/handler.go sets MLFLOW_RUN_ID where the plugin's `injectUserEnvVars` is true.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from registry.mlflow_urls import run_link

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

CONFIG, RUN_ID = "KFP_MLFLOW_CONFIG", "MLFLOW_RUN_ID"  # environment variables
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"  # MLflow's tags
VITRINE_RUN = "vitrine.run"  # tag of a task's run
TASK = "vitrine.task."  # prefix of tags of Vitrine's run; followed by the name of the step

Step = Literal["train", "register"]


@contextmanager
def leave_task_run(client: "MlflowClient") -> Iterator["MlflowRun | None"]:
    """Hide MLFLOW_RUN_ID, which MLflow would resume instead of Vitrine's run, and would delete at the end of a run.

    Args:
        client: Of `registry.mlflow_store.connect`.

    Yields:
        The plugin's run of this step; that of the whole pipeline run where steps do not get MLFLOW_RUN_ID; None
        without the plugin.
    """
    run_id = os.environ.pop(RUN_ID, None)
    try:
        yield _find_task_run(client, run_id)
    finally:
        if run_id:  # a second attempt of the step needs it
            os.environ[RUN_ID] = run_id


def _find_task_run(client: "MlflowClient", run_id: str | None) -> "MlflowRun | None":
    from mlflow.exceptions import MlflowException

    if CONFIG not in os.environ:
        return None
    run_id = run_id or str(json.loads(os.environ[CONFIG])["parentRunId"])
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    print(
        f"MLflow: warning: run {run_id} of KFP's MLflow plugin is not on this server, so nothing is linked to it; "
        "MLFLOW_TRACKING_URI of the cluster file and the plugin's endpoint must name the same server",
        file=sys.stderr,
    )
    return None


def link_task_run(
    client: "MlflowClient", run: "MlflowRun", task_run: "MlflowRun | None", step: Step, move: bool = False
) -> None:
    """Link a run with the plugin's run of a step, in both directions; a repeated call changes nothing.

    The first step that works on a run becomes its parent, as a run has one parent in MLflow. Others are linked by tags.

    Args:
        client: Of `registry.mlflow_store.connect`.
        run: Vitrine's.
        task_run: Of `leave_task_run`; None for no link.
        step: The step that works on the run.
        move: Whether the step becomes the parent of a run that has one.
    """
    if task_run is None:
        return
    task_id, info = task_run.info.run_id, run.info
    client.set_tag(info.run_id, f"{TASK}{step}", task_id)
    if move or PARENT not in run.data.tags:
        client.set_tag(info.run_id, PARENT, task_id)
    client.set_tag(task_id, VITRINE_RUN, info.run_id)
    client.set_tag(task_id, NOTE, f"[Vitrine's run]({run_link(info.experiment_id, info.run_id)})")
