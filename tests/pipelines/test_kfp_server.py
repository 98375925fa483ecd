"""The stand-in for Kubeflow Pipelines: its records of runs, its states, its pages and its refusals."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import kfp
import pytest
from kfp_backend import OUT_OF_MEMORY, TERMINATED, Backend, Ending, Run
from kfp_server import END_STATES, Kubeflow
from kfp_server_api import ApiException

pytestmark = pytest.mark.filterwarnings("ignore:This client only works:FutureWarning")

RECORDS = Path(__file__).parent / "records"
PIPELINE = (RECORDS / "pipeline.yaml").read_text()
TIMES = {"create_time", "created_at", "end_time", "finished_at", "scheduled_at", "start_time", "update_time"}
INVALID = Ending(1, "Error", "require_valid: 1 fault")
SHARDS = """
pipelineInfo: {name: loop}
root:
  dag:
    tasks:
      exit-handler-1: {componentRef: {name: comp-all}, taskInfo: {name: all}}
      notify:
        componentRef: {name: comp-step}
        dependentTasks: [exit-handler-1]
        triggerPolicy: {strategy: ALL_UPSTREAM_TASKS_COMPLETED}
components:
  comp-all:
    dag:
      tasks:
        loop:
          componentRef: {name: comp-loop}
          parameterIterator: {itemInput: shard, items: {raw: "[0, 1]"}}
        last: {componentRef: {name: comp-step}, dependentTasks: [loop]}
  comp-loop:
    dag:
      tasks:
        part:
          cachingOptions: {enableCache: true}
          componentRef: {name: comp-step}
          inputs: {parameters: {shard: {componentInputParameter: shard}}}
  comp-step: {executorLabel: exec-step}
