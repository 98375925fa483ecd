"""`python -m serving publish`: writes the index of a version to Milvus, checks it, and lets it be searched at once."""

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from catalog.schema import DataError
from catalog.threads import limit_threads
from fusion.search.hybrid import MODEL_ALONE, Hybrid
from fusion.search.marker import QueryEmbeddings
from fusion.search.milvus_client import (
    connect,
    describe_uri,
    find_alias,
    name_alias,
    read_uri,
    translate_errors,
)
from fusion.search.milvus_collection import PARTIAL, name_collection, write_collection
from fusion.search.milvus_index import MilvusIndex, Rows
from fusion.search.query_terms import QueryTerms
from fusion.search.search_index import SearchIndex
from fusion.search.vector_index import SCORE_TOLERANCE, TARGET_RECALL, TUNING_K
from registry import mlflow_store
from registry.__main__ import load_params
from registry.champion_history import previous_champion
from registry.champion_process import CHAMPION, download_model, find_artifact
from registry.live_index import COLLECTION, read_live_index
from registry.milvus_alias import follow_champion
from registry.model_registry import ModelRegistry

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from pymilvus import MilvusClient

PREVIOUS = "vitrine.previous_collection"  # tag of a version: its collection before, for a rollback by hand
SAMPLE = 200  # products whose vectors and titles are the queries of the check


class Publication(NamedTuple):
    """What `publish_collection` wrote and checked.

    Attributes:
        collection: Its name.
        products: Their number.
        recalls: System → recall@10 of Milvus against exact search.
    """

    collection: str
    products: int
    recalls: dict[str, float]


def publish_collection(registry: ModelRegistry, number: str, folder: Path) -> Publication:
    """Write an index to Milvus; after a check, the version's tag names it, and the alias moves if it is the champion's.

    The version's collection before stays. Killed at any point and run again, the result is the same.

    Args:
        registry: The model's.
        number: Of the version that the index is of.
        folder: The index.

    Raises:
        DataError: Milvus cannot be reached or refuses, or the check fails; then nothing has moved.
    """
    publication = write_checked_collection(registry, folder)
    switch_to(registry, number, publication)
    return publication


def write_checked_collection(registry: ModelRegistry, folder: Path) -> Publication:
    """Write an index to Milvus and check it, without letting anything point to it.

    Args:
        registry: The model's.
        folder: The index.

    Raises:
        DataError: as for `publish_collection`.
    """
    index = SearchIndex.load(folder)
    client = connect()
    collection = name_collection(name_alias(registry.name), index)
    write_collection(client, index, collection)
    try:
        with translate_errors():
            recalls = check_collection(client, index, collection)
    except DataError:
        if all(version.tags.get(COLLECTION) != collection for version in registry.list_versions()):
            client.drop_collection(collection)  # so that the next attempt writes it again
        raise
    return Publication(collection, len(index.vectors), recalls)


def switch_to(registry: ModelRegistry, number: str, publication: Publication) -> None:
    """Let a version name its collection, and the alias follow the champion; drop older collections.

    Args:
        registry: The model's.
        number: Of the version that the index is of.
        publication: Of `write_checked_collection`.

    Raises:
        DataError: Milvus cannot be reached.
    """
    _name_collection_of(registry, number, publication.collection)
    _follow(registry)
    with translate_errors():
        _drop_old_collections(registry, connect(), name_alias(registry.name))


def is_in_milvus(registry: ModelRegistry, number: str) -> bool:
    """Whether a version is in Milvus, or the champion, or the version's predecessor as champion.

    Args:
        registry: The model's.
        number: Of the version.
    """
    moves = registry.history.list_moves()
    numbers = {number, registry.find_by_alias(CHAMPION), previous_champion(moves, number)}
    return any(
        COLLECTION in version.tags for version in registry.list_versions() if str(version.version) in numbers
    )


def check_collection(client: "MilvusClient", index: SearchIndex, collection: str) -> dict[str, float]:
    """Compare a collection with the index that was written to it: counts, and results on a sample of its products.

    Args:
        client: Of `fusion.search.milvus_client.connect`.
        index: The index.
        collection: Its name.

    Returns:
        System, "model" and "hybrid" → recall@10 against exact search.

    Raises:
        DataError: the counts differ, or a recall is below `TARGET_RECALL`.
    """
    rows = client.query(collection, output_fields=["count(*)"], consistency_level="Strong")
    if (count := rows[0]["count(*)"]) != len(index.vectors):
        raise DataError(
            f"the collection {collection} has {count:,} products, the index has {len(index.vectors):,}; nothing is "
            "published; run the same command again"
        )
    systems = {"model": MODEL_ALONE, "hybrid": Hybrid(0.5, 100)}
    recalls = {
        system: _measure_recall(client, index, collection, hybrid) for system, hybrid in systems.items()
    }
    for system, value in recalls.items():
        if value < TARGET_RECALL:
            raise DataError(
                f"the collection {collection} has recall@{TUNING_K} {value:.4f} ({system}) against exact search, "
                f"below {TARGET_RECALL:g}; nothing is published"
            )
    return recalls


