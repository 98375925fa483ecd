"""Why steps failed: the message that a step leaves in its pod, and its pod as Kubernetes describes it.

KFP keeps no reason: the errors of a run, of its tasks and of `PipelineTaskFinalStatus` are empty
(backend/src/apiserver/server/api_converter.go and backend/src/v2/driver/resolve.go at tag 2.17.0).
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api, V1ContainerState, V1Pod

TERMINATION_FILE = Path("/dev/termination-log")  # Kubernetes mounts it into every container
TERMINATION_BYTES, TAIL_BYTES = 4096, 512  # Kubernetes' limit; the part of it for the end of a long message
STEP_LABEL = "vitrine/step"  # key in the cluster file's `steps`
RUN_LABEL = "pipeline/runid"  # backend/src/common/util/consts.go
NODE_ANNOTATION = "workflows.argoproj.io/node-name"  # Argo: workflow/common/common.go at tag v4.0.5
ATTEMPT = re.compile(r"\((\d+)\)")  # in Argo's name of a node; the iterations of a loop are (0:0), (1:1) …
LOG_NOISE = re.compile(
    r"time=\S+ level=|Error: exit status \d|[IWEF]\d{4} \d\d:"
)  # of Argo and KFP's launcher
LOG_FAULT = re.compile(r"[EF]\d{4} \d\d:[^]]*\] ")  # of KFP's driver and launcher
LOG_LINES, LINE_LENGTH = 50, 500
TIMEOUT = 10  # seconds


class StepFailure(NamedTuple):
    """A step that failed."""

    step: str  # key in the cluster file's `steps`; KFP's name if it has none
    reason: str
    pod: str
    container: str  # that failed


class ReasonsUnavailable(Exception):  # noqa: N818 - reads as what happened
    """The reasons cannot be read from the cluster. The message says why."""


class PodsDeleted(ReasonsUnavailable):
    """There are no pods of the run."""


def record_reason(message: str) -> None:
    """Leave the message of a failed step in its pod, if this is one.

    A long message loses its middle: its last line may name a report.
    """
    if os.access(TERMINATION_FILE, os.W_OK):
        TERMINATION_FILE.write_bytes(_shorten(message.encode()))


def _shorten(message: bytes) -> bytes:
    if len(message) <= TERMINATION_BYTES:
        return message
    mark = "\n…\n".encode()
    head, tail = message[: TERMINATION_BYTES - TAIL_BYTES - len(mark)], message[-TAIL_BYTES:]
    return mark.join(part.decode(errors="ignore").encode() for part in (head, tail))  # no half characters


def explain_failures(run_id: str, namespace: str, steps: Sequence[str] = ()) -> list[str]:
    """Lines that name the failed steps of a run, their reasons, and the commands that show their logs.

    Args:
        run_id: KFP's id of the run.
        namespace: Namespace of its pods.
        steps: Steps that failed according to KFP.
    """
    subject = ", ".join(steps) or "its failed step"
    try:
        failures = read_failures(run_id, namespace)
    except PodsDeleted as error:
        return [f"{subject}: the reason is in the log on the run's page: {error}"]
    except ReasonsUnavailable as error:
        labels = [f"{RUN_LABEL}={run_id}", *([f"{STEP_LABEL} in ({','.join(steps)})"] if steps else [])]
        command = _log_command(namespace, f"-l '{','.join(labels)}' --prefix")
        return [f"{subject}: the reason is in the log: {error}", f"  {command}"]
    named = {failure.step for failure in failures}
    silent = [f"{step}: no pod of it failed; see the run's page" for step in steps if step not in named]
    lines = [*_format_failures(failures, namespace), *silent]
    return lines or ["no pod of the run failed; see the run's page"]


def _format_failures(failures: list[StepFailure], namespace: str) -> list[str]:
    """Two lines for each step and reason, however many shards it failed in."""
    pods: dict[str, list[StepFailure]] = {}
    for failure in failures:
        pods.setdefault(f"{failure.step}: {failure.reason}", []).append(failure)
    lines = []
    for message, group in pods.items():
        count = f" ({len(group)} pods)" if len(group) > 1 else ""
        lines += [f"{message}{count}", f"  {_log_command(namespace, group[0].pod, group[0].container)}"]
    return lines


def _log_command(namespace: str, pods: str, container: str = "main") -> str:
    return f"kubectl -n {namespace} logs {pods} -c {container}"


def read_failures(run_id: str, namespace: str) -> list[StepFailure]:
    """The failures of the last attempts of a run's steps, the earliest first.

    Args:
        run_id: KFP's id of the run.
        namespace: Namespace of its pods.

    Raises:
        ReasonsUnavailable: if there is no cluster, no right to list its pods, or no pod of the run.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    api = connect_kubernetes()
    try:
        selector = f"{RUN_LABEL}={run_id}"
        pods = api.list_namespaced_pod(namespace, label_selector=selector, _request_timeout=TIMEOUT).items
    except ApiException as error:
        raise ReasonsUnavailable(
            f"Kubernetes does not let this account list pods in {namespace} ({error.status})"
        ) from error
    except HTTPError as error:
        raise ReasonsUnavailable(f"Kubernetes does not answer ({type(error).__name__})") from error
    if not pods:
        raise PodsDeleted(f"{namespace} has no pods of this run; KFP deletes them an hour after its end")
    failed_pods = [pod for pod in _last_attempts(pods) if pod.status.phase == "Failed"]
    return [_describe_pod(api, pod) for pod in sorted(failed_pods, key=_end_time)]


