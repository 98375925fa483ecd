"""Writes the chain of a further shop: `python -m pipelines.shops shops/NAME`, or `make shop SHOP=NAME`.

A shop is a folder with its own data, params.yaml, dvc.yaml and artifacts. Its dvc.yaml has the stages of the project's
dvc.yaml. They run in the project's folder, with the project's code, on the shop's files.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from copy import deepcopy
from os.path import relpath
from pathlib import Path
from typing import Any

import yaml

from catalog.command import run_command
from catalog.config import read_yaml
from catalog.schema import DataError

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
OWNED = ("data", "artifacts")  # the paths of the project's dvc.yaml that each shop has for itself


def write_shop(folder: Path, root: Path = ROOT) -> str:
    """Write a shop's dvc.yaml, and its params.yaml if it has none.

    Args:
        folder: The shop's, below the project's folder; its name is the name of the shop's model.
        root: The project's folder.

    Returns:
        What to do next.

    Raises:
        DataError: if the folder is not below the project's, or its name is not a plain one.
    """
    path = folder.resolve()
    if root.resolve() not in path.parents or not NAME.fullmatch(path.name):
        raise DataError(
            f"{folder}: give a folder below the project's, such as shops/north; its name has lower-case letters, "
            "digits, dots and hyphens"
        )
    prefix = path.relative_to(root.resolve()).as_posix()
    content = read_yaml(root / "dvc.yaml")
    wdir = relpath(root.resolve(), path)
    stages = {name: move_stage(stage, prefix, wdir) for name, stage in content["stages"].items()}
    path.mkdir(parents=True, exist_ok=True)
    # metrics and plots are relative to dvc.yaml, so they stay
    text = yaml.safe_dump(content | {"stages": stages}, sort_keys=False, width=120)
    (path / "dvc.yaml").write_text(
        f"# Written by python -m pipelines.shops {prefix}; change the project's.\n{text}"
    )
    if not (path / "params.yaml").exists():
        lines = (root / "params.yaml").read_text()
        (path / "params.yaml").write_text(re.sub(r"(?m)^(  model_name:) [\w.-]+", rf"\1 {path.name}", lines))
    return (
        f"{prefix}: wrote dvc.yaml. Put the data set into {prefix}/data, then:\n"
        f"  dvc add {prefix}/data && dvc repro {prefix}/dvc.yaml"
    )


def move_stage(stage: dict[str, Any], prefix: str, wdir: str) -> dict[str, Any]:
    """A stage on the files of a shop.

    Args:
        stage: Of the project's dvc.yaml.
        prefix: The shop's folder, relative to the project's.
        wdir: The project's folder, relative to the shop's.
    """

    def move(path: str) -> str:
        return f"{prefix}/{path}" if path.split("/", maxsplit=1)[0] in OWNED else path

    moved = deepcopy(stage)
    words = shlex.split(stage["cmd"])
    params = f"{prefix}/params.yaml"
    moved["cmd"] = shlex.join([*words[:4], "--params", params, *map(move, words[4:])])
    moved["deps"] = [move(path) for path in stage["deps"]]
    moved["outs"] = [{move(path): options for path, options in out.items()} for out in stage["outs"]]
    moved["params"] = [{params: stage["params"]}]
    return {"wdir": wdir, **moved}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the chains of shops; the exit code of `catalog.command.run_command`."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.shops", description="Write the chain of a shop."
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="such as shops/north")
    folders = parser.parse_args(argv).folders
    return run_command(lambda: [print(write_shop(folder)) for folder in folders])


if __name__ == "__main__":
    sys.exit(main())
