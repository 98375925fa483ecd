"""Training on several nodes: Kubeflow Trainer's API kept in memory, its nodes real processes of this machine."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from kubeflow_trainer_api import models

from catalog.sample import sample
from catalog.schema import DataError
from components.featurize import featurize
from components.params import FeaturizeParams, TrainParams, ValidateParams
from components.train import train as train_alone
from components.validate import validate
from pipelines import nodes
from pipelines.cluster import Cluster, load

ROOT = Path(__file__).parents[2]
RUN = "6a1c0f62-2f3c-4c53-9a0e-0d4c5a3b8f11"
JOB = f"train-{RUN}"
SMALL = TrainParams(epochs=2, batch_size=16, dim=16, dropout=0.0)
NOW = datetime.now(UTC).isoformat()

# What a node of most tests does in place of training; argument 1 is its folder.
WRITES = """
import os, pathlib, sys, time
folder, rank = pathlib.Path(sys.argv[1]), int(os.environ["PET_NODE_RANK"])
print(f"node {rank} of", os.environ["PET_NNODES"], flush=True)
if rank == 0:
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text((folder / "features" / "vectors").read_text().upper())
"""


class Node:
    """A pod, once it is scheduled."""

    def __init__(self, name: str, rank: int, command: list[str], env: dict[str, str], log: Path) -> None:
        self.name, self.rank, self.log, self.command, self.env = name, rank, log, command, env
        self.process: subprocess.Popen[bytes] | None = None
        self.log.touch()

    def start(self) -> None:
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(self.command, env=os.environ | self.env, stdout=out, stderr=out)

    @property
    def phase(self) -> str:
        if self.process is None:
            return "Pending"
        return {None: "Running", 0: "Succeeded"}.get(self.process.poll(), "Failed")

    def told(self) -> dict[str, Any]:
        labels = {
            "jobset.sigs.k8s.io/jobset-name": self.name.partition("-node-")[0],
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(self.rank),
        }
        meta = {"name": self.name, "labels": labels, "creationTimestamp": NOW}
        spec = {"containers": [{"name": "node"}]}
        return {"metadata": meta, "spec": spec, "status": {"phase": self.phase}}


class Trainer(ThreadingHTTPServer):
    """`command` is what nodes run; by default what the job says. `full` is when no node has room, `cut` is after how
    many bytes a log's connection ends, once; `refusing` answers posts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.jobs, self.pods = folder, {}, {}
        self.command: list[str] = [sys.executable, "-c", WRITES]
        self.full, self.cut, self.refusing = False, 0, (0, "")
        self.jobs: dict[str, dict[str, Any]]
        self.pods: dict[str, list[Node]]
        self.made = 0

    def make(self, job: dict[str, Any]) -> None:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        job["metadata"] |= {"creationTimestamp": NOW, "namespace": "shop"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = self.command or [sys.executable, *trainer["command"][1:]]
        self.jobs[name], self.made = job, self.made + 1
        self.pods[name] = [
            Node(
                f"{name}-node-0-{rank}-x",
                rank,
                command + trainer["args"],
                {
                    "PET_NNODES": str(trainer["numNodes"]),
                    "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                    "PET_NODE_RANK": str(rank),
                    "PET_MASTER_ADDR": "127.0.0.1",
                    "PET_MASTER_PORT": str(port),
                },
                self.folder / f"{self.made}-{rank}.log",
            )
            for rank in range(trainer["numNodes"])
        ]

    def look(self, name: str) -> dict[str, Any]:
        """A job, when the controllers have done what they do by themselves."""
        pods, job = self.pods[name], self.jobs[name]
        for pod in pods:
            if pod.process is None and not self.full:
                pod.start()
        phases = {pod.phase for pod in pods}
        ended = "Failed" if "Failed" in phases else "Complete" if phases == {"Succeeded"} else ""
        if ended:
            self.stop(name)
            job["status"] = {
                "conditions": [
                    {
                        "type": ended,
                        "status": "True",
                        "lastTransitionTime": NOW,
                        "message": "",
                        "reason": "Jobs",
                    }
                ]
            }
        return job

    def stop(self, name: str) -> None:
        for process in [pod.process for pod in self.pods[name] if pod.process]:
            process.terminate()
            process.wait(20)


class Handler(BaseHTTPRequestHandler):
    """Routes."""

    server: Trainer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_DELETE(self) -> None:
        self._route()

    def _route(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        words = url.path.strip("/").split("/")
        if words[-1] == "log":
            self._log(words[-2], "follow" in query)
            return
        status, said = self._answer(words, query, body)
        told = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def _answer(self, words: list[str], query: dict[str, str], body: bytes) -> tuple[int, Any]:  # noqa: PLR0911
        here = self.server
        match self.command, *words:
            case "GET", *_, "clustertrainingruntimes", "torch-distributed":
                return 200, RUNTIME
            case "POST", "apis", "trainer.kubeflow.org", "v1alpha1", "namespaces", "shop", "trainjobs":
                job = json.loads(body)
                if here.refusing[0]:
                    return here.refusing[0], {"message": here.refusing[1]}
                if models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() != job:
                    return 422, {"message": "not a TrainJob"}
                if job["metadata"]["name"] in here.jobs:
                    return 409, {"message": "already exists"}
                here.make(job)
                return 201, job
            case "GET", *_, "trainjobs", name if name in here.jobs:
                return 200, here.look(name)
            case "DELETE", *_, "trainjobs", name if name in here.jobs:
                here.stop(name)
                del here.jobs[name]
                return 200, {}
            case "GET", *_, "pods":
                name = re.match("jobset.sigs.k8s.io/jobset-name=([^,]+),", query["labelSelector"])[1]  # type: ignore[index]
                return 200, {"items": [pod.told() for pod in here.pods[name]]}
            case "GET", *_, "pods", "launcher":
                owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
                return 200, {
                    "metadata": {"name": "launcher", "ownerReferences": [owner | {"controller": True}]}
                }
            case "GET", *_, "events":
                return 200, {"items": [SCHEDULING] if here.full else []}
            case _:
                return 404, {"message": f"no {'/'.join(words)}"}

    def _log(self, pod: str, follow: bool) -> None:
        node = next(one for pods in self.server.pods.values() for one in pods if one.name == pod)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        at = 0
        while True:
            self.server.look(pod.partition("-node-")[0])
            ended = node.phase in {"Succeeded", "Failed"}
            piece = node.log.read_bytes()[at:]
            if self.server.cut and at + len(piece) > self.server.cut:
                piece = piece[: self.server.cut - at]
                self.server.cut = 0
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.close_connection = True
                return
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                at += len(piece)
            if ended or not follow:
                self.wfile.write(b"0\r\n\r\n")
                return
            time.sleep(0.02)


RUNTIME = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {
                                "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
                            },
                            "spec": {
                                "template": {
                                    "spec": {"containers": [{"name": "node", "image": "pytorch/pytorch"}]}
                                }
                            },
                        },
                    }
                ]
            }
        },
    },
}
SCHEDULING = {
    "metadata": {"name": "e"},
    "involvedObject": {"kind": "TrainJob", "name": JOB},
    "reason": "FailedScheduling",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
    "firstTimestamp": NOW,
}


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    server = Trainer(tmp_path)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "shop"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))  # for what this test starts
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    monkeypatch.setattr(nodes, "POLL", 0.05)
    yield server
    for name in server.jobs:
        server.stop(name)
    server.shutdown()
    server.server_close()


