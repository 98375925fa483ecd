"""One thin KFP component per stage, plus the steps that only a pipeline needs. The stages are those of components/.

KFP reuses a step if its image, its parameters and the ids of its input artifacts are the same. A step that runs again
gives its artifacts new ids, so all that follows runs again too: see `resolve`.
"""

from functools import partial

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output, OutputPath, PipelineTaskFinalStatus

# The image has everything; nothing is installed at run time. The cluster file replaces the name of the image.
step = partial(dsl.component, base_image="vitrine:python", install_kfp_package=False)


@step
def resolve(
    repo: str, rev: str, commit: OutputPath(str), data_commit: OutputPath(str), data_hash: OutputPath(str)
):
    from pathlib import Path

    from pipelines.fetch import resolve_version
    from pipelines.step_runner import run_step

    version = run_step("resolve", lambda: resolve_version(repo, rev))
    Path(commit).write_text(version.commit)
    Path(data_commit).write_text(version.data_commit)
    Path(data_hash).write_text(version.data_hash)


@step
def fetch(repo: str, commit: str, data_hash: str, data: Output[Dataset]):
    from pathlib import Path

    from pipelines.fetch import fetch_data
    from pipelines.step_runner import run_step

    run_step("fetch", lambda: fetch_data(repo, commit, data_hash, Path(data.path)))


@step
def validate(data: Input[Dataset], params: dict, report: Output[Artifact], faults: OutputPath(str)):
    """Check a data set and write a report; succeed although the data are invalid, so that the report is stored.

    Args:
        data: Data set of tables; see catalog/schema.py.
        params: Section `validate` of params.yaml; {} takes the defaults.
        report: Facts and pages about the data; give it to require_valid.
        faults: What makes the data invalid, a line each; empty if they are valid.
    """
    from pathlib import Path

    from components.params import ValidateParams
    from pipelines.step_runner import run_step
    from pipelines.validity import list_faults

    paths = Path(data.path), Path(report.path)
    Path(faults).write_text(run_step("validate", lambda: list_faults(*paths, ValidateParams(**params))))


@step
def require_valid(checked: Input[Artifact], faults: str, report: Output[Artifact]):
    """Fail if validate has reported faults; otherwise copy its report for the steps that follow.

    Args:
        checked: Output `report` of validate.
        faults: Output `faults` of validate.
        report: The same report, of valid data.
    """
    from pathlib import Path

    from pipelines.step_runner import run_step
    from pipelines.validity import accept_report

    run_step(
        "require_valid", lambda: accept_report(Path(checked.path), faults, checked.uri, Path(report.path))
    )


@step
def featurize(
    data: Input[Dataset],
    report: Input[Artifact],
    params: dict,
    features: Output[Dataset],
):
    """Compute the features of products and queries.

    Args:
        data: Data set of tables; see catalog/schema.py.
        report: Output of require_valid.
        params: Section `featurize` of params.yaml; {} takes the defaults.
        features: Features, and the encoders that computed them.
    """
    from pathlib import Path

    from components.featurize import featurize
    from components.params import FeaturizeParams
    from pipelines.step_runner import run_step

    paths = Path(data.path), Path(report.path)
    run_step("featurize", lambda: featurize(*paths, FeaturizeParams(**params), Path(features.path)))


@step
def featurize_shard(
    data: Input[Dataset],
    report: Input[Artifact],
    params: dict,
    shard: int,
    shards: int,
    part: Output[Dataset],
):
    from pathlib import Path

    from components.featurize import featurize_shard
    from components.params import FeaturizeParams
    from pipelines.step_runner import run_step

    paths = Path(data.path), Path(report.path)
    run_step(
        "featurize",
        lambda: featurize_shard(*paths, FeaturizeParams(**params), Path(part.path), shard, shards),
    )


@step
def gather(
    parts: Input[list[Dataset]],
    params: dict,
    features: Output[Dataset],
):
    from pathlib import Path

    from components.featurize import merge_shards
    from components.params import FeaturizeParams
    from pipelines.step_runner import run_step

    paths = [Path(part.path) for part in parts]
    run_step("gather", lambda: merge_shards(paths, FeaturizeParams(**params), Path(features.path)))


@step
def train(
    features: Input[Dataset],
    params: dict,
    model: Output[Model],
):
    """Train a model on all GPUs of the pod, or on its CPUs.

    Args:
        features: Output of featurize.
        params: Section `train` of params.yaml; {} takes the defaults.
        model: Weights and configuration.
    """
    from pathlib import Path

    from components.params import TrainParams
    from pipelines.processes import train_on_gpus
    from pipelines.step_runner import run_step

    run_step("train", lambda: train_on_gpus(Path(features.path), TrainParams(**params), Path(model.path)))


@step
def train_on_nodes(
    features: Input[Dataset],
    params: dict,
    job: dict,
    model: Output[Model],
):
    import os
    from pathlib import Path

    from components.params import TrainParams
    from pipelines.nodes import train_on_nodes
    from pipelines.step_runner import run_step

    paths = Path(features.path), TrainParams(**params), Path(model.path)
    run_step("train", lambda: train_on_nodes(*paths, job, os.environ["KFP_RUN_ID"]))


