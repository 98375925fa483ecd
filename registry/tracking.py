"""MLflow: the only place that starts, resumes or tags a run."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import yaml

from catalog import store
from catalog.schema import TABLES, DataError

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

EXPERIMENT = "product-search"
UI_ADDRESS = "http://127.0.0.1:5000"  # of `make ui`
# MLflow opens in its view for language models, which hides training runs, models and versions
ML_VIEW = "?workflowType=machine_learning"
CHAIN = "vitrine.chain"
TRAINING = "vitrine.training"
TABLES_OF_A_RUN = "mlflow.loggedArtifacts"  # tag by which MLflow's UI knows which JSON files are tables
ATTEMPTS, WAIT = 4, 5  # times, and seconds
LIBRARIES = ("torch", "numpy", "pyarrow", "mlflow")
VARIABLES = {
    "vitrine.image": "VITRINE_IMAGE",
    "vitrine.pipeline": "VITRINE_PIPELINE",
    "vitrine.pipeline.run": "KFP_RUN_ID",
    "vitrine.data.dvc": "VITRINE_DATA_DVC",
    "vitrine.data.revision": "VITRINE_DATA_REVISION",
}


def metric_name(name: str) -> str:
    """A metric's name as MLflow accepts it, which forbids "@": "ndcg@10" → "ndcg_at_10"."""
    return name.replace("@", "_at_")


def home() -> Path:
    """The project's folder, also from within the temporary copies that `dvc exp run --temp` and `--queue` work in."""
    return Path(os.environ.get("DVC_ROOT", Path.cwd()))


def exists() -> bool:
    """Whether there is a store already, or a server that has one."""
    return "MLFLOW_TRACKING_URI" in os.environ or (home() / "mlflow.db").exists()


def connect() -> "MlflowClient":
    """A client of MLFLOW_TRACKING_URI, or else of a SQLite file in the project's folder with artifacts beside it.

    Raises:
        DataError: where the store cannot be reached.
    """
    import mlflow

    for name in ("mlflow", "alembic"):  # their progress is not the user's
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        _make_store(home() / "mlflow.db")
        mlflow.set_tracking_uri(_own_store())
    with reached(OSError):
        client = mlflow.MlflowClient()
        mlflow.set_experiment(experiment_id=experiment(client, EXPERIMENT))
    return client


def has_server() -> bool:
    """Whether a server is tracked, rather than a file."""
    return urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).scheme in ("http", "https")


def ui_url(path: str) -> str:
    """The address of a page of MLflow's UI: on the tracked server, or on `make ui` where the store is a local file.

    Args:
        path: Of the page, behind "#/".
    """
    server = UI_ADDRESS
    if has_server():
        uri = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
        host = uri.netloc.rpartition("@")[2]  # a page must not show the user's password
        server = f"{uri.scheme}://{host}{uri.path.rstrip('/')}"
    return f"{server}/#/{path}"


def version_url(name: str, version: str) -> str:
    """The address of a model version's page in MLflow's UI."""
    return ui_url(f"models/{quote(name, safe='')}/versions/{version}{ML_VIEW}")


def model_url(name: str) -> str:
    """The address of a registered model's page in MLflow's UI, which lists its versions."""
    return ui_url(f"models/{quote(name, safe='')}{ML_VIEW}")


def experiment_url(experiment_id: str) -> str:
    """The address of an experiment's table of runs in MLflow's UI."""
    return ui_url(f"experiments/{experiment_id}/runs{ML_VIEW}")


def artifact_link(experiment_id: str, run_id: str, path: str) -> str:
    """The page of a run's artifact in MLflow's UI, as a link from another page of that UI."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}{ML_VIEW}"


def _own_store() -> str:
    return f"sqlite:///{home() / 'mlflow.db'}"


def _make_store(path: Path) -> None:
    """Let MLflow make its tables, all or none: of half of them, which a kill may leave, it does not recover."""
    import mlflow

    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # other experiments may begin at the same time
        if not path.exists():
            partial = path.with_name(f".{path.name}.partial")
            partial.unlink(missing_ok=True)
            mlflow.MlflowClient(f"sqlite:///{partial}").search_experiments()
            partial.rename(path)
    finally:
        os.close(folder)


@contextmanager
def reached(*more: type[Exception]) -> Iterator[None]:
    """Let what MLflow cannot do, and `more` errors, be one message.

    Its client has tried again for minutes by then, waiting longer each time; see MLFLOW_HTTP_REQUEST_MAX_RETRIES.

    Raises:
        DataError: where the store cannot be reached, or refuses.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    caught: tuple[type[Exception], ...] = (MlflowException, RequestException, ConnectionError, TimeoutError)
    try:
        yield
    except (*caught, *more) as error:
        raise DataError(
            f"MLflow at {mlflow.get_tracking_uri()} cannot be reached, or refuses: {error}\n  check "
            "MLFLOW_TRACKING_URI and the server, then run the same again: nothing is lost, and nothing is trained again"
        ) from error


