"""The reasons of failed steps: what a step leaves in its pod, and what is read from pods."""

from pathlib import Path
from typing import Any

import pytest
from pod_server import NAMESPACE

from pipelines import failures
from pipelines.failures import PodsDeleted, ReasonsUnavailable, explain_failures, read_failures, record_reason

RUN = "6a1c0f62-2f3c-4c53-9a0e-0d4c5a3b8f11"
GRAPH = "vitrine-training-6a1c0(0).root(0).exit-handler-1(0)"
ANNOTATION = "workflows.argoproj.io/node-name"


def make_pod(
    node: str,
    step: str | None = None,
    exit_code: int = 1,
    container: str = "main",
    status: dict[str, Any] | None = None,
    **terminated: Any,
) -> dict[str, Any]:
    """A pod whose container has ended.

    Args:
        node: Argo's name of its node, without the graph around it.
        step: Value of its label; drivers have none.
        exit_code: Of the container.
        container: Its name; the other one of the pod has ended well.
        status: More fields of the pod's status.
        terminated: More fields of the container's state.
    """
    labels = {"pipeline/runid": RUN} | ({"vitrine/step": step} if step else {})
    end = {"exitCode": exit_code, "reason": "Completed" if exit_code == 0 else "Error", **terminated}
    states = {"wait": {"exitCode": 0}, "main": {"exitCode": 0}, container: end}
    statuses = [{"name": name, "state": {"terminated": state}} for name, state in states.items()]
    return {
        "metadata": {
            "name": f"pod-of-{step or node}",
            "namespace": NAMESPACE,
            "labels": labels,
            "annotations": {ANNOTATION: f"{GRAPH}.{node}"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "status": {
            "phase": "Failed" if exit_code else "Succeeded",
            "containerStatuses": [
                {"image": "x", "imageID": "x", "ready": False, "restartCount": 0, **status}
                for status in statuses
            ],
            **(status or {}),
        },
    }


def read_reasons() -> list[str]:
    return [f"{failure.step}: {failure.reason}" for failure in read_failures(RUN, NAMESPACE)]


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        (
            make_pod("train(0).executor(0)", "train", message="train: no judged query"),
            "train: no judged query",
        ),
        (
            make_pod("train(0).executor(0)", "train", message="data/x: no such file\n"),
            "train: data/x: no such file",
        ),
        (
            make_pod(
                "train(0).executor(0)", "train", 137, reason="OOMKilled", message="train: a worker was killed"
            ),
            "train: killed, out of memory (137): raise `steps.train.memory` of the cluster file",
        ),
        (
            make_pod("train-driver(0)", None, 137, reason="OOMKilled"),
            "train: killed, out of memory (137)",
        ),
        (
            make_pod(
                "x(0).executor(0)",
                "launch",
                137,
                status={"reason": "DeadlineExceeded", "message": "active …"},
            ),
            "launch: stopped, its time was over: raise `steps.launch.timeout` of the cluster file",
        ),
        (
            make_pod(
                "x",
                "train",
                status={"reason": "Evicted", "message": "low on memory", "containerStatuses": []},
            ),
            "train: Evicted: low on memory",
        ),
        (
            make_pod("x", "train", status={"containerStatuses": []}),
            "train: the pod failed before a container ran",
        ),
        (
            make_pod("x", "train", container="wait", message="cannot upload"),
            "train: cannot upload",
        ),
    ],
)
def test_the_reason_of_a_pod(pod: dict[str, Any], reason: str, pod_server: Any) -> None:
    pod_server.pods = [make_pod("fetch(0).executor(0)", "fetch", 0), pod]
    assert read_reasons() == [reason]


def test_a_container_that_fails_before_the_step_is_the_reason(pod_server: Any) -> None:
    state = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no space left on device"}}
    common = {"image": "x", "imageID": "x", "ready": False, "restartCount": 0}
    before = [common | {"name": "init", "state": state}]
    after = [common | {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}]
    pod_server.pods = [
        make_pod("x", "train", status={"initContainerStatuses": before, "containerStatuses": after})
    ]
    assert explain_failures(RUN, NAMESPACE) == [
        "train: no space left on device",
        "  kubectl -n kubeflow logs pod-of-train -c init",
    ]


LAUNCHER = """\
I1128 10:10:10.123456       1 launcher_v2.go:193] publish success.
F1128 10:10:10.123456       1 main.go:53] failed to execute component: exit status 139
time="2026-11-28T10:10:10.000Z" level=info msg="sub-process exited" argo=true error="<nil>"
Error: exit status 139
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (f"epoch 1\nSegmentation fault\n\n{LAUNCHER}", "exit code 139; its log ends: Segmentation fault"),
        (LAUNCHER, "exit code 139; its log ends: failed to execute component: exit status 139"),
        ("", "exit code 139; its log ends: nothing"),
        (None, "exit code 139; its log cannot be read here (403)"),
    ],
)
def test_without_a_message_the_log_speaks(log: str | None, reason: str, pod_server: Any) -> None:
    """The last lines are of Argo and of KFP's launcher; they say nothing unless they are all there is."""
    pod_server.pods = [make_pod("train(0).executor(0)", "train", 139)]
    pod_server.logs["pod-of-train", "main"] = log or ""
    pod_server.refusing = set() if log is not None else {"log"}
    assert read_reasons() == [f"train: {reason}"]


