"""The alias in Milvus moves with the champion."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from catalog.schema import DataError
from fusion.search import milvus_client
from fusion.search.milvus_client import find_alias
from registry.champion_history import ChampionHistory
from registry.live_index import COLLECTION
from registry.model_registry import COMPARED_WITH, GATE, ModelRegistry
from registry.promotion import promote

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pymilvus import MilvusClient

NAME, ALIAS = "product-search", "product_search"


class Killed(BaseException):
    """A kill at some point."""


@pytest.fixture(scope="module")
def milvus(open_lite: Callable[[], "MilvusClient"]) -> "MilvusClient":
    """Has the collections c1 and c2."""
    client = open_lite()
    from pymilvus import DataType

    schema = client.create_schema()
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    for name in ("c1", "c2"):
        client.create_collection(name, schema=schema)
    return client


@pytest.fixture
def registry(client: "MlflowClient", milvus: "MilvusClient") -> ModelRegistry:
    """Versions 1 and 2 are in the collections c1 and c2, version 3 is not in Milvus; there is no alias."""
    milvus_client.move_alias(milvus, ALIAS, None)
    registry = ModelRegistry(client, NAME)
    for tags in ({COLLECTION: "c1"}, {COLLECTION: "c2"}, {}):
        client.create_model_version(NAME, "somewhere", tags={GATE: "passed", **tags})
    return registry


def aliases(registry: ModelRegistry, milvus: "MilvusClient") -> tuple[str | None, str | None]:
    return registry.find_by_alias("champion"), find_alias(milvus, ALIAS)


def test_promotion_and_rollback_move_both_aliases(registry: ModelRegistry, milvus: "MilvusClient") -> None:
    registry.set_champion("1", "promoted", None)
    assert aliases(registry, milvus) == ("1", "c1")
    registry.set_champion("2", "promoted", "1")
    assert aliases(registry, milvus) == ("2", "c2")
    registry.set_champion("1", "rolled back", "2")
    assert aliases(registry, milvus) == ("1", "c1")


def test_a_champion_set_by_hand_moves_the_other_alias(
    registry: ModelRegistry, milvus: "MilvusClient"
) -> None:
    registry.set_champion("1", "promoted", None)
    registry.client.set_registered_model_alias(NAME, "champion", "2")
    registry.reconcile()
    assert aliases(registry, milvus) == ("2", "c2")


STEPS = {
    "the move is recorded": (ChampionHistory, "add_move"),
    "the model's alias is moved": (ModelRegistry, "_set_champion_alias"),
    "the alias in Milvus is moved": (milvus_client, "move_alias"),
    "the runs are named": (ModelRegistry, "_update_run_names"),
    "the move is complete": (ChampionHistory, "complete_move"),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_next_command_moves_both_aliases_after_a_kill(
    registry: ModelRegistry, milvus: "MilvusClient", step: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.set_champion("1", "promoted", None)
    owner, name = STEPS[step]
    work = getattr(owner, name)

    def kill(*values: Any) -> None:
        if when == "after":
            work(*values)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, kill)
        registry.set_champion("2", "promoted", "1")
    champion = ModelRegistry(registry.client, NAME).reconcile()
    moved = (step, when) != ("the move is recorded", "before")
    assert aliases(registry, milvus) == (champion, f"c{champion}") == (("2", "c2") if moved else ("1", "c1"))
    assert all(complete for _, complete in registry.history.list_moves_with_state())


def test_a_move_stays_incomplete_while_milvus_cannot_be_reached(
    registry: ModelRegistry, milvus: "MilvusClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.set_champion("1", "promoted", None)
    with monkeypatch.context() as patch:
        patch.setenv(milvus_client.URI, "http://127.0.0.1:1")
        with pytest.raises(DataError, match=r"Milvus at http://127.0.0.1:1 cannot be reached"):
            registry.set_champion("2", "promoted", "1")
        assert len(registry.history.list_moves()) == 1  # refused before anything was moved
        patch.setattr("registry.model_registry.require_collection", lambda *_: None)
        for command in (lambda: registry.set_champion("2", "promoted", "1"), registry.reconcile):
            with pytest.raises(DataError, match=r"cannot be reached"):
                command()
    assert aliases(registry, milvus) == ("2", "c1")
    registry.reconcile()
    assert aliases(registry, milvus) == ("2", "c2")


def test_a_version_whose_collection_is_gone_is_not_promoted(registry: ModelRegistry) -> None:
    registry.client.set_model_version_tag(NAME, "3", COLLECTION, "c9")
    with pytest.raises(
        DataError, match=r"version 3 is searched in the collection c9, which Milvus at .* does not"
    ):
        registry.set_champion("3", "promoted", None)
    assert registry.history.list_moves() == []


def test_no_alias_stays_on_the_vectors_of_another_model(
    registry: ModelRegistry, milvus: "MilvusClient", capsys: pytest.CaptureFixture[str]
) -> None:
    """A version that is not in Milvus is refused; with force, the alias is removed."""
    registry.set_champion("1", "promoted", None)
    with pytest.raises(
        DataError, match="version 1 is searched in Milvus, and version 3 is not there; write it"
    ):
        check_promotion(registry, "3")
    registry.set_champion("3", "promoted", "1")
    assert aliases(registry, milvus) == ("3", None)
    assert "the alias product_search of Milvus is removed: version 3 is not there;" in capsys.readouterr().err
    registry.set_champion("2", "promoted", "3")
    assert aliases(registry, milvus) == ("2", "c2")


def test_the_alias_is_not_left_behind_in_another_milvus(
    registry: ModelRegistry, milvus: "MilvusClient", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A champion that is not in Milvus, where MILVUS_URI names the wrong one or is missing."""
    registry.set_champion("1", "promoted", None)
    other = str(tmp_path / "other.db")
    with monkeypatch.context() as patch:
        patch.setenv(milvus_client.URI, other)
        with pytest.raises(DataError, match=f"version 1 is searched .* Milvus at {other} does not have; set"):
            registry.set_champion("3", "promoted", "1")
    milvus_client.close(other)
    assert aliases(registry, milvus) == ("1", "c1")


def check_promotion(registry: ModelRegistry, number: str) -> None:
    """Promote, as if the version had files and a verdict against the champion."""
    registry.client.set_model_version_tag(NAME, number, COMPARED_WITH, "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("registry.promotion.list_missing_files", lambda _: [])
        patch.setattr("registry.promotion.has_artifact", lambda *_: True)
        promote(registry, number)


@pytest.mark.slow
def test_without_a_collection_pymilvus_is_not_imported() -> None:
    code = "import sys, registry.promotion; sys.exit('pymilvus' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
