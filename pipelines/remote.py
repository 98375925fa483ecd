"""Runs and schedules on a cluster, through Kubeflow Pipelines' own client, which also knows how to log in."""

import hashlib
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import yaml
from tqdm import tqdm

from catalog.schema import DataError
from components.params import pipeline_params
from pipelines import ir
from pipelines.check import faults, placement_faults
from pipelines.cluster import Cluster, checkout, load
from pipelines.cron import six_fields
from pipelines.fetch import resolve

if TYPE_CHECKING:
    from kfp import Client
    from kfp_server_api import V2beta1RecurringRun

PIPELINE, EXPERIMENT = "vitrine-training", "vitrine"
DONE = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED", "ERROR"}
INTERVAL = 10  # seconds between two looks at a run
PAGE = 100
ACTIONS = {
    "pause": "disable_recurring_run",
    "resume": "enable_recurring_run",
    "delete": "delete_recurring_run",
}


class Order(NamedTuple):
    """What is sent."""

    text: str  # the compiled pipeline
    version: str  # its name as a version: commit, and what was compiled at it
    parameters: dict[str, Any]

    def show(self, **more: Any) -> None:
        """Print all of it."""
        said = {"pipeline": PIPELINE, "version": self.version, "experiment": EXPERIMENT, **more}
        print(yaml.safe_dump({**said, "parameters": self.parameters}, sort_keys=False))
        print(f"---\n{self.text}", end="")


def order(cluster: Cluster, params: Path, repo: str, rev: str) -> Order:
    """Compile and check.

    Raises:
        DataError: with all faults that can be found without a cluster.
    """
    values = pipeline_params(params)
    text = ir.compiled(cluster, commit := checkout(), values)
    if found := [*faults(text), *placement_faults(cluster)]:
        raise DataError("\n  ".join(["nothing was sent:", *found]))
    version = f"{commit[:12]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Order(text, version, {"repo": repo, "rev": rev, **values})


def submit(
    cluster: Path,
    params: Path,
    repo: str | None,
    rev: str,
    wait: bool = False,
    dry_run: bool = False,
    host: str | None = None,
) -> None:
    """Run the pipeline once.

    Args:
        cluster: The cluster file.
        params: The params.yaml.
        repo: URL of the git repository that versions the data, as the cluster sees it; by default `origin` of this one.
        rev: Commit, branch or tag; the run gets the commit it stands for now.
        wait: Until it is done.
        dry_run: Show what would be sent, and send nothing.
        host: Of KFP's API.

    Raises:
        DataError: where something is wrong or KFP refuses, and with `wait` where the run does not succeed.
    """
    where, repo = load(cluster), _address(repo)
    one = order(where, params, repo, resolve(repo, rev))
    if dry_run:
        one.show(service_account=where.service_account)
        return
    with _asking(where, host) as client:
        pipeline_id, version_id = _uploaded(client, one)
        made = client.run_pipeline(
            _experiment(client, where),
            f"{EXPERIMENT} {one.parameters['rev'][:12]}",
            params=one.parameters,
            pipeline_id=pipeline_id,
            version_id=version_id,
            pipeline_root=where.pipeline_root,
            service_account=where.service_account,
        )
        print(f"run {made.run_id}")
        if wait:
            _wait(client, made.run_id)