deploymentSpec: {executors: {exec-step: {container: {image: x}}}}
"""


def submit(server: Kubeflow) -> str:
    """Run the small pipeline; returns the id of the run."""
    experiment = server.add("experiments", "experiment_id", display_name="vitrine")
    pipeline = server.add("pipelines", "pipeline_id", display_name="vitrine-training")
    version = server.add_version(pipeline["pipeline_id"], "abc", PIPELINE)
    keys = {"pipeline_id": pipeline["pipeline_id"], "pipeline_version_id": version["pipeline_version_id"]}
    run = server.add_run(
        {
            "display_name": "vitrine 3f2a9c1d4e5b",
            "experiment_id": experiment["experiment_id"],
            "pipeline_version_reference": keys,
            "runtime_config": {
                "parameters": {"repo": "https://git.test/shop.git"},
                "pipeline_root": "s3://vitrine/pipeline",
            },
            "service_account": "vitrine",
        }
    )
    return str(run["run_id"])


def normalize(run: dict[str, Any]) -> dict[str, Any]:
    """A record without ids, times, and the order of its tasks.

    What a task's children are cannot be compared: the API shows their nodes' ids, but of no task its node's id.
    """
    text = re.sub(r"vitrine-training-\w{5}", "WORKFLOW", json.dumps(run))
    run = json.loads(text, object_hook=_replace_ids)
    tasks = run["run_details"]["task_details"]
    return run | {"run_details": Counter(json.dumps(task, sort_keys=True) for task in tasks)}


def _replace_ids(item: dict[str, Any]) -> dict[str, Any]:
    hidden = {key: key for key in item if key in TIMES or key.endswith("_id")}
    names = {key: re.sub(r"\d{4,}$", "ID", item[key]) for key in item if key == "pod_name"}
    return item | hidden | names


@pytest.mark.parametrize(
    ("name", "runs", "endings"),
    [
        ("succeeded", 2, {}),
        ("invalid_data", 1, {"require-valid": INVALID}),
        ("out_of_memory", 2, {"train": OUT_OF_MEMORY}),
    ],
)
def test_records_are_those_of_the_back_end(
    name: str, runs: int, endings: dict[str, Ending], kubeflow: Kubeflow
) -> None:
    """The records are written by hand: see records/README.md. Where there are two runs, the record is of the second."""
    kubeflow.backend.endings |= endings
    run_id = [submit(kubeflow) for _ in range(runs)][-1]
    expected = json.loads((RECORDS / f"{name}.json").read_text())
    assert normalize(finish(kubeflow, run_id)) == normalize(expected)


def finish(server: Kubeflow, run_id: str) -> dict[str, Any]:
    """Look at a run until it has ended."""
    while (run := server.show_run(run_id))["state"] not in END_STATES:
        server.looks[run_id] += 1
    return run


def test_a_client_sees_a_run_go_on(kubeflow: Kubeflow) -> None:
    run_id = submit(kubeflow)
    client = kfp.Client(kubeflow.address)
    pending, running, ended = (client.get_run(run_id) for _ in range(3))
    assert [run.state for run in (pending, running, ended)] == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert pending.run_details is None and pending.finished_at.year == 1970
    assert {task.state for task in running.run_details.task_details} >= {"RUNNING", "SUCCEEDED"}
    assert [status.state for status in ended.state_history] == ["PENDING", "RUNNING", "SUCCEEDED"]


@pytest.mark.parametrize(
    ("step", "ending", "state"),
    [
        ("none", INVALID, "COMPLETE"),
        ("train", INVALID, "FAILED"),
        ("train", OUT_OF_MEMORY, "RUNNING"),  # kills the launcher too, which would have written the state
    ],
)
def test_the_exit_handler_gets_the_state_of_ml_metadata_and_no_error(
    step: str, ending: Ending, state: str
) -> None:
    backend = Backend()
    backend.endings[step] = ending
    run = start(backend, PIPELINE)
    assert run.final_status is not None and run.executed[-1] == "notify"
    assert (run.final_status["state"], run.final_status["error"]) == (state, {})


def test_the_exit_handler_of_a_run_with_reused_shards_gets_the_state_running() -> None:
    """Only the end of a container updates the state of a loop."""
    backend = Backend()
    states = [(start(backend, SHARDS).final_status or {})["state"] for _ in range(2)]
    assert states == ["COMPLETE", "RUNNING"]


def start(backend: Backend, pipeline: str) -> Run:
    return backend.run(pipeline, "r1", "vitrine-training-x7k2p", {"repo": "https://git.test/shop.git"})


def test_a_run_that_is_terminated_fails_without_its_exit_handler(kubeflow: Kubeflow) -> None:
    kubeflow.backend.endings["train"] = TERMINATED
    run_id = submit(kubeflow)
    ended = finish(kubeflow, run_id)
    states = [status["state"] for status in ended["state_history"]]
    assert states == ["PENDING", "RUNNING", "CANCELING", "FAILED"]
    assert kubeflow.runs[run_id].executed == ["validate", "require-valid", "train"]
    assert "RUNNING" not in {task["state"] for task in ended["run_details"]["task_details"]}


def test_outputs_are_the_inputs_of_later_steps() -> None:
    """Changed output parameters and new artifacts change the keys of the cache."""
    backend = Backend()
    backend.steps["validate"] = lambda inputs: {"faults": inputs["repo"]}
    start(backend, PIPELINE)
    assert start(backend, PIPELINE).cached == ["validate", "require-valid", "train"]
    backend.cache.clear()
    assert start(backend, PIPELINE).cached == []
    assert start(backend, PIPELINE.replace("vitrine:abc", "vitrine:def")).cached == []


def test_the_pod_of_a_killed_step_says_why(kubeflow: Kubeflow) -> None:
    kubeflow.backend.endings["train"] = OUT_OF_MEMORY
    run_id = submit(kubeflow)
    (pod,) = (pod for pod in kubeflow.list_pods(run_id) if pod["status"]["phase"] == "Failed")
    assert pod["metadata"]["labels"]["pipeline/runid"] == run_id
    (container,) = pod["status"]["containerStatuses"]
    assert container["state"]["terminated"]["reason"] == "OOMKilled"


def test_lists_come_in_pages(kubeflow: Kubeflow) -> None:
    runs = [submit(kubeflow) for _ in range(3)]
    client = kfp.Client(kubeflow.address)
    page = client.list_runs(page_size=2, sort_by="created_at desc")
    last = client.list_runs(page_size=2, sort_by="created_at desc", page_token=page.next_page_token)
    assert [run.run_id for run in (*page.runs, *last.runs)] == runs[::-1]
    assert page.total_size == 3 and last.next_page_token is None


def test_an_unknown_run_is_not_found(kubeflow: Kubeflow) -> None:
    with pytest.raises(ApiException) as caught:
        kfp.Client(kubeflow.address).get_run("r9")
    assert caught.value.status == 404 and "Run r9 not found" in caught.value.body
