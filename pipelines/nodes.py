"""Training on several nodes: one TrainJob of Kubeflow Trainer, on storage that its nodes and the step share.

The TrainJob is built when the pipeline is compiled. At run time a small step starts it, prints the log of its first
node, and copies the model. A retried step resumes the job, or its last checkpoint. A cancelled step deletes the job. If
the step is killed before it can, the nodes miss its heartbeat and stop.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog import store
from catalog.schema import DataError
from catalog.threads import share_threads
from components.params import TrainParams
from pipelines.cluster import USER_ID, Cluster, Placement, parse_duration
from pipelines.processes import torchrun_command, write_params

if TYPE_CHECKING:
    from kubeflow.trainer.backends.kubernetes.backend import KubernetesBackend
    from kubeflow.trainer.types.types import TrainJob

STORAGE = Path("/storage")
API = "trainer.kubeflow.org", "v1alpha1"
RUNTIME = "torch-distributed"  # comes with Kubeflow Trainer
MANAGER = "trainer.kubeflow.org/kubeflow-sdk"
NODE = "node"
HEARTBEAT_FILE = "heartbeat"  # the step touches it while it waits for the job
HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, POLL_INTERVAL = 30, 300, 2  # seconds
TAIL_LINES = 20  # of the log of a failed node
TERMINATED = 143  # exit code of a process that SIGTERM ended


def build_trainjob(cluster: Cluster, commit: str) -> dict[str, Any]:
    """The TrainJob for a cluster; at run time it gets a name, and its folder as the last argument.

    Args:
        cluster: Settings of the cluster.
        commit: Commit of the code, for the name of the image.

    Returns:
        A manifest; see `TrainJob` of https://www.kubeflow.org/docs/components/trainer/.
    """
    from kubeflow_trainer_api import models

    placement = cluster.placement("train")
    labels = {**cluster.labels, **placement.labels}
    pod = {key: value for key, value in _build_pod(cluster, placement).items() if value}
    template = {"metadata": {"labels": labels}, "spec": pod}
    replicated_jobs = [{"name": NODE, "template": {"spec": {"template": template}}}]
    patch = {
        "manager": MANAGER,
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": replicated_jobs}}},
    }
    spec: dict[str, Any] = {
        "runtimeRef": {"name": RUNTIME},
        "trainer": _build_trainer(cluster, placement, commit),
        "runtimePatches": [patch],
    }
    if placement.timeout:
        spec["activeDeadlineSeconds"] = parse_duration(placement.timeout)
    job = {"apiVersion": "/".join(API), "kind": "TrainJob", "metadata": {"labels": labels}, "spec": spec}
    manifest: dict[str, Any] = models.TrainerV1alpha1TrainJob.from_dict(job).to_dict()
    return manifest


def _build_trainer(cluster: Cluster, placement: Placement, commit: str) -> dict[str, Any]:
    """Image, command, environment and resources of a node."""
    accelerator = placement.accelerator
    gpus = {accelerator.type: str(accelerator.count)} if accelerator else {}
    resources = {"cpu": placement.cpu, "memory": placement.memory, **gpus}
    return {
        "image": cluster.image("train", commit),
        "command": ["python", "-m", "pipelines.nodes"],
        "env": _build_environment(cluster, placement),
        "numNodes": cluster.nodes,
        "numProcPerNode": accelerator.count if accelerator else 1,
        "resourcesPerNode": {"requests": resources, "limits": resources},
    }


def _build_environment(cluster: Cluster, placement: Placement) -> list[dict[str, Any]]:
    """Environment variables of a node: plain values, then keys of secrets."""
    values = [{"name": name, "value": value} for name, value in {**cluster.env, **placement.env}.items()]
    secrets = [
        {
            "name": variable,
            "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key, "optional": secret.optional}},
        }
        for secret in placement.secrets
        for key, variable in secret.keys.items()
    ]
    return [*values, *secrets]


def _build_pod(cluster: Cluster, placement: Placement) -> dict[str, Any]:
    """The pod of a node; its image and command come from the trainer."""
    shm = {"medium": "Memory"} | ({"sizeLimit": placement.shm} if placement.shm else {})
    volumes: dict[str, tuple[str, dict[str, Any]]] = {
        "storage": (str(STORAGE), {"persistentVolumeClaim": {"claimName": cluster.storage}}),
        "tmp": ("/tmp", {"emptyDir": {}}),  # noqa: S108 - inside the pod
        "shm": ("/dev/shm", {"emptyDir": shm}),  # noqa: S108 - inside the pod
    }
    container = {
        "name": NODE,
        "volumeMounts": [{"name": name, "mountPath": path} for name, (path, _) in volumes.items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "containers": [container],
        "volumes": [{"name": name} | source for name, (_, source) in volumes.items()],
        "securityContext": {
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in cluster.pull_secrets],
        "nodeSelector": placement.node_selector,
        "tolerations": [
            toleration.model_dump(exclude={"seconds"}, exclude_none=True)
            | ({} if toleration.seconds is None else {"tolerationSeconds": toleration.seconds})
            for toleration in placement.tolerations
        ],
    }


def train_on_nodes(
    features: Path,
    params: TrainParams,
    model: Path,
    job: Mapping[str, Any],
    run_id: str,
    storage: Path = STORAGE,
) -> None:
    """Run `components.train.train` on several nodes.

    Args:
        features: Output of `featurize`.
        params: Parameters of the model and its training.
        model: Folder to write.
        job: Output of `build_trainjob`.
        run_id: Id of the pipeline's run; names the job and its folder.
        storage: Folder that the nodes share with this machine.

    Raises:
        DataError: if the job cannot be started or fails; the logs of its nodes are above.
        SystemExit: if the step is cancelled; the job is deleted.
    """
    name, folder = f"train-{run_id}", storage / run_id
    _prepare_folder(folder, features, params)
    with _connect() as backend, _heartbeat(folder), _delete_on_cancel(backend, name, folder):
        trainer = job["spec"]["trainer"] | {"args": [str(folder)]}
        _start_job(backend, name, {**job, "spec": job["spec"] | {"trainer": trainer}})
        if _follow_job(backend, name).status != "Complete":
            raise DataError(
                f"train: the TrainJob {name} failed; see the logs of its nodes above. It was not deleted: "
                f"kubectl -n {backend.namespace} describe trainjob {name}"
            )
        with store.new_atomic_dir(model) as partial:
            shutil.copytree(folder / "model", partial, dirs_exist_ok=True)
        _delete_job(backend, name)
    shutil.rmtree(folder)


def _prepare_folder(folder: Path, features: Path, params: TrainParams) -> None:
    """Write the features and the parameters to the shared storage; features of an earlier attempt stay.

    Raises:
        DataError: if the storage is not writable.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(
            f"train: the claim at {folder.parent} is not writable ({error.strerror}); user {os.getuid()} must own it"
        ) from error
    if not (folder / "features").exists():
        with store.new_atomic_dir(folder / "features") as partial:
            shutil.copytree(features, partial, dirs_exist_ok=True)
    write_params(params, folder)


