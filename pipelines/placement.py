"""Applies the settings of a cluster file to the steps of a pipeline."""

from kfp import kubernetes
from kfp.dsl import PipelineTask

from pipelines.cluster import USER_ID, Cluster, Placement, parse_duration
from pipelines.failures import STEP_LABEL
from pipelines.nodes import STORAGE

# Seconds from the first start of a step in which Argo retries it; then it also ends a retried pod (Argo 4.0.5,
# workflow/controller/operator.go, processNodeRetries). No limit on the wait, and `timeout` already limits each attempt.
RETRY_WINDOW = 30 * 86400


def apply_placement(task: PipelineTask, step: str, cluster: Cluster, commit: str) -> PipelineTask:
    """Set a task's image, resources, pod settings, labels, environment and retries.

    Args:
        task: Task of the step.
        step: One of `pipelines.cluster.TARGETS`.
        cluster: Settings of the cluster.
        commit: Commit of the code, for the name of the image.
    """
    placement = cluster.placement(step)
    task.set_container_image(cluster.image(step, commit))
    _set_resources(task, placement)
    for name, value in {**cluster.env, **placement.env}.items():
        task.set_env_variable(name, value)
    kubernetes.set_security_context(task, run_as_user=USER_ID, run_as_group=USER_ID, run_as_non_root=True)
    for secret in placement.secrets:
        kubernetes.use_secret_as_env(task, secret.name, secret.keys, secret.optional)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, cluster.pull_secrets)
    for key, value in placement.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in placement.tolerations:
        kubernetes.add_toleration(
            task, toleration.key, toleration.operator, toleration.value, toleration.effect, toleration.seconds
        )
    for key, value in {**cluster.labels, **placement.labels, STEP_LABEL: step}.items():
        kubernetes.add_pod_label(task, key, value)
    return task


def _set_resources(task: PipelineTask, placement: Placement) -> None:
    """Set CPU, memory, accelerator, retries, shared memory and timeout."""
    task.set_cpu_request(placement.cpu).set_cpu_limit(placement.cpu)
    task.set_memory_request(placement.memory).set_memory_limit(placement.memory)
    if accelerator := placement.accelerator:
        task.set_accelerator_type(accelerator.type).set_accelerator_limit(accelerator.count)
    if placement.retries.count:
        retries = placement.retries
        task.set_retry(retries.count, f"{parse_duration(retries.wait)}s", retries.factor, f"{RETRY_WINDOW}s")
    if placement.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", placement.shm)  # noqa: S108 - inside the pod
    if placement.timeout:
        kubernetes.set_timeout(task, parse_duration(placement.timeout))


def mount_shared_storage(task: PipelineTask, cluster: Cluster) -> PipelineTask:
    """Give the task that launches training nodes their shared storage and the id of its run.

    The id is not a parameter: it is new in every run, so KFP would never reuse the step.
    """
    kubernetes.mount_pvc(task, cluster.storage, str(STORAGE))
    return kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
