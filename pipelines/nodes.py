"""Training on several nodes: one TrainJob of Kubeflow Trainer, on storage that its nodes and the step share.

The job is described when the pipeline is compiled. At run time a small step starts it, shows what its leading node
says, and takes the model; a run that is tried again takes up the job, or its last checkpoint. A cancelled step deletes
the job; should it be killed before it can, the nodes see that nobody waits for them any more, and stop.
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
from components.params import TrainParams
from pipelines.cluster import USER, Cluster, seconds
from pipelines.processes import torchrun, written

if TYPE_CHECKING:
    from kubeflow.trainer.backends.kubernetes.backend import KubernetesBackend
    from kubeflow.trainer.types.types import TrainJob

STORAGE = Path("/storage")
API = "trainer.kubeflow.org", "v1alpha1"
RUNTIME = "torch-distributed"  # Kubeflow Trainer's own
MANAGER = "trainer.kubeflow.org/kubeflow-sdk"
NODE = "node"
WAITED_FOR = "waited_for"  # a file that is touched for as long as somebody waits
BEAT, ALONE, POLL = 30, 300, 2  # seconds
TAIL = 20  # lines


def describe(cluster: Cluster, commit: str) -> dict[str, Any]:
    """The TrainJob of a cluster's training, but for its name, and its folder as the last argument.

    Args:
        cluster: Where.
        commit: Of the code, for images that are named by it.

    Returns:
        As Kubernetes takes it; see `TrainJob` of https://www.kubeflow.org/docs/components/trainer/.
    """
    from kubeflow_trainer_api import models

    wanted = cluster.placement("train")
    gpus = {wanted.accelerator.type: str(wanted.accelerator.count)} if wanted.accelerator else {}
    resources = {"cpu": wanted.cpu, "memory": wanted.memory, **gpus}
    env: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in {**cluster.env, **wanted.env}.items()
    ]
    env += [
        {
            "name": variable,
            "valueFrom": {"secretKeyRef": {"name": one.name, "key": key, "optional": one.optional}},
        }
        for one in wanted.secrets
        for key, variable in one.keys.items()
    ]
    memory = {"medium": "Memory"} | ({"sizeLimit": wanted.shm} if wanted.shm else {})
    volumes: dict[str, tuple[str, dict[str, Any]]] = {
        "storage": (str(STORAGE), {"persistentVolumeClaim": {"claimName": cluster.storage}}),
        "tmp": ("/tmp", {"emptyDir": {}}),  # noqa: S108 - the pod's own
        "shm": ("/dev/shm", {"emptyDir": memory}),  # noqa: S108 - likewise
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
    pod = {
        "containers": [container],
        "volumes": [{"name": name} | source for name, (_, source) in volumes.items()],
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in cluster.pull_secrets],
        "nodeSelector": wanted.node_selector,
        "tolerations": [
            one.model_dump(exclude={"seconds"}, exclude_none=True)
            | ({} if one.seconds is None else {"tolerationSeconds": one.seconds})
            for one in wanted.tolerations
        ],
    }
    labels = {**cluster.labels, **wanted.labels}
    template = {"metadata": {"labels": labels}, "spec": {key: value for key, value in pod.items() if value}}
    job = {
        "apiVersion": "/".join(API),
        "kind": "TrainJob",
        "metadata": {"labels": labels},
        "spec": {
            "runtimeRef": {"name": RUNTIME},
            "trainer": {
                "image": cluster.image("train", commit),
                "command": ["python", "-m", "pipelines.nodes"],
                "env": env,
                "numNodes": cluster.nodes,
                "numProcPerNode": wanted.accelerator.count if wanted.accelerator else 1,
                "resourcesPerNode": {"requests": resources, "limits": resources},
            },
            "runtimePatches": [
                {
                    "manager": MANAGER,
                    "trainingRuntimeSpec": {
                        "template": {
                            "spec": {
                                "replicatedJobs": [
                                    {"name": NODE, "template": {"spec": {"template": template}}}
                                ]
                            }
                        }
                    },
                }
            ],
        }
        | ({"activeDeadlineSeconds": seconds(wanted.timeout)} if wanted.timeout else {}),
    }
    told: dict[str, Any] = models.TrainerV1alpha1TrainJob.from_dict(job).to_dict()
    return told


def train(
    features: Path,
    params: TrainParams,
    model: Path,
    job: Mapping[str, Any],
    run: str,
    storage: Path = STORAGE,
) -> None:
    """As `components.train.train`, on several nodes.

    Args:
        features: What `featurize` wrote.
        params: The model and its training.
        model: Folder to write.
        job: What `describe` says.
        run: Id of the pipeline's run; the job and its folder are named by it.
        storage: What the nodes share with this machine.

    Raises:
        DataError: where the job cannot be started or fails; what its nodes said stands above.
        SystemExit: where the step is cancelled; the job is deleted.
    """
    name, folder = f"train-{run}", storage / run
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(
            f"train: the claim at {storage} cannot be written ({error.strerror}); it is to belong to user {os.getuid()}"
        ) from error
    if not (folder / "features").exists():
        with store.fresh(folder / "features") as partial:
            shutil.copytree(features, partial, dirs_exist_ok=True)
    written(params, folder)
    with _answering() as backend, _awaited(folder), _cancelling(backend, name, folder):
        trainer = job["spec"]["trainer"] | {"args": [str(folder)]}
        _start(backend, name, {**job, "spec": job["spec"] | {"trainer": trainer}})
        ended = _follow(backend, name)
        if ended.status != "Complete":
            raise DataError(
                f"train: the TrainJob {name} failed; what its nodes said stands above. It is kept to look at: "
                f"kubectl -n {backend.namespace} describe trainjob {name}"
            )
        with store.fresh(model) as partial:
            shutil.copytree(folder / "model", partial, dirs_exist_ok=True)
        _delete(backend, name)
    shutil.rmtree(folder)


def node(folder: Path) -> int:
    """One node's part, as long as somebody waits for it: torchrun, as Kubeflow Trainer's PET_ variables say.

    Args:
        folder: That `train` made.

    Returns:
        The exit code.
    """
    awaited = folder / WAITED_FOR
    command = torchrun(folder / "features", folder / "params.yaml", folder / "model")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the first process of a container has no default
    with subprocess.Popen(command) as process:
        try:
            while True:
                try:
                    return process.wait(BEAT)
                except subprocess.TimeoutExpired:
                    if time.time() - awaited.stat().st_mtime > ALONE:
                        print("vitrine: train: nobody waits for this training any more", file=sys.stderr)
                        return 1
        finally:
            process.terminate()


@contextmanager
def _answering() -> Iterator["KubernetesBackend"]:
    """Kubeflow Trainer, of this pod's cluster and namespace.

    Raises:
        DataError: where Kubernetes refuses something, or does not answer for long.
    """
    from kubeflow.common.types import KubernetesBackendConfig
    from kubeflow.common.utils import is_running_in_k8s
    from kubeflow.trainer.backends.kubernetes.backend import KubernetesBackend
    from kubernetes import client, config
    from urllib3 import Retry
    from urllib3.exceptions import HTTPError

    logging.getLogger("kubeflow.trainer").setLevel(logging.ERROR)  # it wants to know its own version
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
        raise DataError(f"train: Kubernetes refuses: {_said(error)}") from error
    except (RuntimeError, TimeoutError, HTTPError) as error:  # the SDK wraps what it meets
        cause = error.__cause__ or error
        told = _said(cause) if isinstance(cause, client.ApiException) else str(cause)
        raise DataError(f"train: {error}: {told}") from error


def _said(error: Any) -> str:
    """What Kubernetes answers, in its own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


