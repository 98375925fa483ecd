"""`python -m serving refresh`: today's catalogue, encoded by the champion without training.

With `refresh.challenger`, the challenger gets the same catalogue, so that customers can compare the two.
Only products whose content changed are encoded. Killed anywhere and run again, it goes on.
"""

import argparse
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrine_judge.tables import format_table

from catalog import store
from catalog.schema import DataError
from catalog.threads import limit_threads
from fusion.search.marker import IndexMarker
from fusion.search.search_index import IVF_FILE
from registry import mlflow_store
from registry.__main__ import load_params
from registry.champion_process import CHAMPION, find_artifact, list_artifacts, run_in_own_environment
from registry.index_publishing import publish
from registry.lineage import collect_lineage
from registry.live_index import LiveIndex, find_live_index
from registry.model_registry import CHALLENGER, ModelRegistry
from registry.params import RegisterParams
from serving.packages import PackageCache
from serving.params import RefreshParams, load_serving_params
from serving.publish import Publication, is_in_milvus, switch_to, write_checked_collection

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

OUTCOME_FILE = "refresh.json"
UNCHANGED, PUBLISHED = "nothing changed", "published"
SHOWN = ("products", "added", "changed", "removed", "reused", "encoded")


@dataclass(frozen=True)
class Source:
    """What a refresh starts from.

    Attributes:
        live: The version and its index.
        package: The version's, downloaded.
        previous: The index that is live, downloaded; None if there is none.
    """

    live: LiveIndex
    package: Path
    previous: Path | None


def main() -> None:
    """Refresh, and print what was done."""
    limit_threads()
    parser = argparse.ArgumentParser(prog="python -m serving refresh", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="PATH", help="today's data set")
    parser.add_argument("--settings", type=Path, default=Path("serving.yaml"), metavar="FILE")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="has the model's name"
    )
    parser.add_argument(
        "--outcome",
        type=Path,
        default=Path("artifacts/refresh"),
        metavar="PATH",
        help=f"folder to write {OUTCOME_FILE} into; a folder beside it keeps what a killed refresh did",
    )
    parser.add_argument(
        "--version", metavar="N", help="refresh this version alone, such as one that has no index yet"
    )
    arguments = parser.parse_args()
    params = load_serving_params(arguments.settings).refresh
    places = arguments.data, params, arguments.outcome, load_params(arguments.params).model_name
    if arguments.version:
        refresh_version(*places, arguments.version)
    else:
        refresh(*places)


def refresh(
    data: Path, params: RefreshParams, outcome: Path, model_name: str = RegisterParams().model_name
) -> None:
    """Build the index of a data set with the champion's own code, and publish it; as set, the challenger's too.

    Args:
        data: Today's data set, validated.
        params: What is not published, and how many indexes are kept.
        outcome: Folder to write: refresh.json, with status, version, address, counts, seconds and recalls. That of the
            challenger is beside it, in a folder whose name ends in "-challenger".
        model_name: Of the registered model.

    Raises:
        DataError: where there is no champion, an index is not published, Milvus cannot be reached that has the
            version's, or another version got the alias meanwhile.
    """
    refresh_version(data, params, outcome, model_name, CHAMPION)
    if params.challenger and find_live_index(model_name, CHALLENGER):
        place = outcome.with_name(f"{outcome.name}-{CHALLENGER}")
        refresh_version(data, params, place, model_name, CHALLENGER)


def refresh_version(data: Path, params: RefreshParams, outcome: Path, model_name: str, role: str) -> None:
    """Build and publish the index of one version, see `find_live_index`; otherwise as `refresh`."""
    with lock_work(outcome) as work:
        source, version = read_source(model_name, work / "downloads", role)
        index, report = build(data, source, work)
        result: dict[str, Any] = {"status": UNCHANGED, "version": source.live.version}
        if index:
            require_safe(report, params)
        registry = ModelRegistry(mlflow_store.connect(), model_name)
        publication = write_to_milvus(registry, source, index)
        if index:
            address = publish_index(version, index, report, params.keep, data)
            result |= {"status": PUBLISHED, "index": address, **report}
            shutil.rmtree(index)
        if publication:
            switch_to(registry, source.live.version, publication)
            result["collection"] = publication.collection
        with store.new_atomic_dir(outcome) as folder:
            (folder / OUTCOME_FILE).write_text(json.dumps(result, indent=2) + "\n")
        print(describe(result))
    require_same_version(model_name, source.live, role)


def write_to_milvus(registry: ModelRegistry, source: Source, index: Path | None) -> Publication | None:
    """Write the index to Milvus, where the version or the one before is; also what a killed refresh did not write.

    Before the index is published, so that a reader sees a version with its index and the collection of another day only
    for the moment between two tags.

    Args:
        registry: The model's.
        source: What the refresh started from.
        index: Today's; None where nothing changed.

    Returns:
        What was written; None for a version that is not in Milvus.

    Raises:
        DataError: Milvus cannot be reached, or the collection searches badly.
    """
    folder = index or source.previous
    if not folder or not is_in_milvus(registry, source.live.version):
        return None
    return write_checked_collection(registry, folder)


