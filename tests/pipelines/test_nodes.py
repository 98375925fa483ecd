"""Training on several nodes. They are real processes of this machine; Kubeflow Trainer is a server in memory."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api import models

from catalog.schema import DataError
from components.params import TrainParams
from components.train import train as train_alone
from pipelines import nodes
from pipelines.cluster import Cluster, load_cluster

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RUN = "6a1c0f62-2f3c-4c53-9a0e-0d4c5a3b8f11"
JOB = f"train-{RUN}"
SMALL = TrainParams(epochs=2, batch_size=16, dim=16, dropout=0.0)

# What a node runs in most tests instead of training; argument 1 is its folder.
WRITES = """
import os, pathlib, sys, time
folder, rank = pathlib.Path(sys.argv[1]), int(os.environ["PET_NODE_RANK"])
print(f"node {rank} of", os.environ["PET_NNODES"], flush=True)
if rank == 0:
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text((folder / "features" / "vectors").read_text().upper())
"""


@pytest.fixture
def training(tmp_path: Path, trainer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Train on two nodes, with the storage in `tmp_path`."""
    monkeypatch.setattr(nodes, "POLL_INTERVAL", 0.05)
    trainer.command = [sys.executable, "-c", WRITES]
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "vectors").write_text("vectors")
    (tmp_path / "storage").mkdir()
    job = nodes.build_trainjob(Cluster(nodes=2), "abc")
    return lambda: nodes.train_on_nodes(
        tmp_path / "features", SMALL, tmp_path / "out" / "model", job, RUN, tmp_path / "storage"
    )