@pytest.fixture
def training(tmp_path: Path) -> Callable[..., None]:
    """Train on two nodes, with the storage in `tmp_path`."""
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "vectors").write_text("vectors")
    (tmp_path / "storage").mkdir()
    job = nodes.describe(Cluster(nodes=2), "abc")
    return lambda: nodes.train(
        tmp_path / "features", SMALL, tmp_path / "out" / "model", job, RUN, tmp_path / "storage"
    )


def test_the_job_says_all_that_the_cluster_file_says_of_training() -> None:
    cluster = load(ROOT / "deploy" / "cluster.yaml")
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
    job = nodes.describe(cluster, "abc")
    assert (
        models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    )  # nothing that Kubernetes does not know
    trainer, spec = job["spec"]["trainer"], job["spec"]
    assert (trainer["image"], trainer["numNodes"], trainer["numProcPerNode"]) == ("vitrine:abc-cuda", 3, 1)
    wanted = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"}
    assert trainer["resourcesPerNode"] == {"requests": wanted, "limits": wanted}
    assert spec["activeDeadlineSeconds"] == 12 * 3600
    env = {one["name"]: one.get("value") or one["valueFrom"]["secretKeyRef"] for one in trainer["env"]}
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
    sources = {one.pop("name"): one for one in pod["volumes"]}
    assert sources["storage"] == {"persistentVolumeClaim": {"claimName": "vitrine-training"}}
    assert sources["shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}
    assert {one["name"] for one in container["volumeMounts"]} == set(sources)


def test_the_model_comes_back_and_nothing_stays(
    trainer: Trainer, training: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("KFP_POD_NAME", "launcher")
    made: list[dict[str, Any]] = []
    make = trainer.make
    trainer.make = lambda job: (made.append(json.loads(json.dumps(job))), make(job))  # type: ignore[method-assign, assignment]
    training()
    assert (tmp_path / "out" / "model" / "weights").read_text() == "VECTORS"
    assert not trainer.jobs and not list((tmp_path / "storage").iterdir())
    (owner,) = made[0]["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    assert "node 0 of 2\n" in capfd.readouterr().out


def test_a_log_that_is_cut_goes_on_where_it_was(
    trainer: Trainer, training: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    says = "".join(f"print('epoch {n}', flush=True); time.sleep(0.05)\n" for n in range(10))
    trainer.command[-1] = WRITES + says
    trainer.cut = 40
    training()
    said = capfd.readouterr()
    assert re.findall(r"epoch \d+", said.out) == [f"epoch {n}" for n in range(10)]
    assert "was cut" in said.err


def test_a_failed_job_is_told_with_what_the_other_node_said(
    trainer: Trainer, training: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer.command[-1] = WRITES + "if rank: sys.exit('out of memory, says node 1')\ntime.sleep(30)"
    with pytest.raises(
        DataError, match=f"the TrainJob {JOB} failed.*kubectl -n shop describe trainjob {JOB}"
    ):
        training()
    said = capfd.readouterr().out
    assert "the last lines of node-1 (Failed):" in said and "out of memory, says node 1" in said
    assert not (tmp_path / "out").exists()
    assert (
        JOB in trainer.jobs and (tmp_path / "storage" / RUN / "model").exists()
    )  # to look at, and to go on from
    trainer.command[-1] = WRITES.replace("mkdir()", "mkdir(exist_ok=True)")
    training()
    assert (tmp_path / "out" / "model" / "weights").exists() and trainer.made == 2


def test_a_job_that_waits_says_what_for(
    trainer: Trainer, training: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    trainer.full = True
    threading.Timer(1, lambda: setattr(trainer, "full", False)).start()
    training()
    said = f"train: {JOB}: FailedScheduling: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu\n"
    assert capfd.readouterr().out.count(said) == 1


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (404, "page not found", "knows no TrainJob; install Kubeflow Trainer"),
        (403, "vitrine cannot create trainjobs", "Kubernetes refuses: vitrine cannot create trainjobs"),
        (422, "spec.trainer: Invalid", "Kubernetes refuses: spec.trainer: Invalid"),
    ],
)
def test_what_kubernetes_refuses_is_one_message(
    status: int, said: str, told: str, trainer: Trainer, training: Callable[..., None]
) -> None:
    trainer.refusing = status, said
    with pytest.raises(DataError, match=told):
        training()


def test_storage_that_cannot_be_written(
    trainer: Trainer, training: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "storage").rmdir()
    (tmp_path / "storage").touch()
    with pytest.raises(DataError, match=r"the claim at .*storage cannot be written \(Not a directory\)"):
        training()


def launcher(tmp_path: Path) -> "subprocess.Popen[str]":
    """The step as a process of its own."""
    program = f"""
    from pathlib import Path
    from pipelines import nodes
    from pipelines.cluster import Cluster
    from pipelines.content import work
    from components.params import TrainParams
    nodes.POLL = 0.05
    tmp = Path({str(tmp_path)!r})
    job = nodes.describe(Cluster(nodes=2), "abc")
    params = TrainParams()
    work(lambda: nodes.train(tmp / "features", params, tmp / "out" / "model", job, {RUN!r}, tmp / "storage"))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def wait_for(line: str, process: "subprocess.Popen[str]") -> None:
    assert process.stdout
    assert any(line in said for said in process.stdout), f"it never said {line}"


def test_a_cancelled_step_ends_its_nodes(
    trainer: Trainer, training: Callable[..., None], tmp_path: Path
) -> None:
    trainer.command[-1] = WRITES + "time.sleep(60)"
    with launcher(tmp_path) as process:
        wait_for("node 0 of 2", process)
        pods = trainer.pods[JOB]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert not trainer.jobs and {pod.phase for pod in pods} == {"Failed"}
    assert not list((tmp_path / "storage").iterdir())


def test_a_step_that_is_tried_again_takes_up_the_job(
    trainer: Trainer, training: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
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
    assert "is there already; waiting for it" in capfd.readouterr().out
    assert trainer.made == 1 and (tmp_path / "out" / "model" / "weights").exists()


def test_a_node_that_nobody_waits_for_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(nodes, "BEAT", 0.05)
    monkeypatch.setattr(nodes, "torchrun", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    awaited = tmp_path / nodes.WAITED_FOR
    awaited.touch()
    threading.Timer(0.5, lambda: os.utime(awaited, (0, 0))).start()
    began = time.monotonic()
    assert nodes.node(tmp_path) == 1
    assert 0.4 < time.monotonic() - began < 20
    assert "nobody waits for this training any more" in capfd.readouterr().err
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.slow
def test_two_nodes_train_what_one_process_trains(
    trainer: Trainer, training: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding; nothing is dropped."""
    trainer.command = []
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sample(tmp_path / "data", products=60, seed=3, queries=60, workers=1)
    validate(tmp_path / "data", ValidateParams(), tmp_path / "report")
    (tmp_path / "features" / "vectors").unlink()
    (tmp_path / "features").rmdir()
    featurize(tmp_path / "data", tmp_path / "report", FeaturizeParams(), tmp_path / "features")
    training()
    train_alone(tmp_path / "features", SMALL, tmp_path / "alone")
    losses = []
    for folder in (tmp_path / "out" / "model", tmp_path / "alone"):
        with (folder / "history.csv").open() as stream:
            losses.append([float(row["loss"]) for row in csv.DictReader(stream)])
    assert len(losses[0]) == SMALL.epochs and losses[0] == pytest.approx(losses[1], rel=1e-3)