@contextmanager
def lock_work(outcome: Path) -> Iterator[Path]:
    """The folder for downloads and unfinished work, beside the outcome.

    Raises:
        DataError: where another refresh uses it.
    """
    work = outcome.resolve().with_name(f".{outcome.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    lock = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield work
    except BlockingIOError as error:
        raise DataError(f"{outcome}: another refresh is running; wait for its end") from error
    finally:
        os.close(lock)


def read_source(model_name: str, downloads: Path, role: str) -> "tuple[Source, ModelVersion]":
    """Download a version and its index, unless they are here, and remove other downloads; also the version.

    Raises:
        DataError: where there is no such version.
    """
    live = find_live_index(model_name, role)
    if live is None:
        hint = "; promote a version: python -m registry promote N" if role == CHAMPION else ""
        raise DataError(f"{model_name} has no {f'version {role}' if role.isdigit() else role}{hint}")
    downloads.mkdir(exist_ok=True)
    cache = PackageCache(downloads)
    cache.remove_others(live)
    package = cache.download(live.model_uri)
    previous = cache.download(live.index_uri) if live.index_uri else list_artifacts(package).get("index")
    client = mlflow_store.connect()
    with mlflow_store.translate_errors():
        return Source(live, package, previous), client.get_model_version(model_name, live.version)


def build(data: Path, source: Source, work: Path) -> tuple[Path | None, dict[str, Any]]:
    """Build the index in the version's own environment: its folder and the report of `fusion.search.building`.

    Returns:
        No folder where the live index is of the same data.
    """
    fingerprint = store.fingerprint(data)
    if source.previous and IndexMarker.load(source.previous).data == fingerprint:
        return None, {}
    number = source.live.version
    index, report = work / f"index-{number}", work / f"report-{number}.json"
    if not (index.exists() and report.exists() and IndexMarker.load(index).data == fingerprint):
        flags: dict[str, Path | None] = {
            "data": data.resolve(),
            "index": index,
            "hybrid": find_artifact(source.package, "hybrid"),
            "previous": source.previous,
            "learnt": find_learnt(source.package),
            "report": report,
        }
        report.unlink(missing_ok=True)
        given = {name: path for name, path in flags.items() if path}
        run_in_own_environment(source.package, "index", **given)
    return index, json.loads(report.read_text())


def find_learnt(package: Path) -> Path | None:
    """What the version's own index learnt for approximate search; None for a small catalogue."""
    index = list_artifacts(package).get("index")
    path = index / IVF_FILE if index else None
    return path if path and path.exists() else None


def require_safe(report: dict[str, Any], params: RefreshParams) -> None:
    """Refuse an index that lost too much.

    Raises:
        DataError: too many products would disappear, or searches by the products' own vectors find fewer of them.
    """
    counts = report["counts"]
    removed, previous = counts["removed"], counts["previous"]
    if previous and removed / previous > params.max_removed:
        raise DataError(
            f"refresh: not published: {removed:,} of {previous:,} products would disappear "
            f"({removed / previous:.1%}), refresh.max_removed allows {params.max_removed:.1%}; check the export of "
            "the shop, or raise the limit in serving.yaml for this day"
        )
    before, now = report["previous_self_recall"], report["self_recall"]
    least = (1.0 if before is None else before) - params.max_recall_loss
    if now < least:
        raise DataError(
            f"refresh: not published: a search by a product's own vector finds it first in {now:.2%} of cases, "
            f"refresh.max_recall_loss asks for {least:.2%}; train a new version if the catalogue has changed"
        )


def publish_index(version: "ModelVersion", index: Path, report: dict[str, Any], keep: int, data: Path) -> str:
    """Publish an index and its report; its address."""
    recalls = {name: value for name, value in report.items() if name.endswith("recall") and value is not None}
    seconds = {f"seconds_{part}": value for part, value in report["seconds"].items()}
    metrics = {**report["counts"], **seconds, **recalls}
    tags = collect_lineage(IndexMarker.load(index).data, data)
    return publish(mlflow_store.connect(), version, index, metrics, keep, tags)


def describe(result: dict[str, Any]) -> str:
    """What was done, as text."""
    if result["status"] == UNCHANGED:
        return f"refresh: {UNCHANGED}: version {result['version']} serves this catalogue already"
    counts, seconds = result["counts"], result["seconds"]
    table = format_table(
        [[*SHOWN, "seconds"], [*(f"{counts[name]:,}" for name in SHOWN), f"{sum(seconds.values()):.1f}"]]
    )
    return f"{table}\nrefresh: version {result['version']} serves this catalogue now: {result['index']}"


def require_same_version(model_name: str, live: LiveIndex, role: str) -> None:
    """Say so where another version got the alias during the refresh.

    Raises:
        DataError: the alias moved; the index stays with its version.
    """
    now = find_live_index(model_name, role)
    if now is None or now.version != live.version:
        raise DataError(
            f"refresh: the {role} changed meanwhile: version {live.version} has the new index, for a rollback, "
            f"but {f'version {now.version}' if now else 'no version'} is the {role}; refresh again"
        )
