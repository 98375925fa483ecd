"""`python -m pipelines compile|components|run|check|submit|schedule|schedules|status`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from catalog import command
from catalog.schema import DataError
from catalog.threads import limit_threads
from pipelines import check, components, ir, local, remote, schedules
from pipelines.cluster import Cluster, current_commit, load_cluster
from pipelines.definitions import DEFAULT, PARAMS_FILE, PIPELINES, SETTINGS_FILE, load_parameters

Verb = Callable[[str, Callable[..., None], str], argparse.ArgumentParser]
CLUSTER_FILE = Path("deploy/cluster.yaml")


def compile_to(
    output: Path,
    params_file: Path = PARAMS_FILE,
    settings_file: Path = SETTINGS_FILE,
    pipeline: str = DEFAULT,
    cluster_file: Path | None = None,
) -> None:
    """Write a pipeline as IR YAML. Its parameters default to the values of params.yaml and serving.yaml.

    The same pipeline, parameters, cluster file and commit give the same bytes.

    Args:
        output: File to write.
        params_file: The params.yaml.
        settings_file: The serving.yaml.
        pipeline: A key of `PIPELINES`.
        cluster_file: The cluster file. None: the defaults of `Cluster`.

    Raises:
        DataError: if `output` has no YAML suffix, or an input file is invalid.
    """
    if output.suffix not in {".yaml", ".yml"}:
        raise DataError(f"--output {output}: the file name must end in .yaml")
    cluster = load_cluster(cluster_file) if cluster_file else Cluster()
    params = load_parameters(PIPELINES[pipeline], params_file, settings_file)
    output.write_text(ir.compile_pipeline(cluster, current_commit(), params, pipeline))


def run(params_file: Path, settings_file: Path, pipeline: str, **arguments: Any) -> None:
    """Run a pipeline on this machine."""
    params = load_parameters(PIPELINES[pipeline], params_file, settings_file)
    local.run_pipeline(params=params, pipeline=pipeline, **arguments)


def schedule(name: str, cron: str, timezone: str, catch_up: bool, concurrency: int, **arguments: Any) -> None:
    """Create or replace a schedule on a cluster."""
    schedules.save_schedule(schedules.Schedule(name, cron, timezone, catch_up, concurrency), **arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code of `catalog.command.run_command`."""
    limit_threads()
    arguments = vars(_build_parser().parse_args(argv))
    function = arguments.pop("function")
    return command.run_command(lambda: function(**arguments))


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add_verb(name: str, function: Callable[..., None], description: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=description, description=description)
        verb.set_defaults(function=function)
        return verb

    _add_local_verbs(add_verb)
    _add_cluster_verbs(add_verb)
    return parser


def _add_local_verbs(add_verb: Verb) -> None:
    compile_verb = add_verb("compile", compile_to, "write a pipeline as IR YAML")
    compile_verb.add_argument("--output", type=Path, required=True, metavar="FILE")
    components_verb = add_verb(
        "components", components.export_components, "write steps as KFP components for other pipelines"
    )
    components_verb.add_argument(
        "--out", type=Path, required=True, metavar="DIR", dest="folder", help="folder for NAME.yaml of each"
    )
    run_verb = add_verb("run", run, "run a pipeline on this machine, with kfp's local runner")
    run_verb.add_argument("--root", type=Path, default=Path("artifacts/pipeline"), metavar="DIR")
    run_verb.add_argument("--image", help="run each step in a container of this image (default: a process)")
    run_verb.add_argument("--shards", type=int, default=1, help="number of featurize shards (default: 1)")
    run_verb.add_argument(
        "--cache", action="store_true", help="reuse steps with the same code, parameters and data"
    )
    _add_data_options(run_verb, repo=".")
    for verb in (compile_verb, run_verb):
        _add_pipeline_options(verb)
    for verb in (compile_verb, components_verb):
        _add_cluster_option(verb, default=None)


def _add_cluster_verbs(add_verb: Verb) -> None:
    check_verb = add_verb("check", check.check_pipeline, "check a pipeline and the cluster before a run")
    submit_verb = add_verb("submit", remote.submit_run, "run a pipeline once on a cluster")
    submit_verb.add_argument("--wait", action="store_true", help="wait until the run ends, show its state")
    schedule_verb = add_verb("schedule", schedule, "create a schedule, or replace the one of the same name")
    _add_schedule_options(schedule_verb)
    schedules_verb = add_verb(
        "schedules", schedules.manage_schedules, "list schedules; or pause, resume or delete one"
    )
    schedules_verb.add_argument("action", nargs="?", choices=["list", *schedules.ACTIONS], default="list")
    schedules_verb.add_argument("name", nargs="?")
    status_verb = add_verb("status", remote.print_status, "state of one run, or of the latest runs")
    status_verb.add_argument("run_id", nargs="?", metavar="RUN")
    for verb in (submit_verb, schedule_verb):
        _add_data_options(verb, repo=None)
        verb.add_argument("--dry-run", action="store_true", help="show what would be sent; send nothing")
    for verb in (check_verb, submit_verb, schedule_verb):
        _add_pipeline_options(verb)
    for verb in (check_verb, submit_verb, schedule_verb, schedules_verb, status_verb):
        _add_cluster_option(verb, default=CLUSTER_FILE)
    for verb in (submit_verb, schedule_verb, schedules_verb, status_verb):
        verb.add_argument(
            "--host", help="address of KFP's API (default: KF_PIPELINES_ENDPOINT, or kfp's own configuration)"
        )


def _add_schedule_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name")
    verb.add_argument("--cron", required=True, help="5 fields, or 6 with seconds first; in quotes")
    verb.add_argument("--timezone", default="UTC", help="timezone of the cron (default: UTC)")
    verb.add_argument(
        "--catch-up",
        action="store_true",
        help="run every time that was missed during a pause (default: only the latest)",
    )
    verb.add_argument(
        "--concurrency", type=int, default=1, help="maximum number of parallel runs; others wait (default: 1)"
    )


def _add_data_options(verb: argparse.ArgumentParser, repo: str | None) -> None:
    verb.add_argument(
        "--repo", default=repo, help="git repository that versions the data (default: this one)"
    )
    verb.add_argument("--rev", default="HEAD", help="commit, branch or tag of the data (default: HEAD)")


def _add_pipeline_options(verb: argparse.ArgumentParser) -> None:
    descriptions = "; ".join(f"{name}: {definition.description}" for name, definition in PIPELINES.items())
    verb.add_argument(
        "--pipeline",
        choices=PIPELINES,
        default=DEFAULT,
        metavar="NAME",
        help=f"{descriptions} (default: {DEFAULT})",
    )
    verb.add_argument("--params", type=Path, default=PARAMS_FILE, metavar="FILE", dest="params_file")
    verb.add_argument("--settings", type=Path, default=SETTINGS_FILE, metavar="FILE", dest="settings_file")


def _add_cluster_option(verb: argparse.ArgumentParser, default: Path | None) -> None:
    verb.add_argument("--cluster", type=Path, default=default, metavar="FILE", dest="cluster_file")


if __name__ == "__main__":
    sys.exit(main())
