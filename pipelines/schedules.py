"""Schedules on a cluster: their creation, replacement, list, pause and deletion."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from catalog.schema import DataError
from pipelines import remote
from pipelines.cluster import Cluster, load_cluster
from pipelines.cron import normalize_cron
from pipelines.definitions import PIPELINES
from pipelines.fetch import resolve_commit

if TYPE_CHECKING:
    from kfp import Client
    from kfp_server_api import V2beta1RecurringRun

ACTIONS = {
    "pause": "disable_recurring_run",
    "resume": "enable_recurring_run",
    "delete": "delete_recurring_run",
}


class Schedule(NamedTuple):
    """When a pipeline runs."""

    name: str
    cron: str  # see `pipelines.cron.normalize_cron`
    timezone: str = "UTC"  # of the cron; must be that of the scheduler
    catch_up: bool = False  # run every time that was missed during a pause, not only the latest
    concurrency: int = 1  # maximum number of parallel runs


def save_schedule(
    schedule: Schedule,
    cluster_file: Path,
    params_file: Path,
    settings_file: Path,
    pipeline: str,
    repo: str | None,
    rev: str,
    dry_run: bool = False,
    host: str | None = None,
) -> None:
    """Run a pipeline at the times of a schedule. Replaces a schedule of the same name; if paused, it stays paused.

    Args:
        schedule: Name and times.
        cluster_file: The cluster file.
        params_file: The params.yaml.
        settings_file: The serving.yaml.
        pipeline: A key of `PIPELINES`.
        repo: As for `pipelines.remote.submit_run`.
        rev: Branch, tag or commit; each run resolves it when it starts.
        dry_run: Show what would be sent; send nothing.
        host: Address of KFP's API.

    Raises:
        DataError: if the input is invalid or KFP refuses.
    """
    cluster, repo = load_cluster(cluster_file), remote.find_repo(repo)
    schedule = schedule._replace(cron=normalize_cron(schedule.cron))
    _check_schedule(schedule, cluster, cluster_file)
    resolve_commit(repo, rev)
    submission = remote.prepare_submission(cluster, params_file, settings_file, pipeline, repo, rev)
    if dry_run:
        settings = schedule._asdict()
        submission.show(schedule=settings.pop("name"), **settings, service_account=cluster.service_account)
        return
    with remote.connect(cluster, host) as client:
        _replace_schedule(client, cluster, schedule, submission)


def _check_schedule(schedule: Schedule, cluster: Cluster, cluster_file: Path) -> None:
    if schedule.timezone != cluster.timezone:
        raise DataError(
            f"--timezone {schedule.timezone}: this cluster's scheduler uses {cluster.timezone} ({cluster_file}), and "
            f"KFP has one timezone for all schedules; give the cron in {cluster.timezone}, or set "
            "CRON_SCHEDULE_TIMEZONE of ml-pipeline-scheduledworkflow and `timezone` of the cluster file"
        )
    if not 1 <= schedule.concurrency <= 10:
        raise DataError(f"--concurrency {schedule.concurrency}: KFP accepts 1 to 10")


def _replace_schedule(
    client: "Client", cluster: Cluster, schedule: Schedule, submission: remote.Submission
) -> None:
    """Create a schedule, then delete older ones of its name, and print the result.

    Raises:
        DataError: if the schedule of its name runs another pipeline.
    """
    replaced = [old for old in _list_schedules(client, cluster) if old.display_name == schedule.name]
    names = _pipeline_names(client)
    for old in replaced:
        if (name := _pipeline_name(old, names)) != submission.pipeline:
            raise DataError(
                f"schedule {schedule.name}: it runs the pipeline {name}; give another name, or delete it first"
            )
    pipeline_id, version_id = remote.upload(client, submission)
    paused = bool(replaced) and all(_is_paused(old) for old in replaced)
    recurring_run = client.create_recurring_run(
        remote.ensure_experiment(client, cluster),
        schedule.name,
        cron_expression=schedule.cron,
        max_concurrency=schedule.concurrency,
        no_catchup=not schedule.catch_up,
        params=submission.parameters,
        pipeline_id=pipeline_id,
        version_id=version_id,
        enabled=not paused,
        pipeline_root=cluster.pipeline_root,
        service_account=cluster.service_account,
    )
    # last: if this is interrupted, there are two schedules rather than none, and the next call deletes the old one
    for old in replaced:
        client.delete_recurring_run(old.recurring_run_id)
    action, state = "replaced" if replaced else "created", ", paused" if paused else ""
    print(f"schedule {schedule.name} {action}: {schedule.cron} ({schedule.timezone}){state}")
    missed_runs = "all" if schedule.catch_up else "only the latest"
    print(f"  missed runs: {missed_runs}; at most {schedule.concurrency} at a time")
    print(f"  {recurring_run.recurring_run_id}")


def manage_schedules(action: str, name: str | None, cluster_file: Path, host: str | None = None) -> None:
    """List schedules, or apply one of `ACTIONS` to the schedule of a name.

    Raises:
        DataError: if there is no schedule of that name, or KFP refuses.
    """
    cluster = load_cluster(cluster_file)
    if (action == "list") != (name is None):
        raise DataError(f"schedules {action}: {'takes no' if name else 'give the'} name of a schedule")
    with remote.connect(cluster, host) as client:
        schedules = _list_schedules(client, cluster)
        if action == "list":
            _print_schedules(schedules, _pipeline_names(client))
            return
        selected = [schedule for schedule in schedules if schedule.display_name == name]
        if not selected:
            names = ", ".join(schedule.display_name for schedule in schedules)
            raise DataError(f"no schedule '{name}'; existing schedules: {names or 'none'}")
        for schedule in selected:
            getattr(client, ACTIONS[action])(schedule.recurring_run_id)
        print(f"schedule {name}: {action}d")


def _print_schedules(schedules: "list[V2beta1RecurringRun]", names: Mapping[str, str]) -> None:
    for schedule in schedules:
        trigger = schedule.trigger and schedule.trigger.cron_schedule
        state = "paused" if _is_paused(schedule) else "active"
        print(
            f"{schedule.display_name}\t{trigger.cron if trigger else ''}\t{state}\t{_pipeline_name(schedule, names)}"
        )


def _pipeline_names(client: "Client") -> dict[str, str]:
    """Names of our pipelines that exist, by their ids."""
    ids = {definition.name: client.get_pipeline_id(definition.name) for definition in PIPELINES.values()}
    return {pipeline_id: name for name, pipeline_id in ids.items() if pipeline_id}


def _pipeline_name(schedule: "V2beta1RecurringRun", names: Mapping[str, str]) -> str:
    """The name of the pipeline that a schedule runs; its id if it is none of ours."""
    reference = schedule.pipeline_version_reference
    pipeline_id = str(reference.pipeline_id) if reference else "of no name"
    return names.get(pipeline_id, pipeline_id)


def _list_schedules(client: "Client", cluster: Cluster) -> "list[V2beta1RecurringRun]":
    experiment_id = remote.ensure_experiment(client, cluster)
    return [
        *remote.read_pages(
            lambda token: client.list_recurring_runs(token, remote.PAGE_SIZE, experiment_id=experiment_id),
            "recurring_runs",
        )
    ]


def _is_paused(schedule: "V2beta1RecurringRun") -> bool:
    return schedule.status == "DISABLED" or schedule.mode == "DISABLE"