def connect_kubernetes() -> "CoreV1Api":
    """A client of this pod's cluster, or of kubectl's current one.

    Raises:
        ReasonsUnavailable: if none is configured.
    """
    from kubeflow.common.utils import is_running_in_k8s
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False  # a person can repeat the command, and a message must not wait for long
    load = config.load_incluster_config if is_running_in_k8s() else config.load_kube_config
    try:
        load(client_configuration=settings)
    except config.ConfigException as error:
        raise ReasonsUnavailable("no Kubernetes cluster is configured here") from error
    return client.CoreV1Api(client.ApiClient(settings))


def _last_attempts(pods: "Iterable[V1Pod]") -> "list[V1Pod]":
    """Of each node of the workflow the pod of its last attempt. A node's name counts the attempts at each level."""
    nodes: dict[str, tuple[list[int], Any]] = {}
    for pod in pods:
        name = _node_name(pod)
        node, attempts = ATTEMPT.sub("", name), [int(attempt) for attempt in ATTEMPT.findall(name)]
        if node not in nodes or attempts > nodes[node][0]:
            nodes[node] = attempts, pod
    return [pod for _, pod in nodes.values()]


def _node_name(pod: "V1Pod") -> str:
    return str((pod.metadata.annotations or {}).get(NODE_ANNOTATION, pod.metadata.name))


def _end_time(pod: "V1Pod") -> Any:
    ends = [state.finished_at for _, state in _failed_containers(pod) if state.finished_at]
    return min(ends, default=pod.metadata.creation_timestamp)


def _failed_containers(pod: "V1Pod") -> "list[tuple[str, V1ContainerState]]":
    """Name and last state of the containers that failed; those that ran before others come first."""
    statuses = pod.status.container_statuses or []
    ordered = [
        *(pod.status.init_container_statuses or []),
        *sorted(statuses, key=lambda status: status.name != "main"),
    ]
    states = [(status.name, status.state.terminated) for status in ordered if status.state]
    return [(name, state) for name, state in states if state and state.exit_code]


def _describe_pod(api: "CoreV1Api", pod: "V1Pod") -> StepFailure:
    step = (pod.metadata.labels or {}).get(STEP_LABEL)
    name, state = next(iter(_failed_containers(pod)), ("main", None))
    if pod.status.reason == "DeadlineExceeded":
        reason = "stopped, its time was over" + (
            f": raise `steps.{step}.timeout` of the cluster file" if step else ""
        )
    elif pod.status.reason:  # Evicted, NodeLost, Preempting …
        reason = f"{pod.status.reason}: {pod.status.message or 'Kubernetes gives no reason'}"
    elif state is None:
        reason = pod.status.message or "the pod failed before a container ran"
    elif state.reason == "OOMKilled":
        reason = f"killed, out of memory ({state.exit_code})"
        reason += f": raise `steps.{step}.memory` of the cluster file" if step else ""
    elif state.message:
        reason = state.message.strip()
    else:
        reason = _describe_exit(state.exit_code) + _read_last_line(api, pod, name)
    step = step or parse_task(_task_name(pod))
    return StepFailure(step, reason.removeprefix(f"{step}: "), pod.metadata.name, name)


def _describe_exit(code: int) -> str:
    """In words; by convention, 128 and more is 128 plus the number of a signal."""
    signals = {137: "killed (137)", 143: "stopped (143)"}
    return signals.get(code, f"exit code {code}")


def _read_last_line(api: "CoreV1Api", pod: "V1Pod", container: str) -> str:
    """The last line that says something of a container's log, to be appended to a reason."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        answer = api.read_namespaced_pod_log(
            pod.metadata.name,
            pod.metadata.namespace,
            container=container,
            tail_lines=LOG_LINES,
            _preload_content=False,  # this client returns text as the repr of bytes
            _request_timeout=TIMEOUT,
        )
    except (ApiException, HTTPError) as error:
        return f"; its log cannot be read here ({getattr(error, 'status', None) or type(error).__name__})"
    lines = [line for line in answer.data.decode(errors="replace").splitlines() if line.strip()]
    messages = [line for line in lines if not LOG_NOISE.match(line)]
    faults = [LOG_FAULT.sub("", line) for line in lines if LOG_FAULT.match(line)]
    last = (messages or faults or lines or ["nothing"])[-1]
    return f"; its log ends: {last.strip()[:LINE_LENGTH]}"


def _task_name(pod: "V1Pod") -> str:
    """KFP's name of the task of a pod, which may also be that of its driver."""
    words = [re.sub(r"\(.*\)$", "", word) for word in _node_name(pod).split(".")]
    return next((word for word in reversed(words) if word != "executor"), pod.metadata.name)


def parse_task(name: str) -> str:
    """The step of a task, by KFP's name of the task or of its driver."""
    task = name.removesuffix("-driver").replace("-", "_")
    return {"featurize_shard": "featurize", "train_on_nodes": "launch"}.get(task, task)