@contextmanager
def _awaited(folder: Path) -> Iterator[None]:
    """Let the nodes see that somebody waits."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            (folder / WAITED_FOR).touch()

    (folder / WAITED_FOR).touch()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _cancelling(backend: "KubernetesBackend", name: str, folder: Path) -> Iterator[None]:
    """Delete the job and its folder when this process is told to end."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        _delete(backend, name)
        shutil.rmtree(folder)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(backend: "KubernetesBackend", name: str, job: Mapping[str, Any]) -> None:
    """Make the job, unless an earlier attempt of this run made it and it did not fail."""
    from kubernetes.client import ApiException

    where = *API, backend.namespace, "trainjobs"
    body = {**job, "metadata": {**job["metadata"], "name": name, "ownerReferences": _owners(backend)}}
    while True:
        try:
            backend.custom_api.create_namespaced_custom_object(*where, body)
            print(f"train: TrainJob {backend.namespace}/{name}, {job['spec']['trainer']['numNodes']} nodes")
            return
        except ApiException as error:
            if error.status == 404:
                raise DataError("train: this cluster knows no TrainJob; install Kubeflow Trainer") from error
            if error.status != 409:
                raise
        found = backend.custom_api.get_namespaced_custom_object(*where, name)
        if "deletionTimestamp" in found["metadata"]:
            time.sleep(POLL)
        elif backend.get_job(name).status == "Failed":
            _delete(backend, name)
        else:
            print(f"train: TrainJob {backend.namespace}/{name} is there already; waiting for it")
            return