def run_node(folder: Path) -> int:
    """Train on one node with torchrun, which reads Kubeflow Trainer's PET_ variables. Stops if the heartbeat stops.

    Args:
        folder: The folder that `train_on_nodes` prepared.

    Returns:
        The exit code.
    """
    heartbeat = folder / HEARTBEAT_FILE
    command = torchrun_command(folder / "features", folder / "params.yaml", folder / "model")
    # the first process of a container has no default handler
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    processes = int(os.environ.get("PET_NPROC_PER_NODE", "1"))
    with subprocess.Popen(command, env=share_threads(processes)) as process:
        try:
            while True:
                try:
                    return process.wait(HEARTBEAT_INTERVAL)
                except subprocess.TimeoutExpired:
                    if time.time() - heartbeat.stat().st_mtime > HEARTBEAT_TIMEOUT:
                        print("vitrine: train: the launching step has stopped; stopping too", file=sys.stderr)
                        return 1
        finally:
            process.terminate()


@contextmanager
def _connect() -> Iterator["KubernetesBackend"]:
    """A client of Kubeflow Trainer, for this pod's cluster and namespace.

    Raises:
        DataError: if Kubernetes refuses a request, or does not answer for long.
    """
    from kubeflow.common.types import KubernetesBackendConfig
    from kubeflow.common.utils import is_running_in_k8s
    from kubeflow.trainer.backends.kubernetes.backend import KubernetesBackend
    from kubernetes import client, config
    from urllib3 import Retry
    from urllib3.exceptions import HTTPError

    logging.getLogger("kubeflow.trainer").setLevel(logging.ERROR)  # it warns that it cannot read a version
    settings = client.Configuration()
    settings.retries = Retry(
        6, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None
    )
    try:
        load = config.load_incluster_config if is_running_in_k8s() else config.load_kube_config
        load(client_configuration=settings)
        yield KubernetesBackend(KubernetesBackendConfig(client_configuration=settings))
    except config.ConfigException as error:
        raise DataError(f"train: no cluster is configured here ({error})") from error
    except client.ApiException as error:
        raise DataError(f"train: Kubernetes refuses: {_error_message(error)}") from error
    except (RuntimeError, TimeoutError, HTTPError) as error:  # the SDK wraps the errors of its client
        cause = error.__cause__ or error
        message = _error_message(cause) if isinstance(cause, client.ApiException) else str(cause)
        raise DataError(f"train: {error}: {message}") from error


