"""One thin KFP component per stage, plus what only a pipeline needs. The work is done in components/, as under DVC.

A step takes the digest of each artifact beside it, and tells those of its own: KFP knows artifacts by their names, so
that the digest is what makes it reuse a step when, and only when, content is the same.
"""

from functools import partial

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output, OutputPath, PipelineTaskFinalStatus

# The image has everything; nothing is installed at run time. Which image, the cluster file says.
step = partial(dsl.component, base_image="vitrine:python", install_kfp_package=False)


@step
def fetch(
    repo: str, rev: str, data: Output[Dataset], data_digest: OutputPath(str), revision: OutputPath(str)
):
    from pathlib import Path

    from pipelines.content import tell, work
    from pipelines.fetch import fetch

    found = work(lambda: fetch(repo, rev, Path(data.path)))
    data.metadata |= {"dvc": found.dvc, "fingerprint": tell(data, data_digest)}
    Path(revision).write_text(found.revision)


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
    from pipelines.content import tell, work

    work(lambda: validate(Path(data.path), ValidateParams(**params), Path(report.path)))
    tell(report, report_digest, "report.json")


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
    from pipelines.content import tell, work

    paths = Path(data.path), Path(report.path)
    work(lambda: featurize(*paths, FeaturizeParams(**params), Path(features.path)))
    tell(features, features_digest)


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
    from pipelines.content import work

    paths = Path(data.path), Path(report.path)
    work(lambda: featurize_shard(*paths, FeaturizeParams(**params), Path(part.path), shard, shards))


@step
def gather(
    parts: Input[list[Dataset]],
    data_digest: str,
    params: dict,
    features: Output[Dataset],
    features_digest: OutputPath(str),
):
    from pathlib import Path

    from components.featurize import gather
    from components.params import FeaturizeParams
    from pipelines.content import tell, work

    paths = [Path(part.path) for part in parts]
    work(lambda: gather(paths, FeaturizeParams(**params), Path(features.path)))
    tell(features, features_digest)


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
    from pipelines.content import tell, work
    from pipelines.processes import train

    work(lambda: train(Path(features.path), TrainParams(**params), Path(model.path)))
    tell(model, model_digest)


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
    from pipelines.content import tell, work
    from pipelines.nodes import train

    paths = Path(features.path), TrainParams(**params), Path(model.path)
    work(lambda: train(*paths, job, os.environ["KFP_RUN_ID"]))
    tell(model, model_digest)


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
    from pipelines.content import tell, work

    paths = Path(data.path), Path(features.path), Path(model.path)
    work(lambda: evaluate(*paths, EvaluateParams(**params), Path(evaluation.path)))
    tell(evaluation, evaluation_digest)


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
    from pipelines.content import work

    os.environ |= {"KFP_RUN_ID": run_id, "VITRINE_DATA_REVISION": revision}
    os.environ["VITRINE_DATA_DVC"] = data.metadata["dvc"]
    paths = Path(data.path), Path(report.path), Path(model.path), Path(evaluation.path)
    work(lambda: register(*paths, RegisterParams(**params), Path(registration.path)))


@step
def notify(status: PipelineTaskFinalStatus, run_id: str, ui: str):
    from pipelines.notify import notify

    notify(status.state, status.error_message, run_id, ui)
