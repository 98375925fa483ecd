"""The training pipeline: reads a catalogue with judged queries, trains a model, evaluates and registers it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input

from pipelines import steps
from pipelines.cluster import Cluster
from pipelines.nodes import build_trainjob
from pipelines.parts import Outputs, Place, add_data, add_notification, add_registry_step, add_validate
from pipelines.placement import apply_placement, mount_shared_storage


def build_training(cluster: Cluster, commit: str) -> dsl.base_component.BaseComponent:
    """The pipeline for a cluster.

    Args:
        cluster: Settings of the cluster.
        commit: Commit of the code, for the names of the images.
    """
    place: Place = partial(apply_placement, cluster=cluster, commit=commit)
    add_featurize = _featurize_builder(cluster.shards, place)

    @dsl.pipeline(
        name="vitrine-training", description="validate → featurize → train → index → evaluate → register"
    )
    def training(
        repo: str,
        rev: str,
        validate: dict,
        featurize: dict,
        train: dict,
        index: dict,
        evaluate: dict,
        register: dict,
    ):
        """Train, evaluate and register one model; the data flow alone defines the order of the steps.

        Args:
            repo: Git repository that versions the data set, a path or URL.
            rev: Commit, branch or tag; resolved when the pipeline runs.
            validate: See `components.params.ValidateParams`.
            featurize: See `components.params.FeaturizeParams`.
            train: See `components.params.TrainParams`.
            index: See `components.params.IndexParams`.
            evaluate: See `components.params.EvaluateParams`.
            register: See `components.params.RegisterParams`.
        """
        with add_notification("training", cluster, place):
            version, data = add_data(place, repo, rev)
            report = add_validate(place, {**data, "params": validate})
            features = add_featurize(**data, **report, params=featurize)
            model = _add_train(cluster, commit, place, {**features, "params": train})
            indexed = place(steps.index(**data, **features, **model, params=index), "index").outputs
            evaluate_task = steps.evaluate(**data, **features, **model, **indexed, params=evaluate)
            evaluation = place(evaluate_task, "evaluate").outputs
            judged = {**data, **report, **model, **indexed, **evaluation}
            add_registry_step(place, "register", version, {**judged, "params": register})

    return training


def _featurize_builder(shards: int, place: Place) -> Callable[..., Outputs]:
    """A function that adds featurize to the pipeline, as one step or in shards, and returns its outputs.

    kfp does not allow to define a pipeline inside another, so the shards are defined here.
    """
    if shards == 1:
        return lambda **inputs: place(steps.featurize(**inputs), "featurize").outputs

    @dsl.pipeline(name="featurize-in-shards")
    def featurize_in_shards(data: Input[Dataset], report: Input[Artifact], params: dict) -> Dataset:
        with dsl.ParallelFor(list(range(shards))) as shard:
            part = steps.featurize_shard(data=data, report=report, params=params, shard=shard, shards=shards)
            place(part, "featurize")
        task = steps.gather(parts=dsl.Collected(part.outputs["part"]), params=params)
        return place(task, "gather").outputs["features"]

    return lambda **inputs: {"features": featurize_in_shards(**inputs).output}


def _add_train(cluster: Cluster, commit: str, place: Place, inputs: Mapping[str, Any]) -> Outputs:
    """Train in one pod, or launch several nodes."""
    if cluster.nodes == 1:
        return place(steps.train(**inputs), "train").outputs
    task = steps.train_on_nodes(**inputs, job=build_trainjob(cluster, commit))
    return mount_shared_storage(place(task, "launch"), cluster).outputs
