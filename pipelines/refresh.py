"""The refresh pipeline: today's catalogue becomes the champion's new index, without training."""

from functools import partial

from kfp import dsl

from pipelines.cluster import Cluster
from pipelines.parts import Place, add_data, add_notification, add_registry_step, add_validate
from pipelines.placement import apply_placement


def build_refresh(cluster: Cluster, commit: str) -> dsl.base_component.BaseComponent:
    """The pipeline for a cluster.

    Embedding, index and publication are one step. Separate ones would gain nothing: KFP reuses a step only if no input
    is new, and the catalogue is new every night, whereas `refresh` reuses the vectors of single products. They would
    also pass all vectors through the object store, and could meet two champions: what is embedded by one model must be
    published for the same one.

    Args:
        cluster: Settings of the cluster.
        commit: Commit of the code, for the names of the images.
    """
    place: Place = partial(apply_placement, cluster=cluster, commit=commit)

    @dsl.pipeline(name="vitrine-refresh", description="validate → refresh")
    def pipeline(repo: str, rev: str, validate: dict, refresh: dict, model_name: str):
        """Check today's catalogue and publish its index for the champion.

        Args:
            repo: Git repository that versions the data set, a path or URL.
            rev: Commit, branch or tag; resolved when the pipeline runs.
            validate: See `components.params.ValidateParams`.
            refresh: See `serving.params.RefreshParams`.
            model_name: Of the registered model.
        """
        with add_notification("refresh", cluster, place):
            version, data = add_data(place, repo, rev)
            report = add_validate(place, {**data, "params": validate})
            add_registry_step(
                place, "refresh", version, {**data, **report, "params": refresh, "model_name": model_name}
            )

    return pipeline
