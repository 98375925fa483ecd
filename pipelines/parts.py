"""Parts that several pipelines have: the data of a commit, their validation, the message about the end of a run."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kfp import dsl

from pipelines import steps
from pipelines.cluster import Cluster

WEBHOOK = "VITRINE_WEBHOOK"

Place = Callable[
    [dsl.PipelineTask, str], dsl.PipelineTask
]  # applies the cluster's settings to a task of a step
Outputs = Mapping[str, Any]  # outputs of a step, by name


def add_notification(pipeline: str, cluster: Cluster, place: Place) -> AbstractContextManager[object]:
    """Adds a step that reports the end of the run, if the cluster has a webhook; wraps all other steps.

    Args:
        pipeline: A key of `pipelines.definitions.PIPELINES`.
        cluster: Settings of the cluster.
        place: Applies them to the step.
    """
    secrets = cluster.placement("notify").secrets
    if not any(WEBHOOK in secret.keys.values() for secret in secrets):
        return nullcontext()
    task = steps.notify(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, ui=cluster.ui or "", pipeline=pipeline)
    return dsl.ExitHandler(place(task, "notify").set_caching_options(False), name="all-steps")


def add_data(place: Place, repo: Any, rev: Any) -> tuple[Outputs, Outputs]:
    """Look up a commit in every run, and fetch its data.

    Returns:
        Outputs of `resolve`, and those of `fetch`.
    """
    version = place(steps.resolve(repo=repo, rev=rev), "resolve").set_caching_options(False).outputs
    task = steps.fetch(repo=repo, commit=version["data_commit"], data_hash=version["data_hash"])
    return version, place(task, "fetch").outputs


def add_validate(place: Place, inputs: Mapping[str, Any]) -> Outputs:
    """Check the data in two steps: KFP does not store the report of a step that fails."""
    checked = place(steps.validate(**inputs), "validate").outputs
    task = steps.require_valid(checked=checked["report"], faults=checked["faults"])
    return place(task, "require_valid").outputs


def add_registry_step(place: Place, step: str, version: Outputs, inputs: Mapping[str, Any]) -> None:
    """Add a step that changes the registry. It runs in every run, and knows the commit of the data and the run.

    Args:
        place: Applies the cluster's settings.
        step: Name of the step.
        version: Outputs of `resolve`.
        inputs: Its other inputs.
    """
    task = getattr(steps, step)(
        **inputs,
        revision=version["commit"],
        data_hash=version["data_hash"],
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    place(task, step).set_caching_options(False)
