"""`python -m pipelines compile|run|check|submit|schedule|schedules|status`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from catalog import command
from catalog.schema import DataError
from components.params import pipeline_params
from pipelines import check, ir, local, remote
from pipelines.cluster import Cluster, checkout, load


def compile_to(output: Path, params: Path, cluster: Path | None = None) -> None:
    """Write the pipeline as IR YAML, with params.yaml as the defaults of its parameters.

    The same pipeline, parameters, cluster file and commit give the same bytes.

    Raises:
        DataError: where `output` is not named as YAML, or a file is not what it should be.
    """
    if output.suffix not in {".yaml", ".yml"}:
        raise DataError(f"--output {output}: name it .yaml")
    output.write_text(
        ir.compiled(load(cluster) if cluster else Cluster(), checkout(), pipeline_params(params))
    )


def run(params: Path, **arguments: Any) -> None:
    """Run the pipeline on this machine."""
    local.run(params=pipeline_params(params), **arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code of `catalog.command.run`."""
    top = argparse.ArgumentParser(prog="python -m pipelines")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, does: Callable[..., None], told: str) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, help=told, description=told)
        parser.set_defaults(verb=does)
        return parser

    compiling = verb("compile", compile_to, "write the pipeline as IR YAML")
    compiling.add_argument("--output", type=Path, required=True, metavar="FILE")
    running = verb("run", run, "run it here, with kfp's local runner")
    running.add_argument("--root", type=Path, default=Path("artifacts/pipeline"), metavar="DIR")
    running.add_argument("--image", help="run each step in a container of this image (default: a process)")
    running.add_argument("--shards", type=int, default=1, help="that featurize is divided into (default: 1)")
    running.add_argument(
        "--cache", action="store_true", help="reuse steps whose code, parameters and data are the same"
    )
    checking = verb("check", check.report, "find what is wrong before anything is sent")
    submitting = verb("submit", remote.submit, "run it on a cluster, once")
    scheduling = verb(
        "schedule", remote.schedule, "run it on a cluster, again and again; by the same name, changes that"
    )
    scheduling.add_argument("name")
    scheduling.add_argument("--cron", required=True, help="5 fields, or 6 beginning with seconds, in quotes")
    scheduling.add_argument("--timezone", default="UTC", help="of the cron (default: UTC)")
    scheduling.add_argument(
        "--catch-up",
        action="store_true",
        help="also run what was missed while paused (default: only the latest)",
    )
    scheduling.add_argument(
        "--concurrency", type=int, default=1, help="runs at the same time; more wait (default: 1)"
    )
    listing = verb("schedules", remote.schedules, "list schedules; or pause, resume or delete one")
    listing.add_argument("action", nargs="?", choices=["list", *remote.ACTIONS], default="list")
    listing.add_argument("name", nargs="?")
    telling = verb("status", remote.status, "how a run is, or the latest ones are")
    telling.add_argument("run_id", nargs="?", metavar="RUN")
    for one in (running, submitting, scheduling):
        where = "." if one is running else None
        one.add_argument(
            "--repo", default=where, help="git repository that versions the data (default: this one)"
        )
        one.add_argument("--rev", default="HEAD", help="commit, branch or tag of the data (default: HEAD)")
    submitting.add_argument("--wait", action="store_true", help="until it is done, with its state")
    for one in (submitting, scheduling):
        one.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    for one in (compiling, running, checking, submitting, scheduling):
        one.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    for one in (compiling, checking, submitting, scheduling, listing, telling):
        default = None if one is compiling else Path("deploy/cluster.yaml")
        one.add_argument("--cluster", type=Path, default=default, metavar="FILE")
    for one in (submitting, scheduling, listing, telling):
        one.add_argument(
            "--host", help="of KFP's API (default: KF_PIPELINES_ENDPOINT, or as kfp's own client finds it)"
        )
    arguments = vars(top.parse_args(argv))
    does = arguments.pop("verb")
    return command.run(lambda: does(**arguments))


if __name__ == "__main__":
    sys.exit(main())
