"""The pipeline: a catalogue and its judged queries go in, a judged and registered model comes out."""

from kfp import dsl

from pipelines import steps


@dsl.pipeline(name="vitrine-training", description="validate → featurize → train → evaluate → register")
def training(
    repo: str, rev: str, validate: dict, featurize: dict, train: dict, evaluate: dict, register: dict
):
    """Train, judge and register one model; the order of the steps comes from their data alone.

    Args:
        repo: Git repository that versions the data set, a path or URL.
        rev: Commit id.
        validate: The section of params.yaml, as are all that follow.
        featurize: See `components.params.FeaturizeParams`.
        train: See `components.params.TrainParams`.
        evaluate: See `components.params.EvaluateParams`.
        register: See `components.params.RegisterParams`.
    """
    data = steps.fetch(repo=repo, rev=rev).outputs["data"]
    report = steps.validate(data=data, params=validate).outputs["report"]
    features = steps.featurize(data=data, report=report, params=featurize).outputs["features"]
    model = steps.train(features=features, params=train).outputs["model"]
    evaluation = steps.evaluate(data=data, features=features, model=model, params=evaluate).outputs[
        "evaluation"
    ]
    steps.register(data=data, report=report, model=model, evaluation=evaluation, params=register)