def test_the_job_has_all_training_settings_of_the_cluster_file() -> None:
    cluster = load_cluster(ROOT / "deploy" / "cluster.yaml")
    train = cluster.placement("train")
    toleration = train.tolerations[0].model_copy(update={"seconds": 60})
    secret = cluster.placement("fetch").secrets[0]
    more = {
        "secrets": [secret],
        "node_selector": {"gpu": "a100"},
        "tolerations": [toleration],
        "labels": {"a": "b"},
    }
    cluster = cluster.model_copy(
        update={
            "nodes": 3,
            "pull_secrets": ["registry"],
            "steps": cluster.steps | {"train": train.model_copy(update=more)},
        }
    )
    job = nodes.build_trainjob(cluster, "abc")
    assert (
        models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    )  # no field that Kubernetes does not know
    trainer, spec = job["spec"]["trainer"], job["spec"]
    assert (trainer["image"], trainer["numNodes"], trainer["numProcPerNode"]) == ("vitrine:abc-cuda", 3, 1)
    resources = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}
    assert trainer["resourcesPerNode"] == {"requests": resources, "limits": resources}
    assert spec["activeDeadlineSeconds"] == 12 * 3600
    env = {
        variable["name"]: variable.get("value") or variable["valueFrom"]["secretKeyRef"]
        for variable in trainer["env"]
    }
    assert env["MLFLOW_TRACKING_URI"] == "http://mlflow.mlflow:5000"
    assert env["AWS_SECRET_ACCESS_KEY"] == {"name": "vitrine-data", "key": "secret-key", "optional": False}
    (patch,) = spec["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = replicated["template"]["spec"]["template"]
    assert template["metadata"]["labels"] == job["metadata"]["labels"] == cluster.labels | {"a": "b"}
    pod = template["spec"]
    assert pod["nodeSelector"] == {"gpu": "a100"} and pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 60}
    ]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["fsGroup"] == 10001
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    sources = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert sources["storage"] == {"persistentVolumeClaim": {"claimName": "vitrine-training"}}
    assert sources["shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(sources)


def test_the_model_comes_back_and_nothing_stays(
    trainer: Any, training: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("KFP_POD_NAME", "launcher")
    created: list[dict[str, Any]] = []
    make = trainer.make
    trainer.make = lambda job: (created.append(json.loads(json.dumps(job))), make(job))  # type: ignore[method-assign, assignment]
    training()
    assert (tmp_path / "out" / "model" / "weights").read_text() == "VECTORS"
    assert not trainer.jobs and not list((tmp_path / "storage").iterdir())
    (owner,) = created[0]["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    assert "node 0 of 2\n" in capfd.readouterr().out


def test_a_cut_log_continues_where_it_ended(
    trainer: Any, training: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    prints_epochs = "".join(f"print('epoch {n}', flush=True); time.sleep(0.05)\n" for n in range(10))
    trainer.command[-1] = WRITES + prints_epochs
    trainer.cut = 40
    training()
    output = capfd.readouterr()
    assert re.findall(r"epoch \d+", output.out) == [f"epoch {n}" for n in range(10)]
    assert "was cut" in output.err


def test_a_failed_job_is_reported_with_the_log_of_the_other_node(
    trainer: Any, training: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer.command[-1] = WRITES + "if rank: sys.exit('out of memory, says node 1')\ntime.sleep(30)"
    with pytest.raises(
        DataError, match=f"the TrainJob {JOB} failed.*kubectl -n shop describe trainjob {JOB}"
    ):
        training()
    output = capfd.readouterr().out
    assert "the last lines of node-1 (Failed):" in output and "out of memory, says node 1" in output
    assert not (tmp_path / "out").exists()
    assert (
        JOB in trainer.jobs and (tmp_path / "storage" / RUN / "model").exists()
    )  # to inspect, and to resume from
    trainer.command[-1] = WRITES.replace("mkdir()", "mkdir(exist_ok=True)")
    training()
    assert (tmp_path / "out" / "model" / "weights").exists() and trainer.created_jobs == 2


def test_a_waiting_job_prints_its_events(
    trainer: Any, training: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    trainer.full = True
    threading.Timer(1, lambda: setattr(trainer, "full", False)).start()
    training()
    line = f"train: {JOB}: FailedScheduling: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu\n"
    assert capfd.readouterr().out.count(line) == 1


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (404, "page not found", "has no TrainJob; install Kubeflow Trainer"),
        (403, "vitrine cannot create trainjobs", "Kubernetes refuses: vitrine cannot create trainjobs"),
        (422, "spec.trainer: Invalid", "Kubernetes refuses: spec.trainer: Invalid"),
    ],
)
def test_a_refusal_of_kubernetes_is_one_message(
    status: int, answer: str, message: str, trainer: Any, training: Callable[..., None]
) -> None:
    trainer.refusing = status, answer
    with pytest.raises(DataError, match=message):
        training()


def test_storage_that_cannot_be_written(trainer: Any, training: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "storage").rmdir()
    (tmp_path / "storage").touch()
    with pytest.raises(DataError, match=r"the claim at .*storage is not writable \(Not a directory\)"):
        training()


def launcher(tmp_path: Path) -> "subprocess.Popen[str]":
    """Start the step in a separate process."""
    program = f"""
    from pathlib import Path
    from pipelines import nodes
    from pipelines.cluster import Cluster
    from pipelines.step_runner import run_step
    from components.params import TrainParams
    nodes.POLL_INTERVAL = 0.05
    tmp = Path({str(tmp_path)!r})
    job = nodes.build_trainjob(Cluster(nodes=2), "abc")
    params = TrainParams()
    out, storage = tmp / "out" / "model", tmp / "storage"
    run_step("train", lambda: nodes.train_on_nodes(tmp / "features", params, out, job, {RUN!r}, storage))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def wait_for(line: str, process: "subprocess.Popen[str]") -> None:
    assert process.stdout
    assert any(line in output for output in process.stdout), f"it never printed {line}"


def test_a_cancelled_step_ends_its_nodes(trainer: Any, training: Callable[..., None], tmp_path: Path) -> None:
    trainer.command[-1] = WRITES + "time.sleep(60)"
    with launcher(tmp_path) as process:
        wait_for("node 0 of 2", process)
        pods = trainer.pods[JOB]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert not trainer.jobs and {pod.phase for pod in pods} == {"Failed"}
    assert not list((tmp_path / "storage").iterdir())


def test_a_retried_step_resumes_the_job(
    trainer: Any, training: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer.command[-1] = (
        WRITES + f"\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.05)"
    )
    with launcher(tmp_path) as process:
        wait_for("node 0 of 2", process)
        process.kill()
    assert JOB in trainer.jobs
    (tmp_path / "go").touch()
    training()
    assert "exists already; waiting for it" in capfd.readouterr().out
    assert trainer.created_jobs == 1 and (tmp_path / "out" / "model" / "weights").exists()


def test_a_node_without_a_heartbeat_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(nodes, "HEARTBEAT_INTERVAL", 0.05)
    monkeypatch.setattr(
        nodes, "torchrun_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    heartbeat = tmp_path / nodes.HEARTBEAT_FILE
    heartbeat.touch()
    threading.Timer(0.5, lambda: os.utime(heartbeat, (0, 0))).start()
    began = time.monotonic()
    assert nodes.run_node(tmp_path) == 1
    assert 0.4 < time.monotonic() - began < 20
    assert "the launching step has stopped" in capfd.readouterr().err
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_two_nodes_train_what_one_process_trains(
    trainer: Any,
    training: Callable[..., None],
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to rounding; dropout is 0."""
    trainer.command = []
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.rmtree(tmp_path / "features")
    shutil.copytree(features, tmp_path / "features")
    training()
    train_alone(tmp_path / "features", SMALL, tmp_path / "alone")
    losses = []
    for folder in (tmp_path / "out" / "model", tmp_path / "alone"):
        with (folder / "history.csv").open() as stream:
            losses.append([float(row["loss"]) for row in csv.DictReader(stream)])
    assert len(losses[0]) == SMALL.epochs and losses[0] == pytest.approx(losses[1], rel=1e-3)