def schedule(
    name: str,
    cron: str,
    timezone: str,
    cluster: Path,
    params: Path,
    repo: str | None,
    rev: str,
    catch_up: bool = False,
    concurrency: int = 1,
    dry_run: bool = False,
    host: str | None = None,
) -> None:
    """Run the pipeline again and again; a schedule of that name is replaced, and stays paused if it is.

    Args:
        name: Of the schedule.
        cron: As for `pipelines.cron.six_fields`.
        timezone: Of the cron; it must be the scheduler's.
        cluster: The cluster file.
        params: The params.yaml.
        repo: As for `submit`.
        rev: Branch, tag or commit; each run fetches what it stands for then.
        catch_up: Whether all that was missed while paused is run, rather than the latest alone.
        concurrency: Runs at the same time.
        dry_run: Show what would be sent, and send nothing.
        host: Of KFP's API.

    Raises:
        DataError: where something is wrong or KFP refuses.
    """
    where, repo, times = load(cluster), _address(repo), six_fields(cron)
    if timezone != where.timezone:
        raise DataError(
            f"--timezone {timezone}: {cluster} says that this cluster's scheduler is at {where.timezone}, and KFP has "
            "one timezone for all schedules; give the cron in that, or set CRON_SCHEDULE_TIMEZONE of its "
            "ml-pipeline-scheduledworkflow and `timezone` here"
        )
    if not 1 <= concurrency <= 10:
        raise DataError(f"--concurrency {concurrency}: KFP takes 1 to 10")
    resolve(repo, rev)
    one = order(where, params, repo, rev)
    terms = {"cron": times, "timezone": timezone, "catch_up": catch_up, "concurrency": concurrency}
    if dry_run:
        one.show(schedule=name, **terms, service_account=where.service_account)
        return
    with _asking(where, host) as client:
        pipeline_id, version_id = _uploaded(client, one)
        old = [found for found in _schedules(client, where) if found.display_name == name]
        paused = bool(old) and all(_paused(found) for found in old)
        made = client.create_recurring_run(
            _experiment(client, where),
            name,
            cron_expression=times,
            max_concurrency=concurrency,
            no_catchup=not catch_up,
            params=one.parameters,
            pipeline_id=pipeline_id,
            version_id=version_id,
            enabled=not paused,
            pipeline_root=where.pipeline_root,
            service_account=where.service_account,
        )
        # last: where this is cut off there are two for a while, and never none; the next call mends it
        for found in old:
            client.delete_recurring_run(found.recurring_run_id)
        state = "replaced" if old else "made"
        print(f"schedule {name} {state}: {times} ({timezone}){', paused' if paused else ''}")
        print(
            f"  missed runs: {'all of them' if catch_up else 'only the latest'}; at most {concurrency} at a time"
        )
        print(f"  {made.recurring_run_id}")


def schedules(action: str, name: str | None, cluster: Path, host: str | None = None) -> None:
    """List schedules, or do something to one.

    Raises:
        DataError: where there is none of that name, or KFP refuses.
    """
    where = load(cluster)
    if (action == "list") != (name is None):
        raise DataError(f"schedules {action}: {'takes no' if name else 'give the'} name of a schedule")
    with _asking(where, host) as client:
        found = _schedules(client, where)
        if action == "list":
            for one in found:
                times = one.trigger.cron_schedule.cron if one.trigger and one.trigger.cron_schedule else ""
                print(f"{one.display_name}\t{times}\t{'paused' if _paused(one) else 'active'}")
            return
        own = [one for one in found if one.display_name == name]
        if not own:
            raise DataError(
                f"no schedule '{name}'; there are: {', '.join(one.display_name for one in found) or 'none'}"
            )
        for one in own:
            getattr(client, ACTIONS[action])(one.recurring_run_id)
        print(f"schedule {name}: {action}d")


def status(run_id: str | None, cluster: Path, host: str | None = None) -> None:
    """The state of a run, or of the latest ten.

    Raises:
        DataError: where there is no such run, or KFP refuses.
    """
    where = load(cluster)
    with _asking(where, host) as client:
        if run_id:
            found = [client.get_run(run_id)]
        else:
            experiment, newest = _experiment(client, where), "created_at desc"
            found = client.list_runs(page_size=10, sort_by=newest, experiment_id=experiment).runs or []
        for one in found:
            print(f"{one.run_id}\t{one.state}\t{one.created_at}\t{one.display_name}")
            if one.error:
                print(f"  {one.error.message}")


def _wait(client: "Client", run_id: str) -> None:
    """Until a run is done.

    Raises:
        DataError: where it does not succeed.
    """
    with tqdm(desc="pending", bar_format="{desc} {elapsed}") as bar:
        while True:
            run = client.get_run(run_id)
            bar.set_description_str(str(run.state or "PENDING").lower())
            if run.state in DONE:
                break
            time.sleep(INTERVAL)
    if run.state != "SUCCEEDED":
        told = f": {run.error.message}" if run.error else ""
        raise DataError(f"run {run_id} {run.state.lower()}{told}")
    print(f"run {run_id} succeeded")