@pytest.mark.parametrize(
    ("node", "step"),
    [
        ("require-valid-driver(0)", "require_valid"),
        ("train-on-nodes(0).executor(0)", "launch"),
        (
            "for-loop-1(0).iteration-iterations(3:3)(0).iteration-item(0).featurize-shard-driver(0)",
            "featurize",
        ),
    ],
)
def test_a_pod_without_a_label_is_known_by_its_node(node: str, step: str, pod_server: Any) -> None:
    pod_server.pods = [make_pod(node, message="cannot resolve inputs")]
    assert read_reasons() == [f"{step}: cannot resolve inputs"]


def test_only_the_last_attempt_counts(pod_server: Any) -> None:
    """Of each iteration of a loop; the number of an iteration is no attempt."""
    shard = "iteration-iterations({0}:{0})({1}).featurize-shard({2}).executor({3})"
    lost = {"reason": "NodeLost", "message": "node x is gone"}
    pod_server.pods = [
        make_pod(shard.format(0, 0, 0, 10), "featurize", 0),
        make_pod(shard.format(0, 0, 0, 9), "featurize", status=lost),
        make_pod(shard.format(1, 0, 1, 0), "featurize", message="second"),
        make_pod(shard.format(1, 0, 0, 2), "featurize", message="first"),
    ]
    assert read_reasons() == ["featurize: second"]


def test_the_earliest_failure_is_first_and_equal_ones_are_one(pod_server: Any) -> None:
    pod_server.pods = [
        make_pod("train(0)", "train", message="late", finishedAt="2026-01-01T00:03:00Z"),
        *(
            make_pod(f"i({n}:{n}).x", "featurize", message="no room", finishedAt="2026-01-01T00:02:00Z")
            for n in range(3)
        ),
    ]
    assert explain_failures(RUN, NAMESPACE) == [
        "featurize: no room (3 pods)",
        "  kubectl -n kubeflow logs pod-of-featurize -c main",
        "train: late",
        "  kubectl -n kubeflow logs pod-of-train -c main",
    ]


def test_steps_that_kfp_names_and_no_pod_explains(pod_server: Any) -> None:
    pod_server.pods = [make_pod("train(0)", "train", 0)]
    assert explain_failures(RUN, NAMESPACE, ["train"]) == ["train: no pod of it failed; see the run's page"]
    assert explain_failures(RUN, NAMESPACE) == ["no pod of the run failed; see the run's page"]


def test_pods_that_may_not_be_read(pod_server: Any) -> None:
    pod_server.refusing = {"pods"}
    assert explain_failures(RUN, NAMESPACE, ["train"]) == [
        "train: the reason is in the log: Kubernetes does not let this account list pods in kubeflow (403)",
        f"  kubectl -n kubeflow logs -l 'pipeline/runid={RUN},vitrine/step in (train)' --prefix -c main",
    ]
    assert explain_failures(RUN, NAMESPACE) == [
        "its failed step: the reason is in the log: Kubernetes does not let this account list pods in kubeflow (403)",
        f"  kubectl -n kubeflow logs -l 'pipeline/runid={RUN}' --prefix -c main",
    ]


def test_pods_that_are_deleted(pod_server: Any) -> None:
    with pytest.raises(
        PodsDeleted, match="kubeflow has no pods of this run; KFP deletes them an hour after its end"
    ):
        read_failures(RUN, NAMESPACE)
    (line,) = explain_failures(RUN, NAMESPACE, ["train"])
    assert line.startswith("train: the reason is in the log on the run's page: kubeflow has no pods")


def test_no_cluster(pod_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod_server.shutdown()
    pod_server.server_close()
    with pytest.raises(ReasonsUnavailable, match=r"Kubernetes does not answer \(NewConnectionError\)"):
        read_failures(RUN, NAMESPACE)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(ReasonsUnavailable, match="no Kubernetes cluster is configured here"):
        read_failures(RUN, NAMESPACE)


def test_a_long_message_keeps_its_ends_and_whole_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "TERMINATION_FILE", tmp_path / "termination-log")
    record_reason("not in a pod")
    assert not failures.TERMINATION_FILE.exists()
    failures.TERMINATION_FILE.touch()
    message = f"data: 9,000 faults{'商品' * 3000}\nThe full report is s3://x/index.html"
    record_reason(message)
    written = failures.TERMINATION_FILE.read_bytes()
    assert 4090 < len(written) <= 4096
    assert written.decode().startswith("data: 9,000 faults商品")
    assert written.decode().endswith("商品\nThe full report is s3://x/index.html")
    record_reason("short")
    assert failures.TERMINATION_FILE.read_text() == "short"
