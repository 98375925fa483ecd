"""Where a run comes from: git commit, DVC hash, data fingerprint, libraries, image, pipeline run."""

import os
import subprocess
from importlib import metadata
from pathlib import Path

import yaml

from catalog import store

LIBRARIES = ("torch", "numpy", "pyarrow", "mlflow")
VARIABLES = {  # tag → environment variable
    "vitrine.image": "VITRINE_IMAGE",
    "vitrine.pipeline": "VITRINE_PIPELINE",
    "vitrine.pipeline.run": "KFP_RUN_ID",
    "vitrine.data.dvc": "VITRINE_DATA_DVC",
    "vitrine.data.revision": "VITRINE_DATA_REVISION",
}


def read_commit() -> str | None:
    """The commit of the code: of its container image, or of this repository; None without either."""
    return os.environ.get("VITRINE_COMMIT") or _git("rev-parse", "HEAD")


def collect_lineage(fingerprint: str, data: Path) -> dict[str, str]:
    """The lineage of a run, as tags.

    Unknown parts are left out: a container has no git, a laptop has no pipeline.

    Args:
        fingerprint: Of the data set.
        data: The data set.
    """
    tags = {
        "vitrine.data": fingerprint,
        "vitrine.judgements": store.fingerprint(data / "judgements"),
        "vitrine.libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
    }
    if commit := read_commit():
        tags["vitrine.git.commit"] = commit
        # dvc.lock is an output: the stages before this one have just written it
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":(exclude,glob)**/dvc.lock")
        tags["vitrine.git.dirty"] = str(bool(changes)).lower()
    pointer = data.with_name(f"{data.name}.dvc")
    if pointer.exists():
        tags["vitrine.data.dvc"] = yaml.safe_load(pointer.read_text())["outs"][0]["md5"]
        if revision := _git("log", "-1", "--format=%H", "--", str(pointer)):
            tags["vitrine.data.revision"] = revision
    tags |= {tag: os.environ[name] for tag, name in VARIABLES.items() if os.environ.get(name)}
    return tags


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # git is missing, or this is no repository
