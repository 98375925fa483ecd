"""Servers with the parts of Kubeflow's and Kubernetes' HTTP APIs that Vitrine uses; they hold everything in memory."""

import inspect
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from containers import run_in_container
from kfp.dsl import pipeline_task
from kfp_server import Json, Kubeflow
from kubeflow_trainer_api import models
from pod_server import NAMESPACE, PodServer

from pipelines import ir
from pipelines.cluster import Cluster
from pipelines.definitions import DEFAULT
from pipelines.local import hash_code

IMAGE = os.environ.get("VITRINE_TEST_IMAGE", "vitrine:test")


@pytest.fixture
def kubeflow() -> Iterator[Kubeflow]:
    server = Kubeflow()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session", autouse=True)
def _quick_stack() -> Iterator[None]:
    """kfp reads the source lines of all calls under way to name one of them; below pytest this takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_task, "inspect", SimpleNamespace(stack=lambda: inspect.stack(context=0)))
        yield


@pytest.fixture(scope="session")
def compile_once() -> Any:
    """Compile as the project does, but each pipeline only once."""
    compile_pipeline, texts = ir.compile_pipeline, {}

    def compile_cached(cluster: Cluster, commit: str, params: dict[str, Any], pipeline: str = DEFAULT) -> str:
        key = (cluster.model_dump_json(), commit, json.dumps(params), pipeline)
        if key not in texts:
            texts[key] = compile_pipeline(cluster, commit, params, pipeline)
        return texts[key]

    return compile_cached


@pytest.fixture
def json_handler() -> type[Json]:
    return Json


NOW = datetime.now(UTC).isoformat()


class Node:
    """A pod; its process starts when it is scheduled."""

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

    def to_manifest(self) -> dict[str, Any]:
        labels = {
            "jobset.sigs.k8s.io/jobset-name": self.name.partition("-node-")[0],
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(self.rank),
        }
        meta = {"name": self.name, "labels": labels, "creationTimestamp": NOW}
        spec = {"containers": [{"name": "node"}]}
        return {"metadata": meta, "spec": spec, "status": {"phase": self.phase}}


class Trainer(ThreadingHTTPServer):
    """Kubeflow Trainer of a namespace.

    `command`: run by the nodes, by default that of the job. `full`: no node has room. `cut`: bytes of a log after which
    its connection ends, once. `refusing`: status and message for every POST.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), TrainerHandler)
        self.folder, self.jobs, self.pods = folder, {}, {}
        self.command: list[str] = []
        self.full, self.cut, self.refusing = False, 0, (0, "")
        self.jobs: dict[str, dict[str, Any]]
        self.pods: dict[str, list[Node]]
        self.created_jobs = 0

    def make(self, job: dict[str, Any]) -> None:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        job["metadata"] |= {"creationTimestamp": NOW, "namespace": "shop"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = self.command or [sys.executable, *trainer["command"][1:]]
        self.jobs[name], self.created_jobs = job, self.created_jobs + 1
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
                self.folder / f"{self.created_jobs}-{rank}.log",
            )
            for rank in range(trainer["numNodes"])
        ]

    def look(self, name: str) -> dict[str, Any]:
        """A job, after the controllers have started its pods and set its status."""
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


class TrainerHandler(Json):
    """Routes."""

    server: Trainer
    protocol_version = "HTTP/1.1"

    def _route(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        words = url.path.strip("/").split("/")
        if words[-1] == "log":
            self._log(words[-2], "follow" in query)
            return
        self.send_json(*self._answer(words, query, body))

    def _answer(self, words: list[str], query: dict[str, str], body: bytes) -> tuple[int, Any]:  # noqa: PLR0911
        server = self.server
        match self.command, *words:
            case "GET", *_, "clustertrainingruntimes", "torch-distributed":
                return 200, RUNTIME
            case "POST", "apis", "trainer.kubeflow.org", "v1alpha1", "namespaces", "shop", "trainjobs":
                job = json.loads(body)
                if server.refusing[0]:
                    return server.refusing[0], {"message": server.refusing[1]}
                if models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() != job:
                    return 422, {"message": "not a TrainJob"}
                if job["metadata"]["name"] in server.jobs:
                    return 409, {"message": "already exists"}
                server.make(job)
                return 201, job
            case "GET", *_, "trainjobs", name if name in server.jobs:
                return 200, server.look(name)
            case "DELETE", *_, "trainjobs", name if name in server.jobs:
                server.stop(name)
                del server.jobs[name]
                return 200, {}
            case "GET", *_, "pods":
                name = re.match("jobset.sigs.k8s.io/jobset-name=([^,]+),", query["labelSelector"])[1]  # type: ignore[index]
                return 200, {"items": [pod.to_manifest() for pod in server.pods[name]]}
            case "GET", *_, "pods", "launcher":
                owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
                return 200, {
                    "metadata": {"name": "launcher", "ownerReferences": [owner | {"controller": True}]}
                }
            case "GET", *_, "events":
                names = server.jobs if server.full else []
                return 200, {
                    "items": [
                        SCHEDULING | {"involvedObject": {"kind": "TrainJob", "name": name}} for name in names
                    ]
                }
            case _:
                return 404, {"message": f"no {'/'.join(words)}"}

    def _log(self, pod: str, follow: bool) -> None:
        node = next(node for nodes in self.server.pods.values() for node in nodes if node.name == pod)
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
    "reason": "FailedScheduling",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
    "firstTimestamp": NOW,
}


def _configure_kubectl(
    path: Path, server: ThreadingHTTPServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make a server the cluster of kubectl's current context."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": namespace}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {}}],
    }
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))  # for processes that the test starts
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def pod_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodServer]:
    server = PodServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _configure_kubectl(tmp_path / "kubeconfig", server, NAMESPACE, monkeypatch)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    server = Trainer(tmp_path)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    _configure_kubectl(tmp_path / "kubeconfig", server, "shop", monkeypatch)
    yield server
    for name in server.jobs:
        server.stop(name)
    server.shutdown()
    server.server_close()


def _clean_commit() -> str | None:
    """The commit of this checkout; None if files differ from it, or it is no repository."""
    root = Path(__file__).parents[2]
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"])
    commit, changes = (
        subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
        for command in commands
    )
    return commit if commit and not changes else None


@pytest.fixture(scope="session")
def image() -> str:
    """An image of this code; the test is skipped where there is no engine to run it."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        installed_image = docker.from_env().images.get(IMAGE)
    except ImageNotFound:
        pytest.skip(f"no image {IMAGE}; `make test-image` builds it")
    except DockerException as error:
        pytest.skip(f"no Docker engine here ({error})")
    output = run_in_container(
        IMAGE, ["python", "-c", "from pipelines.local import hash_code; print(hash_code())"]
    )
    if output.decode().strip() != hash_code():
        revision = installed_image.labels.get("org.opencontainers.image.revision")
        assert revision != _clean_commit(), (
            f"{IMAGE} is of this commit, but lacks files of it: see package-data"
        )
        pytest.skip(f"{IMAGE} holds other code than this checkout; `make test-image` builds it anew")
    assert installed_image.attrs["Config"]["User"] == "10001"
    return IMAGE
