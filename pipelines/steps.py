"""One thin KFP component per stage, plus `fetch`. The work is done in components/, the same as under DVC."""

from functools import partial

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from pipelines.placement import CPU, CUDA

# The image has everything; nothing is installed at run time.
step = partial(dsl.component, base_image=CPU, install_kfp_package=False)
gpu_step = partial(dsl.component, base_image=CUDA, install_kfp_package=False)


@step
def fetch(repo: str, rev: str, data: Output[Dataset]):
    from pathlib import Path

    from pipelines.fetch import fetch

    fetch(repo, rev, Path(data.path))


@step
def validate(data: Input[Dataset], params: dict, report: Output[Artifact]):
    from pathlib import Path

    from components.params import ValidateParams
    from components.validate import validate

    validate(Path(data.path), ValidateParams(**params), Path(report.path))


@gpu_step
def featurize(data: Input[Dataset], report: Input[Artifact], params: dict, features: Output[Dataset]):
    from pathlib import Path

    from components.featurize import featurize
    from components.params import FeaturizeParams

    featurize(Path(data.path), Path(report.path), FeaturizeParams(**params), Path(features.path))


@gpu_step
def train(features: Input[Dataset], params: dict, model: Output[Model]):
    from pathlib import Path

    from components.params import TrainParams
    from components.train import train

    train(Path(features.path), TrainParams(**params), Path(model.path))


@step
def evaluate(
    data: Input[Dataset],
    features: Input[Dataset],
    model: Input[Model],
    params: dict,
    evaluation: Output[Artifact],
):
    from pathlib import Path

    from components.evaluate import evaluate
    from components.params import EvaluateParams

    evaluate(
        Path(data.path),
        Path(features.path),
        Path(model.path),
        EvaluateParams(**params),
        Path(evaluation.path),
    )


@step
def register(
    data: Input[Dataset],
    report: Input[Artifact],
    model: Input[Model],
    evaluation: Input[Artifact],
    params: dict,
    registration: Output[Artifact],
):
    from pathlib import Path

    from components.params import RegisterParams
    from components.register import register

    register(
        Path(data.path),
        Path(report.path),
        Path(model.path),
        Path(evaluation.path),
        RegisterParams(**params),
        Path(registration.path),
    )
