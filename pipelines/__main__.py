"""`python -m pipelines compile|run`."""

import argparse
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catalog import command
from catalog.schema import DataError
from components.params import SECTIONS, load


def sections(file: Path) -> dict[str, Any]:
    """All of params.yaml, checked, as plain values: what the pipeline takes as its parameters.

    KFP has no null, so what is null is left out; null is the default of every parameter that may be.
    """
    return {name: load(file, name).model_dump(mode="json", exclude_none=True) for name in SECTIONS}


def compile_to(output: Path, params: Path) -> None:
    """Write the pipeline as IR YAML, with params.yaml as the defaults of its parameters.

    The same pipeline and parameters give the same bytes.

    Raises:
        DataError: where `output` is not named as YAML.
    """
    from kfp.compiler import Compiler

    from pipelines.training import training

    if output.suffix not in {".yaml", ".yml"}:
        raise DataError(f"--output {output}: name it .yaml")
    Compiler().compile(training, str(output), pipeline_parameters=sections(params))
    # kfp's header repeats the defaults in an order that changes from run to run; they also stand below it
    output.write_text(re.sub(r"^(#.*) \[Default: .*\]$", r"\1", output.read_text(), flags=re.MULTILINE))


def run(repo: str, rev: str, params: Path, root: Path) -> None:
    """Run the pipeline on this machine, every step in a process of its own.

    Args:
        repo: Git repository that versions the data set.
        rev: Any name of a commit.
        params: The params.yaml.
        root: Folder for the steps' outputs.

    Raises:
        DataError: where the commit is unknown or a step fails.
    """
    from kfp import local

    from pipelines.training import training

    # kfp's own look at the image's name says nothing here: this interpreter runs the steps
    warnings.filterwarnings("ignore", "You may be attemping to run a task", RuntimeWarning)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    commit = subprocess.run(
        ["git", "-C", repo, "rev-parse", "--verify", f"{rev}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode:
        raise DataError(f"{repo}: no commit '{rev}' ({commit.stderr.strip()})")
    try:
        training(repo=repo, rev=commit.stdout.strip(), **sections(params))
    except RuntimeError as error:
        raise DataError(f"{error}; the failing step's own message stands above") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code of `catalog.command.run`."""
    top = argparse.ArgumentParser(prog="python -m pipelines")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    compiling = verbs.add_parser("compile", help="write the pipeline as IR YAML")
    compiling.add_argument("--output", type=Path, required=True, metavar="FILE")
    compiling.set_defaults(verb=compile_to)
    running = verbs.add_parser("run", help="run it here, with kfp's local runner")
    running.add_argument(
        "--repo", default=".", help="git repository that versions the data (default: this one)"
    )
    running.add_argument("--rev", default="HEAD", help="commit of the data (default: HEAD)")
    running.add_argument("--root", type=Path, default=Path("artifacts/pipeline"), metavar="DIR")
    running.set_defaults(verb=run)
    for one in (compiling, running):
        one.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    arguments = vars(top.parse_args(argv))
    verb = arguments.pop("verb")
    return command.run(lambda: verb(**arguments))


if __name__ == "__main__":
    sys.exit(main())