def patiently(work: Callable[[], None]) -> None:
    """Do what may be done again, and do it again where an answer broke off, which MLflow's client does not.

    Raises:
        DataError: as `reached`; also where answers broke off `ATTEMPTS` times.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ChunkedEncodingError

    for attempt in range(1, ATTEMPTS + 1):
        with reached():
            try:
                work()
                return
            except (MlflowException, ChunkedEncodingError) as error:
                cut = any(isinstance(one, ChunkedEncodingError) for one in (error, error.__context__))
                if not cut or attempt == ATTEMPTS:
                    raise
        print(f"MLflow's answer broke off; again in {WAIT * attempt} s", file=sys.stderr)
        time.sleep(WAIT * attempt)


def experiment(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, which is made where it is missing; its artifacts lie in the project's folder where no
    server keeps them."""
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is None:
        own = client.tracking_uri == _own_store()
        try:
            return str(client.create_experiment(name, (home() / "mlartifacts").as_uri() if own else None))
        except MlflowException:  # another process was faster
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    return str(found.experiment_id)


@contextmanager
def run(chain: str, training: str, tags: Mapping[str, str]) -> Iterator["ActiveRun"]:
    """The one MLflow run of a chain: taken up where an earlier attempt or its training left it, or else started.

    Args:
        chain: Identifies what the chain made; a second call with the same one finds the first one's run.
        training: Identifies what was trained how, as for `watch`.
        tags: Set on the run when it first belongs to the chain; what it came from does not change later.
    """
    import mlflow

    # an MLFLOW_RUN_ID left in the environment would win over what was found
    os.environ.pop("MLFLOW_RUN_ID", None)
    own = {CHAIN: chain, **tags}
    if found := _find(CHAIN, chain):
        with mlflow.start_run(run_id=found[0].info.run_id) as one:
            yield one
    elif free := [trained for trained in _find(TRAINING, training) if CHAIN not in trained.data.tags]:
        with mlflow.start_run(run_id=free[0].info.run_id) as one:
            mlflow.set_tags(own)
            yield one
    else:
        with mlflow.start_run(run_name=f"chain-{chain[:8]}", tags={TRAINING: training, **own}) as one:
            yield one


def _find(tag: str, value: str) -> list["MlflowRun"]:
    import mlflow

    return mlflow.search_runs(
        experiment_names=[EXPERIMENT], filter_string=f"tags.`{tag}` = '{value}'", output_format="list"
    )


def of_pipeline(run_id: str) -> "ModelVersion | None":
    """The model version that a pipeline's run registered, if any.

    Args:
        run_id: Kubeflow's.

    Raises:
        DataError: where the store cannot be reached.
    """
    client = connect()
    with reached():
        found = client.search_model_versions(f"tags.`vitrine.pipeline.run` = '{run_id}'")
    return found[0] if found else None


@contextmanager
def watch(training: str) -> Iterator[Callable[[dict[str, float]], None]]:
    """Show a training in MLflow while it goes on, where MLFLOW_TRACKING_URI names a store.

    What cannot be shown is said once, and lost: no training fails for it.

    Args:
        training: Identifies what is trained how; the same training goes on in the same run.

    Yields:
        A function that is told of each epoch: its number in `epoch`, and metrics.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ:
        yield lambda _: None
        return
    import mlflow
    from mlflow.exceptions import MlflowException

    with ExitStack() as stack:
        try:
            client = connect()
            os.environ.pop("MLFLOW_RUN_ID", None)
            found = _find(TRAINING, training)
            new: dict[str, Any] = {"run_name": f"train-{training[:8]}", "tags": {TRAINING: training}}
            old = {"run_id": found[0].info.run_id} if found else new
            one = stack.enter_context(mlflow.start_run(**old))
        except (DataError, MlflowException) as error:
            print(f"train: warning: not shown in MLflow: {error}", file=sys.stderr)
            yield lambda _: None
            return
        lost: list[str] = []

        def show(row: dict[str, float]) -> None:
            try:
                log(client, one, {}, {}, [row])
            except MlflowException as error:
                if not lost:
                    print(f"train: warning: no longer shown in MLflow: {error}", file=sys.stderr)
                lost.append(str(error))

        yield show


def log(
    client: "MlflowClient",
    one: "ActiveRun",
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    curves: list[dict[str, float]],
) -> None:
    """Parameters, metrics and learning curves of a run; saying the same twice changes nothing.

    Args:
        client: Of `connect`.
        one: Of `run`.
        params: Name → value.
        metrics: Name → value.
        curves: One row an epoch, with its number in `epoch`.
    """
    from mlflow.entities import Metric, Param

    at = one.info.start_time  # a fixed time makes a repeated point the same point
    points = [Metric(metric_name(name), value, at, 0) for name, value in metrics.items()]
    for row in curves:
        points += [
            Metric(f"train/{name}", value, at, int(row["epoch"]))
            for name, value in row.items()
            if name != "epoch"
        ]
    settings = [Param(name, _text(value)) for name, value in params.items()]
    client.log_batch(one.info.run_id, points, settings)


def log_table(client: "MlflowClient", one: "ActiveRun", name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table among the artifacts of a run, which MLflow's UI shows as one; logging the same twice changes nothing.

    MLflow's own `log_table` appends to the table that an earlier attempt left.

    Args:
        client: Of `connect`.
        one: Of `run`.
        name: Of the artifact; ends in ".json".
        rows: The same columns each; numbers, texts or None. Numbers are kept to four decimals, for reading.
    """
    columns = list(rows[0]) if rows else []
    cells = [[row[column] for column in columns] for row in rows]
    rounded = [[round(cell, 4) if isinstance(cell, float) else cell for cell in line] for line in cells]
    table = {"columns": columns, "data": rounded}
    client.log_text(one.info.run_id, json.dumps(table, allow_nan=False), name)
    tags = client.get_run(one.info.run_id).data.tags
    tables = json.loads(tags.get(TABLES_OF_A_RUN, "[]"))
    entry = {"path": name, "type": "table"}
    if entry not in tables:
        client.set_tag(one.info.run_id, TABLES_OF_A_RUN, json.dumps([*tables, entry]))


