"""Steps of the pipeline as separate KFP components, which other pipelines can load."""

import tempfile
from pathlib import Path

from kfp import dsl
from kfp.compiler import Compiler

from pipelines import steps
from pipelines.cluster import Cluster, current_commit, load_cluster

# `validate` succeeds although the data are invalid, so that its report is stored; `require_valid` then fails.
COMPONENTS = (
    "validate",
    "require_valid",
    "featurize",
    "train",
    "index",
    "evaluate",
    "register",
    "refresh",
    "monitor",
)


def export_components(folder: Path, cluster_file: Path | None = None) -> None:
    """Write each step as a KFP component, NAME.yaml; it runs in the step's image of this commit. Print the paths.

    The same cluster file and commit give the same bytes. Existing files are replaced when all new ones are complete.

    Args:
        folder: Folder to write to; created if it does not exist.
        cluster_file: Cluster file that names the images. None: the names that `make image` gives.

    Raises:
        DataError: if the cluster file is invalid.
        OSError: if the folder cannot be written.
    """
    cluster = load_cluster(cluster_file) if cluster_file else Cluster()
    commit = current_commit()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".components-") as unfinished:
        paths = [Path(unfinished) / f"{name}.yaml" for name in COMPONENTS]
        for name, path in zip(COMPONENTS, paths, strict=True):
            function = getattr(steps, name).python_func
            component = dsl.component(
                function, base_image=cluster.image(name, commit), install_kfp_package=False
            )
            Compiler().compile(component, str(path))
        for path in paths:
            print(path.replace(folder / path.name))
