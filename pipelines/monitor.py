"""The monitor pipeline: compares yesterday's requests with those of the week before."""

from functools import partial

from kfp import dsl

from pipelines import steps
from pipelines.cluster import Cluster
from pipelines.parts import Place, add_data, add_notification
from pipelines.placement import apply_placement


def build_monitor(cluster: Cluster, commit: str) -> dsl.base_component.BaseComponent:
    """The pipeline for a cluster.

    Args:
        cluster: Settings of the cluster.
        commit: Commit of the code, for the names of the images.
    """
    place: Place = partial(apply_placement, cluster=cluster, commit=commit)

    @dsl.pipeline(name="vitrine-monitor", description="monitor")
    def pipeline(repo: str, rev: str, log: dict, monitor: dict, model_name: str):
        """Compare a period of the log with a reference period, and fail if a rule does.

        Args:
            repo: Git repository that versions the data set, a path or URL.
            rev: Commit, branch or tag; resolved when the pipeline runs.
            log: See `serving.params.LogParams`; `folder` is an address that the pod can read.
            monitor: See `serving.params.MonitorParams`.
            model_name: Of the registered model.
        """
        with add_notification("monitor", cluster, place):
            _, data = add_data(place, repo, rev)
            task = steps.monitor(**data, log=log, params=monitor, model_name=model_name)
            place(task, "monitor").set_caching_options(False)

    return pipeline
