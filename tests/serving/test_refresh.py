"""Today's catalogue is published for the champion, encoded by its own code; or refused, with the reason."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
from chain_fixtures import SavedStore

from catalog import store
from catalog.schema import DataError
from fusion.search.search_index import SearchIndex
from registry import mlflow_store
from registry.index_publishing import EXPERIMENT
from registry.live_index import INDEX, find_live_index
from registry.model_registry import ModelRegistry
from serving import __main__ as serving
from serving.params import RefreshParams
from serving.refresh import OUTCOME_FILE, lock_work, main, refresh, require_safe

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "product-search"
ROOT = Path(__file__).parents[2]
REPORT = {
    "counts": {"products": 90, "previous": 100, "removed": 20},
    "self_recall": 0.99,
    "previous_self_recall": 1.0,
}


def counts_of(removed: int) -> dict[str, Any]:
    return {"counts": REPORT["counts"] | {"removed": removed}}  # type: ignore[operator]


@pytest.mark.parametrize(
    "report",
    [REPORT, REPORT | {"previous_self_recall": None}, REPORT | {"counts": {"previous": 0, "removed": 0}}],
)
def test_an_index_within_the_limits_is_published(report: dict[str, Any]) -> None:
    require_safe(report, RefreshParams())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (counts_of(21), r"not published: 21 of 100 products would disappear \(21.0%\), .* allows 20.0%"),
        ({"self_recall": 0.985}, r"not published: .* first in 98.50% of cases, .* asks for 99.00%"),
        ({"self_recall": 0.985, "previous_self_recall": None}, "asks for 99.00%"),
        ({"self_recall": 0.9, "previous_self_recall": 0.95}, "asks for 94.00%"),
    ],
)
def test_an_index_that_lost_too_much_is_not_published(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        require_safe(REPORT | change, RefreshParams())


def test_two_refreshes_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        lock_work(tmp_path / "out"),
        pytest.raises(DataError, match="another refresh is running"),
        lock_work(tmp_path / "out"),
    ):
        pass
    with lock_work(tmp_path / "out"):
        pass


@pytest.fixture(scope="module")
def saved_store(
    local_store: Callable[[Path], AbstractContextManager[None]],
    two_versions: Callable[[Path], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> SavedStore:
    """Version 1 is the champion, version 2 the challenger."""
    root = tmp_path_factory.mktemp("store")
    with local_store(root):
        two_versions(root)
    return SavedStore(root)


@pytest.fixture
def client(
    saved_store: SavedStore, local_store: Callable[[Path], AbstractContextManager[None]]
) -> "Iterator[MlflowClient]":
    saved_store.restore()
    with local_store(saved_store.root):
        yield mlflow_store.connect()


def write_day(data: Path, folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """The data set of another day."""
    rows = store.read_table(data, "products").to_pylist()
    change(rows)
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("products"))
    with store.TableWriter(folder, "products") as table:
        for row in rows:
            table.write(row)
    return folder


def sell(rows: list[dict[str, Any]]) -> None:
    """One product goes, one comes, one gets another title, one another price."""
    del rows[0]
    rows.append(rows[5] | {"product_id": "new"})
    rows[3]["title"] += " again"
    rows[7]["price"] = 1234.5


def read_outcome(folder: Path) -> dict[str, Any]:
    return json.loads((folder / OUTCOME_FILE).read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_a_day(
    client: "MlflowClient", data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    today = write_day(data, tmp_path / "data", sell)
    shutil.copy(Path(__file__).parents[2] / "params.yaml", "params.yaml")
    Path("serving.yaml").write_text("refresh: {keep: 1}\n")
    command = ["serving", "refresh", "--data", str(today), "--outcome", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command])
    serving.main()
    outcome = read_outcome(tmp_path / "out")
    assert outcome["status"] == "published"
    expected = {"added": 1, "changed": 1, "removed": 1, "encoded": 1, "reused": 59}
    assert outcome["counts"].items() >= expected.items(), "the new one has the pictures and texts of another"
    live = find_live_index(NAME)
    assert live and (live.version, live.index_uri) == ("1", outcome["index"])
    folder = Path(mlflow.artifacts.download_artifacts(outcome["index"], dst_path=str(tmp_path / "copy")))
    index = SearchIndex.load(folder)
    assert index.marker.data == store.fingerprint(today)
    assert 1234.5 in index.fields["price"].to_pylist()
    run = client.get_run(outcome["index"].split("/")[1])
    assert run.data.metrics["encoded"] == 1 and run.data.metrics["self_recall"] == 1
    assert "encoded" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command])
    serving.main()
    assert "nothing changed" in capsys.readouterr().out
    assert read_outcome(tmp_path / "out")["status"] == "nothing changed"


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_what_is_refused_stays_unpublished(
    client: "MlflowClient", data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = write_day(data, tmp_path / "data", lambda rows: rows.__delitem__(slice(30, None)))
    with pytest.raises(DataError, match=r"30 of 60 products would disappear \(50.0%\)"):
        refresh(today, RefreshParams(), tmp_path / "out")
    assert INDEX not in client.get_model_version(NAME, "1").tags
    assert client.get_experiment_by_name(EXPERIMENT) is None
    assert not (tmp_path / "out").exists()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("serving.refresh.run_in_own_environment", refuse)
    refresh(today, RefreshParams(max_removed=0.5), tmp_path / "out")
    assert read_outcome(tmp_path / "out")["counts"]["removed"] == 30


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_a_champion_that_changes_meanwhile(
    client: "MlflowClient", data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = write_day(data, tmp_path / "data", sell)

    def promote(report: dict[str, Any], params: RefreshParams) -> None:
        ModelRegistry(client, NAME).set_champion("2", "promoted", "1")
        require_safe(report, params)

    monkeypatch.setattr("serving.refresh.require_safe", promote)
    with pytest.raises(DataError, match="version 1 has the new index, for a rollback, but version 2 is the"):
        refresh(today, RefreshParams(), tmp_path / "out")
    live = find_live_index(NAME)
    assert live and (live.version, live.index_uri) == ("2", None)
    assert client.get_model_version(NAME, "1").tags[INDEX] == read_outcome(tmp_path / "out")["index"]


@pytest.mark.slow
def test_without_a_champion(client: "MlflowClient", data: Path, tmp_path: Path) -> None:
    client.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(DataError, match="product-search has no champion; promote a version"):
        refresh(data, RefreshParams(), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_a_challenger_gets_the_catalogue_too(client: "MlflowClient", data: Path, tmp_path: Path) -> None:
    today, params = write_day(data, tmp_path / "data", sell), RefreshParams(challenger=True)
    refresh(today, params, tmp_path / "out")
    for alias, version, folder in (("champion", "1", "out"), ("challenger", "2", "out-challenger")):
        outcome, live = read_outcome(tmp_path / folder), find_live_index(NAME, alias)
        assert live and (outcome["version"], live.version, live.index_uri) == (
            version,
            version,
            outcome["index"],
        )
    client.delete_registered_model_alias(NAME, "challenger")
    refresh(today, params, tmp_path / "out")
    assert read_outcome(tmp_path / "out")["status"] == "nothing changed"


@pytest.mark.slow
@pytest.mark.usefixtures("warm_start")
def test_a_version_without_a_role_gets_an_index_before_it_is_promoted(
    client: "MlflowClient", data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for alias in ("champion", "challenger"):
        client.delete_registered_model_alias(NAME, alias)
    today = write_day(data, tmp_path / "data", sell)
    (tmp_path / "serving.yaml").write_text("")
    words = ["--data", today, "--outcome", tmp_path / "out", "--settings", tmp_path / "serving.yaml"]
    words += ["--params", ROOT / "params.yaml"]
    monkeypatch.setattr(sys, "argv", ["serving refresh", *map(str, words), "--version", "2"])
    main()
    live = find_live_index(NAME, "2")
    assert live and live.index_uri == read_outcome(tmp_path / "out")["index"]
    assert find_live_index(NAME) is None is find_live_index(NAME, "9")
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "9"])
    with pytest.raises(DataError, match="product-search has no version 9"):
        main()