def _measure_recall(client: "MilvusClient", index: SearchIndex, collection: str, hybrid: Hybrid) -> float:
    lexical = index.require_lexical()
    terms = QueryTerms.take(lexical)
    milvus = MilvusIndex(client, collection, terms, hybrid)
    exact = SearchIndex(index.marker, index.fields, index.vectors, {}, lexical, None, hybrid)
    rows = np.unique(np.linspace(0, len(index.vectors) - 1, SAMPLE).astype(int))
    # Products as queries, and products without their pictures, which are nearer to the queries of users.
    views = [vectors[rows].astype(np.float32) for vectors in (index.vectors, *index.vectors_without.values())]
    queries = QueryEmbeddings(np.concatenate(views), index.marker.model)
    texts = index.fields["title"].take(rows).to_pylist() * len(views)
    return measure_recall(
        milvus.find(queries, TUNING_K, texts=texts), exact.find(queries, TUNING_K, texts=texts)
    )


def measure_recall(results: Sequence[Rows], expected: Sequence[Rows]) -> float:
    """Mean share of what exact search returns.

    Args:
        results, expected: Per query, as `MilvusIndex.find` returns them. A result counts if exact search returns it, or
            if it scores as high as the last of exact search.
    """
    shares = []
    for rows, exact in zip(results, expected, strict=True):
        ids = {row["product_id"] for row in exact}
        lowest = min((row["score"] for row in exact), default=0) - SCORE_TOLERANCE
        hits = sum(row["product_id"] in ids or row["score"] >= lowest for row in rows)
        shares.append(hits / len(exact) if exact else 1.0)
    return float(np.mean(shares))


def _name_collection_of(registry: ModelRegistry, number: str, collection: str) -> None:
    """Let a version name its collection; it remembers the one before."""
    current = registry.get_version(number).tags.get(COLLECTION)
    for tag, value in ((PREVIOUS, current), (COLLECTION, collection)):
        if value and current != collection:
            registry.client.set_model_version_tag(registry.name, number, tag, value)


def _follow(registry: ModelRegistry) -> None:
    """Let the alias in Milvus follow the champion, also if the champion changes meanwhile."""
    champion = registry.reconcile()
    while champion:
        follow_champion(registry.name, registry.get_version(champion))
        if (current := registry.find_by_alias(CHAMPION)) == champion:
            return
        champion = current


def _drop_old_collections(registry: ModelRegistry, client: "MilvusClient", alias: str) -> None:
    """Drop the collections of versions that neither are live nor can become it, and what killed attempts left."""
    live, others = _split_versions(registry)
    kept = {version.tags.get(tag) for version in live for tag in (COLLECTION, PREVIOUS)}
    kept.add(find_alias(client, alias))
    pattern = re.compile(rf"{re.escape(alias)}_[0-9a-f]{{16}}({PARTIAL})?")
    for name in client.list_collections():
        if pattern.fullmatch(name) and name not in kept:
            for version in others:
                if version.tags.get(COLLECTION) == name:
                    registry.client.delete_model_version_tag(registry.name, version.version, COLLECTION)
            client.drop_collection(name)


def _split_versions(registry: ModelRegistry) -> "tuple[list[ModelVersion], list[ModelVersion]]":
    """The versions that are live or can become it – by an alias, by a rollback, as candidates – and the others."""
    champion = registry.find_by_alias(CHAMPION)
    aliases = registry.client.get_registered_model(registry.name).aliases
    chosen = {str(number) for number in aliases.values()}
    chosen.add(previous_champion(registry.history.list_moves(), champion) or "")
    live: list[ModelVersion] = []
    others: list[ModelVersion] = []
    for version in registry.list_versions():
        number = str(version.version)
        is_live = number in chosen or int(number) > int(champion or 0)
        (live if is_live else others).append(version)
    return live, others


def publish(registry: ModelRegistry, number: str | None) -> str:
    """Publish the index of a version.

    Args:
        registry: The model's.
        number: Of the version; None for the champion.

    Returns:
        A sentence on what was done.

    Raises:
        DataError: there is no such version, or as for `publish_collection`.
    """
    number = number or registry.find_by_alias(CHAMPION)
    if number is None:
        raise DataError(f"{registry.name} has no champion; promote a version, or name one: --version N")
    version = registry.get_version(number)
    with tempfile.TemporaryDirectory() as folder:
        publication = publish_collection(registry, number, _download_index(version, Path(folder)))
    recalls = ", ".join(f"{system} {value:.4f}" for system, value in publication.recalls.items())
    return (
        f"version {number}: {publication.products:,} products are in the collection {publication.collection} of "
        f"Milvus at {describe_uri(read_uri())} (recall@{TUNING_K}: {recalls})"
    )


def _download_index(version: "ModelVersion", folder: Path) -> Path:
    import mlflow

    if uri := read_live_index(version).index_uri:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    return find_artifact(download_model(version, folder), "index")


def main(argv: Sequence[str] | None = None) -> None:
    """Publish what the command line names."""
    limit_threads()
    parser = argparse.ArgumentParser(prog="python -m serving publish", description=__doc__)
    parser.add_argument("--version", metavar="N", help="of the registered model; default: the champion")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    arguments = parser.parse_args(argv)
    with mlflow_store.translate_errors():
        registry = ModelRegistry(mlflow_store.connect(), load_params(arguments.params).model_name)
        print(publish(registry, arguments.version))
