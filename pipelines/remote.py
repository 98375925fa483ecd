"""Runs on a cluster, through Kubeflow Pipelines' own client, which also handles logins."""

import hashlib
import io
import logging
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from catalog.schema import DataError
from pipelines import ir
from pipelines.check import find_faults, find_log_faults, find_placement_faults
from pipelines.cluster import Cluster, current_commit, load_cluster
from pipelines.definitions import PIPELINES, load_parameters
from pipelines.fetch import resolve_commit
from pipelines.notify import run_link
from pipelines.status import END_STATES, SUCCEEDED, describe_end, describe_progress, wait_for_run
from registry.mlflow_store import EXPERIMENT as MLFLOW_EXPERIMENT

if TYPE_CHECKING:
    from kfp import Client
    from kfp_server_api import V2beta1Run

EXPERIMENT = "vitrine"
# KFP's MLflow plugin then puts its runs where Vitrine's are; without the plugin, KFP ignores it
PLUGINS_INPUT = {"mlflow": {"experiment_name": MLFLOW_EXPERIMENT}}
PAGE_SIZE = 100


class Submission(NamedTuple):
    """What is sent to KFP for a run or a schedule."""

    pipeline: str  # its name in KFP
    ir_yaml: str  # the compiled pipeline
    version: str  # name of the pipeline version: commit and a hash of `ir_yaml`
    parameters: dict[str, Any]

    def show(self, **settings: Any) -> None:
        """Print everything, for `--dry-run`."""
        header = {"pipeline": self.pipeline, "version": self.version, "experiment": EXPERIMENT, **settings}
        print(yaml.safe_dump({**header, "parameters": self.parameters}, sort_keys=False))
        print(f"---\n{self.ir_yaml}", end="")


def prepare_submission(
    cluster: Cluster, params_file: Path, settings_file: Path, pipeline: str, repo: str, rev: str
) -> Submission:
    """Compile and check a pipeline.

    Args:
        cluster: Settings of the cluster.
        params_file: The params.yaml.
        settings_file: The serving.yaml.
        pipeline: A key of `PIPELINES`.
        repo: URL of the git repository that versions the data.
        rev: Commit, branch or tag.

    Raises:
        DataError: with all faults that can be detected without a cluster.
    """
    definition = PIPELINES[pipeline]
    params = load_parameters(definition, params_file, settings_file)
    ir_yaml = ir.compile_pipeline(cluster, commit := current_commit(), params, pipeline)
    faults = [
        *find_faults(ir_yaml),
        *find_placement_faults(cluster, definition.steps),
        *find_log_faults(params),
    ]
    if faults:
        raise DataError("\n  ".join(["nothing was sent:", *faults]))
    version = f"{commit[:12]}-{hashlib.sha256(ir_yaml.encode()).hexdigest()[:8]}"
    return Submission(definition.name, ir_yaml, version, {"repo": repo, "rev": rev, **params})


def submit_run(
    cluster_file: Path,
    params_file: Path,
    settings_file: Path,
    pipeline: str,
    repo: str | None,
    rev: str,
    wait: bool = False,
    dry_run: bool = False,
    host: str | None = None,
) -> None:
    """Run a pipeline once.

    Args:
        cluster_file: The cluster file.
        params_file: The params.yaml.
        settings_file: The serving.yaml.
        pipeline: A key of `PIPELINES`.
        repo: URL of the git repository that versions the data, for the cluster; by default `origin` of this checkout.
        rev: Commit, branch or tag; the run gets its current commit.
        wait: Wait until the run ends.
        dry_run: Show what would be sent; send nothing.
        host: Address of KFP's API.

    Raises:
        DataError: if the input is invalid or KFP refuses; with `wait` also if the run does not succeed.
    """
    cluster, repo = load_cluster(cluster_file), find_repo(repo)
    commit = resolve_commit(repo, rev)
    submission = prepare_submission(cluster, params_file, settings_file, pipeline, repo, commit)
    if dry_run:
        submission.show(service_account=cluster.service_account, plugins_input=PLUGINS_INPUT)
        return
    with connect(cluster, host) as client:
        run = _create_run(client, cluster, submission)
        if cluster.ui:
            print(f"Run details: {run_link(cluster.ui, run.run_id)}")
        print(f"run {run.run_id}")
        if wait:
            _print_end(wait_for_run(client, run.run_id), cluster)


def _create_run(client: "Client", cluster: Cluster, submission: Submission) -> "V2beta1Run":
    """Create a run; kfp's `run_pipeline` cannot send the input of plugins.

    Schedules send none: the runs of a schedule with plugins' input and a pipeline version would get no parameters
    (`CreateJob` of backend/src/apiserver/resource/resource_manager.go at tag 2.17.0).
    """
    from kfp_server_api import V2beta1PipelineVersionReference, V2beta1Run, V2beta1RuntimeConfig

    pipeline_id, version_id = upload(client, submission)
    body = V2beta1Run(
        experiment_id=ensure_experiment(client, cluster),
        display_name=f"{submission.pipeline} {submission.parameters['rev'][:12]}",
        pipeline_version_reference=V2beta1PipelineVersionReference(
            pipeline_id=pipeline_id, pipeline_version_id=version_id
        ),
        runtime_config=V2beta1RuntimeConfig(
            parameters=submission.parameters, pipeline_root=cluster.pipeline_root
        ),
        service_account=cluster.service_account,
        plugins_input=PLUGINS_INPUT,
    )
    return client.runs.run_service_create_run(run=body)


