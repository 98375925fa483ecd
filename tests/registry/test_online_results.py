import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vitrine_judge.online import Day, OnlineResult

from catalog.schema import DataError
from registry import mlflow_store
from registry.model_registry import ModelRegistry
from registry.online_results import PAGE_FILE, RESULT_FILE, read_online_result, record_online_result

if TYPE_CHECKING:
    from mlflow import MlflowClient

RESULT = OnlineResult("interleaving", (Day("2026-11-01", 20, 200, 60), Day("2026-11-02", 20, 200, 60)))
LATER = OnlineResult("interleaving", (*RESULT.days, Day("2026-11-03", 30, 200, 40)))


@pytest.fixture
def registry(client: "MlflowClient") -> ModelRegistry:
    """With two versions; only the second one has a run."""
    registry = ModelRegistry(client, "product-search")
    experiment = mlflow_store.ensure_experiment(client, mlflow_store.EXPERIMENT)
    run = client.create_run(experiment).info.run_id
    client.create_model_version(registry.name, "runs:/none/model")
    client.create_model_version(registry.name, f"runs:/{run}/model", run)
    return registry


def record(registry: ModelRegistry, result: OnlineResult = RESULT, champion: str = "1") -> dict[str, str]:
    record_online_result(registry, "2", champion, result, 0.95, "<p>page</p>")
    return dict(registry.get_version("2").tags)


def test_what_is_recorded_is_read_and_stands_in_tags(registry: ModelRegistry, tmp_path: Path) -> None:
    assert read_online_result(registry.get_version("2"), "1") is None
    tags = record(registry)
    assert read_online_result(registry.get_version("2"), "1") == RESULT
    measured = RESULT.measure(0.95)[-1]
    assert {name.removeprefix("vitrine.online."): value for name, value in tags.items()} == {
        "kind": "interleaving",
        "sessions": "560",
        "preference": f"{measured.mean:.6f}",
        "low": f"{measured.low:.6f}",
        "high": f"{measured.high:.6f}",
        "confidence": "0.95",
        "since": "2026-11-01",
        "until": "2026-11-02",
        "decided_at": "2026-11-01",
        "champion": "1",
    }
    run = str(registry.get_version("2").run_id)
    files = {
        name: Path(registry.client.download_artifacts(run, name, str(tmp_path)))
        for name in (RESULT_FILE, PAGE_FILE)
    }
    assert json.loads(files[RESULT_FILE].read_text())["challenger"] == "2"
    assert files[PAGE_FILE].read_text() == "<p>page</p>"


def test_a_repeated_record_changes_nothing_and_a_later_one_replaces_it(registry: ModelRegistry) -> None:
    assert record(registry) == record(registry)
    assert record(registry, LATER)["vitrine.online.sessions"] == "830"
    assert read_online_result(registry.get_version("2"), "1") == LATER


def test_a_result_against_another_champion_is_none(registry: ModelRegistry) -> None:
    record(registry)
    assert read_online_result(registry.get_version("2"), "3") is None
    record(registry, LATER, champion="3")
    assert read_online_result(registry.get_version("2"), "1") is None
    assert read_online_result(registry.get_version("2"), "3") == LATER


def test_an_interrupted_record_is_no_result(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one is against another champion, so it must not remain either."""
    record(registry)

    def fail(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(registry.client, "log_text", fail)
    with pytest.raises(ConnectionError):
        record(registry, LATER, champion="3")
    assert read_online_result(registry.get_version("2"), "3") is None
    assert read_online_result(registry.get_version("2"), "1") is None


def test_a_version_without_a_run_is_refused(registry: ModelRegistry) -> None:
    with pytest.raises(
        DataError, match="version 1 of product-search was not registered by this chain, as it has no run"
    ):
        record_online_result(registry, "1", "2", RESULT, 0.95, "")