@contextmanager
def _asking(cluster: Cluster, host: str | None) -> "Iterator[Client]":
    """KFP's client.

    Raises:
        DataError: where KFP cannot be reached, or refuses.
    """
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield _client(host, cluster)
        except ApiException as error:
            told = " ".join(str(error.body or error.reason).split())
            raise DataError(f"Kubeflow Pipelines refuses ({error.status}): {told[:500]}") from error
        except HTTPError as error:
            raise DataError(
                f"Kubeflow Pipelines cannot be reached ({type(error).__name__}); give --host, or set "
                "KF_PIPELINES_ENDPOINT, or kubectl's context"
            ) from error


def _client(host: str | None, cluster: Cluster) -> "Client":
    import kfp

    logging.disable(logging.ERROR)  # it logs each of five attempts at length
    try:
        return kfp.Client(host, ui_host=cluster.ui)
    except TimeoutError as error:
        raise DataError(
            "Kubeflow Pipelines does not answer, or refuses to say how it is; are you logged in?"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _uploaded(client: "Client", one: Order) -> tuple[str, str]:
    """Ids of the pipeline and of this version of it, which is uploaded where it is new."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        path = Path(folder) / "pipeline.yaml"
        path.write_text(one.text)
        pipeline_id = client.get_pipeline_id(PIPELINE)
        if pipeline_id is None:
            pipeline_id = client.upload_pipeline(str(path), PIPELINE).pipeline_id
        versions = _all(
            lambda token: client.list_pipeline_versions(pipeline_id, token, PAGE), "pipeline_versions"
        )
        known = {version.display_name: version.pipeline_version_id for version in versions}
        if one.version not in known:
            made = client.upload_pipeline_version(str(path), one.version, pipeline_id=pipeline_id)
            return pipeline_id, made.pipeline_version_id
        return pipeline_id, known[one.version]


def _experiment(client: "Client", cluster: Cluster) -> str:
    """Its id; a KFP of one user refuses namespaces."""
    namespace = cluster.namespace if client.get_kfp_healthz().multi_user else None
    with redirect_stdout(sys.stderr):  # links
        return str(client.create_experiment(EXPERIMENT, namespace=namespace).experiment_id)


def _schedules(client: "Client", cluster: Cluster) -> "list[V2beta1RecurringRun]":
    experiment = _experiment(client, cluster)
    return [
        *_all(
            lambda token: client.list_recurring_runs(token, PAGE, experiment_id=experiment), "recurring_runs"
        )
    ]


def _all(ask: Callable[[str], Any], rows: str) -> Iterator[Any]:
    """The rows of every page, each asked for by a token."""
    token = ""
    while True:
        page = ask(token)
        yield from getattr(page, rows) or []
        if not (token := page.next_page_token):
            return


def _paused(one: "V2beta1RecurringRun") -> bool:
    return one.status == "DISABLED" or one.mode == "DISABLE"


def _address(repo: str | None) -> str:
    """A repository as the cluster can reach it.

    Raises:
        DataError: where it is a place on this machine, or holds a password.
    """
    if repo is None:
        asked = ["git", "remote", "get-url", "origin"]
        repo = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        if not repo:
            raise DataError("this checkout has no remote 'origin'; give --repo URL")
    parts = urlsplit(repo)
    if parts.password or (parts.username and parts.scheme.startswith("http")):
        raise DataError(
            f"--repo {parts.hostname}{parts.path}: the address holds a password, which KFP would show to everybody; "
            "put GIT_USERNAME and GIT_PASSWORD in a Kubernetes secret, and name that in steps.fetch.secrets"
        )
    if parts.scheme == "file" or ":" not in repo.partition("/")[0]:
        raise DataError(f"--repo {repo}: a place on this machine, which no pod can reach; give --repo URL")
    return repo