def _print_end(run: "V2beta1Run", cluster: Cluster) -> None:
    """Print how a run ended.

    Raises:
        DataError: if it did not succeed; says why.
    """
    if run.state != SUCCEEDED:
        raise DataError(describe_end(run, cluster))
    print(describe_end(run, cluster))


def print_status(run_id: str | None, cluster_file: Path, host: str | None = None) -> None:
    """Print the state of a run and, if it has ended, why; or the states of the latest ten.

    Raises:
        DataError: if there is no such run, or KFP refuses.
    """
    cluster = load_cluster(cluster_file)
    with connect(cluster, host) as client:
        if run_id:
            _print_run(run := client.get_run(run_id))
            print(describe_end(run, cluster) if run.state in END_STATES else describe_progress(run))
            return
        experiment_id = ensure_experiment(client, cluster)
        page = client.list_runs(page_size=10, sort_by="created_at desc", experiment_id=experiment_id)
        for run in page.runs or []:
            _print_run(run)


def _print_run(run: "V2beta1Run") -> None:
    print(f"{run.run_id}\t{run.state}\t{run.created_at}\t{run.display_name}")


@contextmanager
def connect(cluster: Cluster, host: str | None) -> "Iterator[Client]":
    """KFP's client.

    Raises:
        DataError: if KFP cannot be reached, or refuses a request.
    """
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield _create_client(host, cluster)
        except ApiException as error:
            message = " ".join(str(error.body or error.reason).split())
            raise DataError(f"Kubeflow Pipelines refuses ({error.status}): {message[:500]}") from error
        except HTTPError as error:
            raise DataError(
                f"Kubeflow Pipelines cannot be reached ({type(error).__name__}); give --host, or set "
                "KF_PIPELINES_ENDPOINT, or kubectl's context"
            ) from error


def _create_client(host: str | None, cluster: Cluster) -> "Client":
    import kfp

    logging.disable(logging.ERROR)  # it logs each of five attempts at length
    try:
        return kfp.Client(host, ui_host=cluster.ui)
    except TimeoutError as error:
        raise DataError(
            "Kubeflow Pipelines does not answer, or refuses its health check; are you logged in?"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def upload(client: "Client", submission: Submission) -> tuple[str, str]:
    """Upload the pipeline and its version unless they exist; returns their ids."""
    # without kfp's links, which it prints only if something is new
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        path = Path(folder) / "pipeline.yaml"
        path.write_text(submission.ir_yaml)
        pipeline_id = client.get_pipeline_id(submission.pipeline)
        if pipeline_id is None:
            pipeline_id = client.upload_pipeline(str(path), submission.pipeline).pipeline_id
        versions = read_pages(
            lambda token: client.list_pipeline_versions(pipeline_id, token, PAGE_SIZE), "pipeline_versions"
        )
        version_ids = {version.display_name: version.pipeline_version_id for version in versions}
        if submission.version not in version_ids:
            version = client.upload_pipeline_version(str(path), submission.version, pipeline_id=pipeline_id)
            return pipeline_id, version.pipeline_version_id
        return pipeline_id, version_ids[submission.version]


def ensure_experiment(client: "Client", cluster: Cluster) -> str:
    """The id of the experiment, which is created if needed. A single-user KFP refuses namespaces."""
    namespace = cluster.namespace if client.get_kfp_healthz().multi_user else None
    with redirect_stdout(io.StringIO()):  # a link
        return str(client.create_experiment(EXPERIMENT, namespace=namespace).experiment_id)


def read_pages(read: Callable[[str], Any], field: str) -> Iterator[Any]:
    """The rows of all pages.

    Args:
        read: Returns the page of a token.
        field: The field of a page that holds its rows.
    """
    token = ""
    while True:
        page = read(token)
        yield from getattr(page, field) or []
        if not (token := page.next_page_token):
            return


def find_repo(repo: str | None) -> str:
    """The URL of a repository, by default `origin` of this checkout.

    Raises:
        DataError: if the cluster cannot reach it because it is a path of this machine, or if it holds a password.
    """
    if repo is None:
        command = ["git", "remote", "get-url", "origin"]
        repo = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if not repo:
            raise DataError("this checkout has no remote 'origin'; give --repo URL")
    parts = urlsplit(repo)
    if parts.password or (parts.username and parts.scheme.startswith("http")):
        raise DataError(
            f"--repo {parts.hostname}{parts.path}: the URL holds a password, which KFP would show to everybody; "
            "put GIT_USERNAME and GIT_PASSWORD in a Kubernetes secret, and name that in steps.fetch.secrets"
        )
    if parts.scheme == "file" or ":" not in repo.partition("/")[0]:
        raise DataError(f"--repo {repo}: is a path of this machine; pods cannot reach it; give --repo URL")
    return repo
