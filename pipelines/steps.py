"""One thin KFP component per stage, plus the steps that only a pipeline needs. The stages are those of components/.

A step also takes the digest of each input artifact, and returns that of its outputs. KFP identifies artifacts by name;
the digests make it reuse a step if, and only if, the content is the same.
"""

from functools import partial

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output, OutputPath, PipelineTaskFinalStatus

# The image has everything; nothing is installed at run time. The cluster file replaces the name of the image.
step = partial(dsl.component, base_image="vitrine:python", install_kfp_package=False)


@step
def fetch(
    repo: str, rev: str, data: Output[Dataset], data_digest: OutputPath(str), revision: OutputPath(str)
):
    from pathlib import Path

    from pipelines.content import record_digest, run_step
    from pipelines.fetch import fetch_data

    version = run_step(lambda: fetch_data(repo, rev, Path(data.path)))
    data.metadata |= {"dvc": version.dvc, "fingerprint": record_digest(data, data_digest)}
    Path(revision).write_text(version.revision)


@step
def validate(
    data: Input[Dataset],
    data_digest: str,
    params: dict,
    report: Output[Artifact],
    report_digest: OutputPath(str),
):
    from pathlib import Path

    from components.params import ValidateParams
    from components.validate import validate
    from pipelines.content import record_digest, run_step

    run_step(lambda: validate(Path(data.path), ValidateParams(**params), Path(report.path)))
    record_digest(report, report_digest, "report.json")


@step
def featurize(
    data: Input[Dataset],
    report: Input[Artifact],
    data_digest: str,
    report_digest: str,
    params: dict,
    features: Output[Dataset],
    features_digest: OutputPath(str),
):
    from pathlib import Path

    from components.featurize import featurize
    from components.params import FeaturizeParams
    from pipelines.content import record_digest, run_step

    paths = Path(data.path), Path(report.path)
    run_step(lambda: featurize(*paths, FeaturizeParams(**params), Path(features.path)))
    record_digest(features, features_digest)


@step
def featurize_shard(
    data: Input[Dataset],
    report: Input[Artifact],
    data_digest: str,
    report_digest: str,
    params: dict,
    shard: int,
    shards: int,
    part: Output[Dataset],
):
    from pathlib import Path

    from components.featurize import featurize_shard
    from components.params import FeaturizeParams
    from pipelines.content import run_step

    paths = Path(data.path), Path(report.path)
    run_step(lambda: featurize_shard(*paths, FeaturizeParams(**params), Path(part.path), shard, shards))


@step
def gather(
    parts: Input[list[Dataset]],
    data_digest: str,
    params: dict,
    features: Output[Dataset],
    features_digest: OutputPath(str),
):
    from pathlib import Path

    from components.featurize import merge_shards
    from components.params import FeaturizeParams
    from pipelines.content import record_digest, run_step

    paths = [Path(part.path) for part in parts]
    run_step(lambda: merge_shards(paths, FeaturizeParams(**params), Path(features.path)))
    record_digest(features, features_digest)


@step
def train(
    features: Input[Dataset],
    features_digest: str,
    params: dict,
    model: Output[Model],
    model_digest: OutputPath(str),
):
    from pathlib import Path

    from components.params import TrainParams
    from pipelines.content import record_digest, run_step
    from pipelines.processes import train_on_gpus

    run_step(lambda: train_on_gpus(Path(features.path), TrainParams(**params), Path(model.path)))
    record_digest(model, model_digest)


@step
def train_on_nodes(
    features: Input[Dataset],
    features_digest: str,
    params: dict,
    job: dict,
    model: Output[Model],
    model_digest: OutputPath(str),
):
    import os
    from pathlib import Path

    from components.params import TrainParams
    from pipelines.content import record_digest, run_step
    from pipelines.nodes import train_on_nodes

    paths = Path(features.path), TrainParams(**params), Path(model.path)
    run_step(lambda: train_on_nodes(*paths, job, os.environ["KFP_RUN_ID"]))
    record_digest(model, model_digest)


@step
def evaluate(
    data: Input[Dataset],
    features: Input[Dataset],
    model: Input[Model],
    data_digest: str,
    features_digest: str,
    model_digest: str,
    params: dict,
    evaluation: Output[Artifact],
    evaluation_digest: OutputPath(str),
):
    from pathlib import Path

    from components.evaluate import evaluate
    from components.params import EvaluateParams
    from pipelines.content import record_digest, run_step

    paths = Path(data.path), Path(features.path), Path(model.path)
    run_step(lambda: evaluate(*paths, EvaluateParams(**params), Path(evaluation.path)))
    record_digest(evaluation, evaluation_digest)


@step
def register(
    data: Input[Dataset],
    report: Input[Artifact],
    model: Input[Model],
    evaluation: Input[Artifact],
    params: dict,
    revision: str,
    run_id: str,
    registration: Output[Artifact],
):
    import os
    from pathlib import Path

    from components.params import RegisterParams
    from components.register import register
    from pipelines.content import run_step

    os.environ |= {"KFP_RUN_ID": run_id, "VITRINE_DATA_REVISION": revision}
    os.environ["VITRINE_DATA_DVC"] = data.metadata["dvc"]
    paths = Path(data.path), Path(report.path), Path(model.path), Path(evaluation.path)
    run_step(lambda: register(*paths, RegisterParams(**params), Path(registration.path)))


@step
def notify(status: PipelineTaskFinalStatus, run_id: str, ui: str):
    from pipelines.notify import send_notification

    send_notification(status.state, status.error_message, run_id, ui)
