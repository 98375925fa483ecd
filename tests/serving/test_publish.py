"""Publishing an index to Milvus: checked, switched at once, repeatable."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from milvus_fixtures import draw_catalogue

from catalog.schema import DataError
from fusion.search import milvus_client, milvus_collection
from fusion.search.milvus_client import find_alias
from fusion.search.milvus_collection import PARTIAL
from registry import mlflow_store
from registry.live_index import COLLECTION, INDEX, read_live_index
from registry.model_registry import GATE, ModelRegistry
from serving import publish as publishing
from serving.__main__ import main
from serving.publish import PREVIOUS, publish, publish_collection, switch_to
from serving.refresh import Source, write_to_milvus

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pymilvus import MilvusClient

NAME, ALIAS = "product-search", "product_search"


class Killed(BaseException):
    """A kill at some point."""


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of three indexes."""
    folder = tmp_path_factory.mktemp("indexes")
    for seed in range(3):
        draw_catalogue(40, dim=8, seed=seed).save(folder / str(seed))
    return [folder / str(seed) for seed in range(3)]


@pytest.fixture
def milvus(open_lite: Callable[[], "MilvusClient"]) -> "MilvusClient":
    """Empty."""
    client = open_lite()
    milvus_client.move_alias(client, ALIAS, None)
    for name in client.list_collections():
        client.drop_collection(name)
    return client


@pytest.fixture
def registry(client: "MlflowClient", milvus: "MilvusClient", indexes: list[Path]) -> ModelRegistry:
    """Version 1 is the champion and has the first index in its package; version 2 is a candidate."""
    registry = ModelRegistry(client, NAME)
    experiment = mlflow_store.ensure_experiment(client, mlflow_store.EXPERIMENT)
    for _ in range(2):
        run = client.create_run(experiment).info.run_id
        flavour = {"flavors": {"python_function": {"artifacts": {"index": {"path": "artifacts/0"}}}}}
        client.log_text(run, yaml.safe_dump(flavour), "model/MLmodel")
        client.log_artifacts(run, str(indexes[0]), "model/artifacts/0")
        client.create_model_version(NAME, f"runs:/{run}/model", run, {GATE: "passed"})
    registry.set_champion("1", "promoted", None)
    return registry


def tag(registry: ModelRegistry, number: str, name: str = COLLECTION) -> str | None:
    return registry.get_version(number).tags.get(name)


def test_the_champion_is_published_once(registry: ModelRegistry, milvus: "MilvusClient") -> None:
    sentence = publish(registry, None)
    collection = tag(registry, "1")
    assert f"version 1: 40 products are in the collection {collection} of Milvus" in sentence
    assert "recall@10: model 1.0000, hybrid 1.0000" in sentence
    assert find_alias(milvus, ALIAS) == collection and milvus.list_collections() == [collection]
    assert publish(registry, None) == sentence
    assert milvus.list_collections() == [collection] and tag(registry, "1", PREVIOUS) is None


@pytest.mark.slow
def test_a_version_with_a_later_index_publishes_that(registry: ModelRegistry, indexes: list[Path]) -> None:
    registry.client.set_model_version_tag(NAME, "1", INDEX, indexes[1].as_uri())
    publish(registry, None)
    later = tag(registry, "1")
    assert later == publish_collection(registry, "1", indexes[1]).collection


@pytest.mark.slow
def test_the_collection_before_stays_and_older_ones_are_dropped(
    registry: ModelRegistry, milvus: "MilvusClient", indexes: list[Path]
) -> None:
    milvus.create_collection("product_search_de", dimension=2)  # of another project
    names = [publish_collection(registry, "1", folder).collection for folder in indexes]
    assert sorted(milvus.list_collections()) == sorted(["product_search_de", *names[1:]])
    assert (tag(registry, "1"), tag(registry, "1", PREVIOUS)) == (names[2], names[1])
    assert find_alias(milvus, ALIAS) == names[2]


@pytest.mark.slow
def test_a_candidate_is_published_without_moving_the_alias(
    registry: ModelRegistry, milvus: "MilvusClient", indexes: list[Path]
) -> None:
    """Its promotion moves it; then the collection of the champion before stays for a rollback."""
    live = publish_collection(registry, "1", indexes[0]).collection
    candidate = publish_collection(registry, "2", indexes[1]).collection
    assert find_alias(milvus, ALIAS) == live
    registry.set_champion("2", "promoted", "1")
    newest = publish_collection(registry, "2", indexes[2]).collection
    assert find_alias(milvus, ALIAS) == newest
    assert sorted(milvus.list_collections()) == sorted([live, candidate, newest])
    registry.set_champion("1", "rolled back", "2")
    assert find_alias(milvus, ALIAS) == live