def _error_message(error: Any) -> str:
    """The message of an answer of Kubernetes; its status if it has none."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


@contextmanager
def _heartbeat(folder: Path) -> Iterator[None]:
    """Touch the heartbeat file from time to time."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_INTERVAL):
            (folder / HEARTBEAT_FILE).touch()

    (folder / HEARTBEAT_FILE).touch()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def _delete_on_cancel(backend: "KubernetesBackend", name: str, folder: Path) -> Iterator[None]:
    """Delete the job and its folder if this process is terminated."""
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        _delete_job(backend, name)
        shutil.rmtree(folder)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def _start_job(backend: "KubernetesBackend", name: str, job: Mapping[str, Any]) -> None:
    """Create the job, unless an earlier attempt of this run created it and it has not failed."""
    from kubernetes.client import ApiException

    place = *API, backend.namespace, "trainjobs"
    body = {**job, "metadata": {**job["metadata"], "name": name, "ownerReferences": _pod_owners(backend)}}
    while True:
        try:
            backend.custom_api.create_namespaced_custom_object(*place, body)
            print(f"train: TrainJob {backend.namespace}/{name}, {job['spec']['trainer']['numNodes']} nodes")
            return
        except ApiException as error:
            if error.status == 404:
                raise DataError("train: this cluster has no TrainJob; install Kubeflow Trainer") from error
            if error.status != 409:
                raise
        existing = backend.custom_api.get_namespaced_custom_object(*place, name)
        if "deletionTimestamp" in existing["metadata"]:
            time.sleep(POLL_INTERVAL)
        elif backend.get_job(name).status == "Failed":
            _delete_job(backend, name)
        else:
            print(f"train: TrainJob {backend.namespace}/{name} exists already; waiting for it")
            return


def _delete_job(backend: "KubernetesBackend", name: str) -> None:
    try:
        backend.delete_job(name)
    except RuntimeError as error:
        if getattr(error.__cause__, "status", None) != 404:
            raise


def _pod_owners(backend: "KubernetesBackend") -> list[dict[str, str]]:
    """The owners of this pod; as owners of the job they make Kubernetes delete it with the run."""
    if "KFP_POD_NAME" not in os.environ:
        return []
    pod = backend.core_api.read_namespaced_pod(os.environ["KFP_POD_NAME"], backend.namespace)
    return [
        {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
        for owner in pod.metadata.owner_references or []
    ]


def _follow_job(backend: "KubernetesBackend", name: str) -> "TrainJob":
    """Print the log of the first node until the job ends; before the node starts, the job's events."""
    printed_events: set[str] = set()
    printed_bytes: dict[str, int] = {}
    while True:
        job = backend.get_job(name)
        first_node = next(
            (step for step in job.steps if step.name == f"{NODE}-0" and step.status != "Pending"), None
        )
        if first_node and (pod := first_node.pod_name):
            printed_bytes[pod] = _print_log(backend, pod, printed_bytes.get(pod, 0))
        else:
            _print_events(backend, name, printed_events)
        if job.status in {"Complete", "Failed"}:
            break
        time.sleep(POLL_INTERVAL)
    if job.status == "Failed":
        _print_tails(backend, job)
    return job


def _print_events(backend: "KubernetesBackend", name: str, printed: set[str]) -> None:
    """Print events of the job that are not in `printed`, and add them to it."""
    for event in backend.get_job_events(name):
        line = f"{event.involved_object_name}: {event.reason}: {event.message}"
        if line not in printed:
            print(f"train: {line}", flush=True)
            printed.add(line)


def _print_tails(backend: "KubernetesBackend", job: "TrainJob") -> None:
    """Print the last lines of all nodes but the first."""
    for step in job.steps:
        if step.name != f"{NODE}-0":
            try:
                lines = list(backend.get_job_logs(job.name, step=step.name))[-TAIL_LINES:]
            except RuntimeError as error:
                lines = [str(error)]
            print("\n".join([f"train: the last lines of {step.name} ({step.status}):", *lines]), flush=True)


def _print_log(backend: "KubernetesBackend", pod: str, printed: int) -> int:
    """Print the log of a node while it grows.

    Args:
        backend: Client of the cluster.
        pod: Name of the node's pod.
        printed: Bytes printed so far.

    Returns:
        Bytes printed in all. The node may still run: the connection may have been cut.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    position = 0
    try:
        answer = backend.core_api.read_namespaced_pod_log(
            pod,
            backend.namespace,
            container=NODE,
            follow=True,
            _preload_content=False,
            _request_timeout=(10, 60),
        )
        for chunk in answer.stream():
            sys.stdout.buffer.write(chunk[max(0, printed - position) :])
            sys.stdout.flush()
            position += len(chunk)
    except (ApiException, HTTPError) as error:
        print(f"train: the log of {pod} was cut ({type(error).__name__})", file=sys.stderr)
    return max(printed, position)


if __name__ == "__main__":
    sys.exit(run_node(Path(sys.argv[1])))