@step
def index(
    data: Input[Dataset],
    features: Input[Dataset],
    model: Input[Model],
    params: dict,
    index: Output[Artifact],
):
    """Encode the catalogue and build what is searched.

    Args:
        data: Data set of tables; see catalog/schema.py.
        features: Output of featurize.
        model: Output of train.
        params: Section `index` of params.yaml; {} takes the defaults.
        index: Vectors, words and fields of the products, and a marker of the model that encoded them.
    """
    from pathlib import Path

    from components.index import index as build_index
    from components.params import IndexParams
    from pipelines.step_runner import run_step

    paths = Path(data.path), Path(features.path), Path(model.path)
    run_step("index", lambda: build_index(*paths, IndexParams(**params), Path(index.path)))


@step
def evaluate(
    data: Input[Dataset],
    features: Input[Dataset],
    model: Input[Model],
    index: Input[Artifact],
    params: dict,
    evaluation: Output[Artifact],
):
    """Evaluate a model and the baselines on the test queries.

    Args:
        data: Data set of tables; see catalog/schema.py.
        features: Output of featurize.
        model: Output of train.
        index: Output of index.
        params: Section `evaluate` of params.yaml; {} takes the defaults.
        evaluation: Metrics, rankings and a report.
    """
    from pathlib import Path

    from components.evaluate import evaluate
    from components.params import EvaluateParams
    from pipelines.step_runner import run_step

    paths = Path(data.path), Path(features.path), Path(model.path), Path(index.path)
    run_step("evaluate", lambda: evaluate(*paths, EvaluateParams(**params), Path(evaluation.path)))


@step
def register(
    data: Input[Dataset],
    report: Input[Artifact],
    model: Input[Model],
    index: Input[Artifact],
    evaluation: Input[Artifact],
    params: dict,
    revision: str,
    data_hash: str,
    run_id: str,
    registration: Output[Artifact],
):
    """Register a model in MLflow and decide whether it may replace the champion. Disable caching: the registry changes.

    Args:
        data: Data set of tables; see catalog/schema.py.
        report: Output of require_valid.
        model: Output of train.
        index: Output of index.
        evaluation: Output of evaluate.
        params: Section `register` of params.yaml; {} takes the defaults.
        revision: Commit of the data, for the version's tags.
        data_hash: DVC's hash of the data, for the version's tags.
        run_id: KFP's id of the run (dsl.PIPELINE_JOB_ID_PLACEHOLDER), for the version's tags.
        registration: Version, verdict and reasons.
    """
    import os
    from pathlib import Path

    from components.params import RegisterParams
    from components.register import register
    from pipelines.step_runner import run_step

    os.environ |= {"KFP_RUN_ID": run_id, "VITRINE_DATA_REVISION": revision, "VITRINE_DATA_DVC": data_hash}
    inputs = Path(data.path), Path(report.path), Path(model.path), Path(index.path), Path(evaluation.path)
    run_step("register", lambda: register(*inputs, RegisterParams(**params), Path(registration.path)))


@step
def refresh(
    data: Input[Dataset],
    report: Input[Artifact],
    params: dict,
    model_name: str,
    revision: str,
    data_hash: str,
    run_id: str,
    outcome: Output[Artifact],
):
    """Publish a catalogue's index for the champion, by the champion's own code. Disable caching: the registry changes.

    Args:
        data: Data set of tables; see catalog/schema.py.
        report: Output of require_valid; the step runs after it, and does not read it.
        params: Section `refresh` of serving.yaml; {} takes the defaults.
        model_name: Of the registered model.
        revision: Commit of the data, for the tags.
        data_hash: DVC's hash of the data, for the tags.
        run_id: KFP's id of the run (dsl.PIPELINE_JOB_ID_PLACEHOLDER), for the tags.
        outcome: What was published, and how much of it is new.
    """
    import os
    from pathlib import Path

    from pipelines.step_runner import run_step
    from serving.params import RefreshParams
    from serving.refresh import refresh

    os.environ |= {"KFP_RUN_ID": run_id, "VITRINE_DATA_REVISION": revision, "VITRINE_DATA_DVC": data_hash}
    paths = Path(data.path), Path(outcome.path)
    run_step("refresh", lambda: refresh(paths[0], RefreshParams(**params), paths[1], model_name))


@step
def monitor(data: Input[Dataset], log: dict, params: dict, model_name: str):
    """Compare yesterday's requests with those of the week before; fail if a rule does. Disable caching: the log grows.

    Args:
        data: Data set of tables; see catalog/schema.py.
        log: Section `log` of serving.yaml.
        params: Section `monitor` of serving.yaml; {} takes the defaults.
        model_name: Of the registered model.
    """
    # without outputs, because KFP stores none of a step that fails: the page is in MLflow
    from pathlib import Path

    from pipelines.monitoring import require_rules
    from pipelines.step_runner import run_step
    from serving.params import LogParams, MonitorParams, ServingParams

    settings = ServingParams(log=LogParams(**log), monitor=MonitorParams(**params))
    run_step("monitor", lambda: require_rules(Path(data.path), settings, model_name))


@step
def notify(status: PipelineTaskFinalStatus, run_id: str, ui: str, pipeline: str):
    from pipelines.notify import send_notification

    send_notification(status.state, run_id, ui, pipeline)