@pytest.mark.slow
def test_versions_that_cannot_become_live_lose_their_collection(
    registry: ModelRegistry, milvus: "MilvusClient", indexes: list[Path]
) -> None:
    old = publish_collection(registry, "2", indexes[1]).collection
    source = registry.get_version("1")
    registry.client.create_model_version(NAME, source.source, source.run_id, {GATE: "passed"})
    registry.set_champion("3", "promoted", "1")
    newest = publish_collection(registry, "3", indexes[0]).collection
    assert milvus.list_collections() == [newest] != [old]
    assert tag(registry, "2") is None


@pytest.mark.slow
def test_a_refresh_writes_where_the_champion_is_in_milvus(
    registry: ModelRegistry, milvus: "MilvusClient", indexes: list[Path]
) -> None:
    """Also the index of a candidate, and what a killed refresh did not write: the next has nothing to encode."""
    live = read_live_index(registry.get_version("1"))
    source = Source(live, indexes[0], previous=indexes[1])
    assert write_to_milvus(registry, source, indexes[0]) is None and milvus.list_collections() == []
    first = publish_collection(registry, "1", indexes[0]).collection
    written = write_to_milvus(registry, source, None)
    assert written and written.collection != tag(registry, "1") == find_alias(milvus, ALIAS) == first
    switch_to(registry, "1", written)
    assert tag(registry, "1") == find_alias(milvus, ALIAS) == written.collection
    candidate = Source(live._replace(version="2"), indexes[0], previous=None)
    assert write_to_milvus(registry, candidate, None) is None
    assert write_to_milvus(registry, candidate, indexes[2])


@pytest.mark.slow
def test_an_index_that_searches_badly_is_not_published(
    registry: ModelRegistry,
    milvus: "MilvusClient",
    indexes: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = publish_collection(registry, "1", indexes[0]).collection
    monkeypatch.setattr(publishing, "TARGET_RECALL", 1.01)
    with pytest.raises(
        DataError, match=r"recall@10 1.0000 \(model\) against exact search, below 1.01; nothing"
    ):
        publish_collection(registry, "1", indexes[1])
    with pytest.raises(DataError, match="nothing is published"):
        publish_collection(registry, "1", indexes[0])
    assert milvus.list_collections() == [live] and tag(registry, "1") == live


@pytest.mark.slow
def test_lost_products_are_noticed(
    registry: ModelRegistry, milvus: "MilvusClient", indexes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = milvus.insert
    monkeypatch.setattr(milvus, "insert", lambda name, rows: insert(name, rows[1:]))
    with pytest.raises(DataError, match="has 39 products, the index has 40; nothing is published"):
        publish_collection(registry, "1", indexes[0])
    assert milvus.list_collections() == [] and find_alias(milvus, ALIAS) is None


STEPS: dict[str, tuple[Any, str]] = {
    "create": (milvus_collection, "_create_schema"),
    "index": (milvus_collection, "_create_indexes"),
    "check": (publishing, "check_collection"),
    "tag": (publishing, "_name_collection_of"),
    "alias": (publishing, "_follow"),
    "drop": (publishing, "_drop_old_collections"),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_attempt_is_finished_by_the_next(
    registry: ModelRegistry,
    milvus: "MilvusClient",
    indexes: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    first = publish_collection(registry, "1", indexes[0]).collection
    owner, name = STEPS[step]
    work = getattr(owner, name)

    def kill(*values: Any) -> None:
        work(*values)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, kill)
        publish_collection(registry, "1", indexes[1])
    assert find_alias(milvus, ALIAS) == (
        first if step in ("create", "index", "check", "tag") else tag(registry, "1")
    )
    second = publish_collection(registry, "1", indexes[1]).collection
    assert find_alias(milvus, ALIAS) == tag(registry, "1") == second
    assert tag(registry, "1", PREVIOUS) == first
    assert sorted(milvus.list_collections()) == sorted([first, second])
    assert not any(name.endswith(PARTIAL) for name in milvus.list_collections())


def test_the_command_says_what_is_missing(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text("")
    registry.client.delete_registered_model_alias(NAME, "champion")
    monkeypatch.setattr("sys.argv", ["serving", "publish"])
    with pytest.raises(DataError, match="product-search has no champion; promote a version, or name one"):
        main()
    monkeypatch.setattr("sys.argv", ["serving", "publish", "--version", "7"])
    with pytest.raises(DataError, match="has no version 7; there are 1, 2"):
        main()
    monkeypatch.setattr("sys.argv", ["serving", "pub"])
    with pytest.raises(DataError, match=r"unknown verb 'pub'; known are .*publish"):
        main()
