"""The pipeline: a catalogue and its judged queries go in, a judged and registered model comes out."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input

from pipelines import steps
from pipelines.cluster import Cluster
from pipelines.nodes import describe
from pipelines.placement import place, share

WEBHOOK = "VITRINE_WEBHOOK"


class Features(NamedTuple):
    """What featurize tells, whole or in shards."""

    features: Dataset
    features_digest: str


def pipeline(cluster: Cluster, commit: str) -> dsl.base_component.BaseComponent:
    """The pipeline as a cluster runs it.

    Args:
        cluster: Where.
        commit: Of the code, for images that are named by it.
    """

    def placed(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        return place(task, name, cluster, commit)

    @dsl.pipeline(name="featurize-in-shards")
    def sharded(
        data: Input[Dataset], report: Input[Artifact], data_digest: str, report_digest: str, params: dict
    ) -> Features:
        with dsl.ParallelFor(list(range(cluster.shards))) as shard:
            part = steps.featurize_shard(
                data=data,
                report=report,
                data_digest=data_digest,
                report_digest=report_digest,
                params=params,
                shard=shard,
                shards=cluster.shards,
            )
            placed(part, "featurize")
        whole = steps.gather(
            parts=dsl.Collected(part.outputs["part"]), data_digest=data_digest, params=params
        )
        placed(whole, "gather")
        return Features(whole.outputs["features"], whole.outputs["features_digest"])

    def told() -> AbstractContextManager[object]:
        """What tells people how a run ended, if somebody is to be told."""
        wanted = cluster.placement("notify")
        if not any(WEBHOOK in one.keys.values() for one in wanted.secrets):
            return nullcontext()
        task = steps.notify(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, ui=cluster.ui or "")
        return dsl.ExitHandler(placed(task, "notify").set_caching_options(False), name="told")

    @dsl.pipeline(name="vitrine-training", description="validate → featurize → train → evaluate → register")
    def training(
        repo: str, rev: str, validate: dict, featurize: dict, train: dict, evaluate: dict, register: dict
    ):
        """Train, judge and register one model; the order of the steps comes from their data alone.

        Args:
            repo: Git repository that versions the data set, a path or URL.
            rev: Commit, branch or tag; what it stands for is found when the pipeline runs.
            validate: The section of params.yaml, as are all that follow.
            featurize: See `components.params.FeaturizeParams`.
            train: See `components.params.TrainParams`.
            evaluate: See `components.params.EvaluateParams`.
            register: See `components.params.RegisterParams`.
        """
        with told():
            fetched = placed(steps.fetch(repo=repo, rev=rev), "fetch").set_caching_options(False)
            data = {name: fetched.outputs[name] for name in ("data", "data_digest")}
            report = placed(steps.validate(**data, params=validate), "validate").outputs
            if cluster.shards > 1:
                features = sharded(**data, **report, params=featurize).outputs
            else:
                features = placed(steps.featurize(**data, **report, params=featurize), "featurize").outputs
            if cluster.nodes > 1:
                launching = steps.train_on_nodes(**features, params=train, job=describe(cluster, commit))
                model = share(placed(launching, "launch"), cluster).outputs
            else:
                model = placed(steps.train(**features, params=train), "train").outputs
            judging = steps.evaluate(**data, **features, **model, params=evaluate)
            evaluation = placed(judging, "evaluate").outputs
            registering = steps.register(
                data=data["data"],
                report=report["report"],
                model=model["model"],
                evaluation=evaluation["evaluation"],
                params=register,
                revision=fetched.outputs["revision"],
                run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            )
            placed(registering, "register").set_caching_options(False)

    return training