def _text(value: Any) -> str:
    """The same for equal values: KFP passes the keys of a mapping in any order, and MLflow refuses what changes."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def attach(one: "ActiveRun", folder: Path, names: Sequence[str], under: str | None = None) -> None:
    """Files and folders of `folder` as artifacts of a run, at the same places in its folder `under`."""
    import mlflow

    client = mlflow.MlflowClient()
    for name in names:
        path, place = folder / name, PurePosixPath(under or "", name)
        if path.is_dir():
            client.log_artifacts(one.info.run_id, str(path), str(place))
        else:
            client.log_artifact(one.info.run_id, str(path), str(place.parent) if place.parent.name else None)


def fetch(run_id: str, name: str, into: Path) -> Path:
    """An artifact of a run, as a file or folder below `into`."""
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=str(into)))


def commit() -> str | None:
    """Of the code: what its image was built of, or this repository; None outside of both."""
    return os.environ.get("VITRINE_COMMIT") or _git("rev-parse", "HEAD")


def lineage(fingerprint: str, data: Path) -> dict[str, str]:
    """Where a run comes from, as tags: git commit, DVC hash, revision and fingerprint of the data, image, pipeline run.

    What is not known where the code runs (no git in a container, no pipeline on a laptop) is left out.

    Args:
        fingerprint: Of the data set.
        data: The data set.
    """
    tags = {
        "vitrine.data": fingerprint,
        "vitrine.judgements": store.fingerprint(data / "judgements"),
        "vitrine.libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
    }
    if of_code := commit():
        tags["vitrine.git.commit"] = of_code
        # dvc.lock is a result, which the stages before this one have just written
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!dvc.lock")
        tags["vitrine.git.dirty"] = str(bool(changed)).lower()
    pointer = Path("data.dvc")
    if pointer.exists():
        tags["vitrine.data.dvc"] = yaml.safe_load(pointer.read_text())["outs"][0]["md5"]
        if revision := _git("log", "-1", "--format=%H", "--", str(pointer)):
            tags["vitrine.data.revision"] = revision
    tags |= {tag: os.environ[name] for tag, name in VARIABLES.items() if os.environ.get(name)}
    return tags


def used(
    client: "MlflowClient", one: "ActiveRun", validation: Mapping[str, Any], lineage: Mapping[str, str]
) -> None:
    """The data set, as what a run used; saying the same twice changes nothing.

    Args:
        client: Of `connect`.
        one: Of `run`.
        validation: The report of `validate` on the data.
        lineage: Of `lineage`.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [
        {"name": f"{table}.{field.name}", "type": str(field.type), "required": not field.nullable}
        for table, schema in TABLES.items()
        for field in schema
    ]
    source = {tag.removeprefix("vitrine."): text for tag, text in lineage.items() if "data" in tag}
    data = Dataset(
        name="data",
        digest=lineage["vitrine.data"],
        source_type="dvc",
        source=json.dumps(source),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(validation["counts"]),
    )
    context = InputTag("mlflow.data.context", "training and evaluation")
    client.log_inputs(one.info.run_id, [DatasetInput(data, [context])])


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # no git here, or not a repository