def _delete(backend: "KubernetesBackend", name: str) -> None:
    try:
        backend.delete_job(name)
    except RuntimeError as error:
        if getattr(error.__cause__, "status", None) != 404:
            raise


def _owners(backend: "KubernetesBackend") -> list[dict[str, str]]:
    """What owns this pod, so that Kubernetes removes the job with the run."""
    if "KFP_POD_NAME" not in os.environ:
        return []
    pod = backend.core_api.read_namespaced_pod(os.environ["KFP_POD_NAME"], backend.namespace)
    return [
        {"apiVersion": one.api_version, "kind": one.kind, "name": one.name, "uid": one.uid}
        for one in pod.metadata.owner_references or []
    ]


def _follow(backend: "KubernetesBackend", name: str) -> "TrainJob":
    """Show what the leading node says until the job has ended; before it starts, what Kubernetes says of it."""
    told: set[str] = set()
    shown: dict[str, int] = {}
    while True:
        job = backend.get_job(name)
        pod = next(
            (one.pod_name for one in job.steps if one.name == f"{NODE}-0" and one.status != "Pending"), None
        )
        if pod:
            shown[pod] = _show(backend, pod, shown.get(pod, 0))
        else:
            for event in backend.get_job_events(name):
                if (said := f"{event.involved_object_name}: {event.reason}: {event.message}") not in told:
                    print(f"train: {said}", flush=True)
                    told.add(said)
        if job.status in {"Complete", "Failed"}:
            break
        time.sleep(POLL)
    if job.status == "Failed":
        for one in (step for step in job.steps if step.name != f"{NODE}-0"):
            try:
                lines = list(backend.get_job_logs(name, step=one.name))[-TAIL:]
            except RuntimeError as error:
                lines = [str(error)]
            print("\n".join([f"train: the last lines of {one.name} ({one.status}):", *lines]), flush=True)
    return job


def _show(backend: "KubernetesBackend", pod: str, shown: int) -> int:
    """Pass on what a node says as it says it.

    Args:
        backend: Of the cluster.
        pod: Name of the node's.
        shown: Bytes that were passed on before.

    Returns:
        Bytes that are passed on by now. The connection may have been cut: the node need not have ended.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    at = 0
    try:
        answer = backend.core_api.read_namespaced_pod_log(
            pod,
            backend.namespace,
            container=NODE,
            follow=True,
            _preload_content=False,
            _request_timeout=(10, 60),
        )
        for piece in answer.stream():
            sys.stdout.buffer.write(piece[max(0, shown - at) :])
            sys.stdout.flush()
            at += len(piece)
    except (ApiException, HTTPError) as error:
        print(f"train: the log of {pod} was cut ({type(error).__name__})", file=sys.stderr)
    return max(shown, at)


if __name__ == "__main__":
    sys.exit(node(Path(sys.argv[1])))
