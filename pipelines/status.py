"""The progress of a run on a cluster, and how it ended, in words."""

import os
import sys
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

from pipelines.cluster import TARGETS, Cluster
from pipelines.failures import explain_failures, parse_task
from pipelines.notify import describe_version, run_link

if TYPE_CHECKING:
    from kfp import Client
    from kfp_server_api import V2beta1Run

# of a run: backend/src/apiserver/model/run.go at tag 2.17.0
SUCCEEDED, FAILED, CANCELING, CANCELED = "SUCCEEDED", "FAILED", "CANCELING", "CANCELED"
END_STATES = {SUCCEEDED, FAILED, CANCELED, "SKIPPED"}
POLL_INTERVAL = 10  # seconds
REPORT_INTERVAL = 600  # seconds between two lines about the same state, where there is no terminal


def wait_for_run(client: "Client", run_id: str) -> "V2beta1Run":
    """Wait until a run ends, and show its progress: a line that changes, or new lines where there is no terminal."""
    began, printed, shown = time.monotonic(), 0.0, ""
    with tqdm(desc="pending", bar_format="{desc} {elapsed}", disable=None) as bar:
        while (run := client.get_run(run_id)).state not in END_STATES:
            progress, elapsed = describe_progress(run), time.monotonic() - began
            bar.set_description_str(progress)
            if bar.disable and (progress != shown or elapsed - printed >= REPORT_INTERVAL):
                print(f"{tqdm.format_interval(elapsed)} {progress}", file=sys.stderr, flush=True)
                printed, shown = elapsed, progress
            time.sleep(POLL_INTERVAL)
    return run


def describe_progress(run: "V2beta1Run") -> str:
    """The state of a run, and the steps that run now."""
    steps = list_steps(run, "RUNNING")
    return str(run.state or "PENDING").lower() + (f": {', '.join(steps)}" if steps else "")


def describe_end(run: "V2beta1Run", cluster: Cluster) -> str:
    """How a run ended: the verdict of its gate, if it has one; or each step that failed, and why."""
    run_id, failed_steps = run.run_id, list_steps(run, FAILED)
    if run.state == SUCCEEDED:
        judged = "register" in list_steps(run, SUCCEEDED)
        lines = [f"run {run_id} succeeded", *([_describe_verdict(run_id)] if judged else [])]
    elif _is_terminated(run):
        place = f" in {', '.join(failed_steps)}" if failed_steps else ""
        lines = [f"run {run_id} was terminated on request{place}; no step failed by itself"]
    else:
        lines = [f"run {run_id} failed", *explain_failures(run_id, cluster.namespace, failed_steps)]
    if cluster.ui:
        lines.append(run_link(cluster.ui, run_id))
    return "\n  ".join("\n".join(lines).splitlines())


def list_steps(run: "V2beta1Run", state: str) -> list[str]:
    """The steps of a run with a task in a state, in the order of their start.

    KFP lists the nodes of Argo's workflow: besides tasks also their drivers, executors, graphs, and single attempts,
    which end in "(0)", "(1)" … See `NodeStatuses` of backend/src/common/util/workflow.go at tag 2.17.0.
    """
    tasks = (run.run_details.task_details if run.run_details else None) or []
    ordered = sorted((task for task in tasks if task.state == state), key=lambda task: str(task.start_time))
    steps = dict.fromkeys(parse_task(task.display_name) for task in ordered)
    return [step for step in steps if step in TARGETS]


def _is_terminated(run: "V2beta1Run") -> bool:
    """Whether a person or a program ended the run. It passes through CANCELING, and ends as FAILED.

    See `ReportWorkflowResource` of backend/src/apiserver/resource/resource_manager.go at tag 2.17.0.
    """
    states = {run.state, *(status.state for status in run.state_history or [])}
    return bool(states & {CANCELING, CANCELED})


def _describe_verdict(run_id: str) -> str:
    if "MLFLOW_TRACKING_URI" not in os.environ:
        return "the verdict of its gate is in MLflow; set MLFLOW_TRACKING_URI to see it here"
    return describe_version(run_id)
