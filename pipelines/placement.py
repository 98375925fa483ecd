"""Puts what a cluster file says on the steps of a pipeline."""

from kfp import kubernetes
from kfp.dsl import PipelineTask

from pipelines.cluster import USER, Cluster, seconds
from pipelines.nodes import STORAGE


def place(task: PipelineTask, step: str, cluster: Cluster, commit: str) -> PipelineTask:
    """Give a task its image, resources, pod settings, environment and retries.

    Args:
        task: Of the step.
        step: One of `pipelines.cluster.TARGETS`.
        cluster: Where it runs.
        commit: Of the code.
    """
    wanted = cluster.placement(step)
    task.set_container_image(cluster.image(step, commit))
    task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu)
    task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)
    if wanted.accelerator:
        task.set_accelerator_type(wanted.accelerator.type).set_accelerator_limit(wanted.accelerator.count)
    if wanted.retries.count:
        again = wanted.retries
        longest = f"{seconds(again.longest)}s"
        task.set_retry(again.count, f"{seconds(again.wait)}s", again.factor, longest)
    for name, value in {**cluster.env, **wanted.env}.items():
        task.set_env_variable(name, value)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    for secret in wanted.secrets:
        kubernetes.use_secret_as_env(task, secret.name, secret.keys, secret.optional)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, cluster.pull_secrets)
    for key, value in wanted.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for one in wanted.tolerations:
        kubernetes.add_toleration(task, one.key, one.operator, one.value, one.effect, one.seconds)
    if wanted.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", wanted.shm)  # noqa: S108 - the pod's own
    if wanted.timeout:
        kubernetes.set_timeout(task, seconds(wanted.timeout))
    for key, value in {**cluster.labels, **wanted.labels}.items():
        kubernetes.add_pod_label(task, key, value)
    return task


def share(task: PipelineTask, cluster: Cluster) -> PipelineTask:
    """Give a task the storage of the nodes that it launches, and the id of its run.

    The id is no parameter: with one that is new in every run, KFP would never reuse the step.
    """
    kubernetes.mount_pvc(task, cluster.storage, str(STORAGE))
    return kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
