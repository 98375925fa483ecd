import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from chain_fixtures import SavedStore, copied
from vitrine_judge.online import Day, OnlineResult

from catalog.schema import DataError
from components.params import RegisterParams
from components.register import register
from registry import mlflow_runs, mlflow_store
from registry.__main__ import main
from registry.judging import judge
from registry.model_registry import COMPARED_WITH, GATE, REASONS, ModelRegistry
from registry.online_results import record_online_result
from registry.params import OnlineParams
from registry.promotion import promote

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow

OPEN = RegisterParams(floors={"ndcg@10": 0.0}, budgets={}, baselines={}, min_queries=2)
LENIENT = OPEN.model_copy(update={"min_gain": -0.5, "margins": {}})  # an equal candidate passes
Register = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def twin(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(model, tmp_path_factory.mktemp("twin") / "train")


@pytest.fixture(scope="module")
def saved_store(
    data: Path,
    report: Path,
    model: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    local_store: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> SavedStore:
    """Versions 1 and 2 with equal scores, which passed without a champion; then version 1 became champion."""
    root = tmp_path_factory.mktemp("store")
    with local_store(root):
        for folder in (model, twin):
            register(
                data, report, folder, index, evaluation, OPEN, tmp_path_factory.mktemp("out") / "register"
            )
        promote(ModelRegistry(mlflow_store.connect(), OPEN.model_name), "1")
    return SavedStore(root)


@pytest.fixture
def register_model(data: Path, report: Path, index: Path, evaluation: Path, tmp_path: Path) -> Register:
    """Register a model with the rules `OPEN`; registration.json."""

    def run(model: Path) -> dict[str, Any]:
        register(data, report, model, index, evaluation, OPEN, tmp_path / "out")
        return json.loads((tmp_path / "out" / "registration.json").read_text())

    return run


def test_a_version_that_is_not_better_than_the_new_champion_fails(
    registry: ModelRegistry, data: Path, register_model: Register, twin: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="version 2 is not promoted: judged against no champion") as error:
        promote(registry, "2")
    advice = "but the champion is version 1 now; judge it again: python -m registry judge 2\n"
    assert advice in str(error.value)

    text = judge(registry, "2", data, OPEN)
    assert text.startswith("product-search version 2, gate undecided, no alias\n  ndcg@10 ")
    version = registry.get_version("2")
    assert (version.tags[GATE], version.tags[COMPARED_WITH]) == ("undecided", "1")
    assert str(version.description).startswith("Gate undecided: do not promote version 2")
    assert registry.find_by_alias("challenger") is None
    with pytest.raises(DataError, match="version 2 is not promoted: Gate undecided"):
        promote(registry, "2")

    def download(name: str) -> str:
        return mlflow_runs.download_artifact(str(version.run_id), name, tmp_path / "run").read_text()

    names = ("registration.json", "model_card.md", "decision.html")
    files = {name: download(name) for name in names}
    assert "champion (version 1)" in files["decision.html"]
    tags = registry.get_version("2").tags
    assert json.loads(files["registration.json"]) == register_model(twin)  # the stage writes the same
    assert files == {name: (tmp_path / "out" / name).read_text() for name in names}
    assert registry.get_version("2").tags == tags


def test_a_version_that_passes_again_may_be_promoted(registry: ModelRegistry, data: Path) -> None:
    text = judge(registry, "2", data, LENIENT)
    assert text.startswith("product-search version 2, gate passed, challenger\n")
    assert registry.get_version("2").tags[REASONS].startswith("Gate passed: version 2 may be promoted")
    assert registry.find_by_alias("challenger") == "2"
    assert promote(registry, "2") == "version 2 is the champion; before, there was version 1"


def test_a_version_without_a_champion_is_compared_with_its_baselines(
    registry: ModelRegistry, data: Path, tmp_path: Path
) -> None:
    judge(registry, "2", data, OPEN)
    registry.client.delete_registered_model_alias(registry.name, "champion")
    assert judge(registry, "2", data, OPEN).startswith("product-search version 2, gate passed, challenger")
    version = registry.get_version("2")
    assert version.tags[COMPARED_WITH] == ""
    page = mlflow_runs.download_artifact(str(version.run_id), "decision.html", tmp_path / "run").read_text()
    assert "there is no champion yet" in page and "<bdi>bm25</bdi>" in page


def test_the_rule_online_waits_for_an_experiment_and_then_decides(
    registry: ModelRegistry, data: Path, tmp_path: Path
) -> None:
    """The alias is there before, so that the service can run it; promotion is not."""
    strict = LENIENT.model_copy(update={"online": OnlineParams(min_sessions=100), "promote": "auto"})
    text = judge(registry, "2", data, strict)
    assert text.startswith(
        "product-search version 2, gate undecided, challenger\n  There is no online result "
    )
    with pytest.raises(
        DataError, match=r"not promoted: Gate undecided: .* compare it with the champion on live"
    ):
        promote(registry, "2")

    def record(*days: Day) -> str:
        record_online_result(registry, "2", "1", OnlineResult("interleaving", days), 0.95, "<p>page</p>")
        return judge(registry, "2", data, strict)

    equal, good, bad = (Day("2026-11-01", *counts) for counts in ((30, 90, 30), (10, 90, 60), (90, 90, 10)))
    text = record(equal)
    assert text.startswith(
        "product-search version 2, gate undecided, challenger\n  Customers may or may not "
    )
    text = record(equal, bad)
    assert text.startswith("product-search version 2, gate failed, no alias\n  Customers do not prefer ")
    assert registry.find_by_alias("challenger") is None
    assert record(equal, good, good).startswith("product-search version 2, gate passed, champion\n")
    assert registry.find_by_alias("champion") == "2"

    version = registry.get_version("2")
    run = str(version.run_id)
    page, card = (
        mlflow_runs.download_artifact(run, name, tmp_path / "run").read_text()
        for name in ("decision.html", "model_card.md")
    )
    assert "What customers prefer" in page and 'id="online-' in page, "with the plot"
    assert (
        "✓ Customers prefer this version: preference +0.2" in card
        and "470 sessions. [Plot of all days]" in card
    )
    assert "What customers prefer" in str(version.description)


def test_the_rules_may_promote_automatically(registry: ModelRegistry, data: Path) -> None:
    judge(registry, "2", data, LENIENT.model_copy(update={"promote": "auto"}))
    assert registry.find_by_alias("champion") == "2"


def test_the_champion_keeps_its_verdict(registry: ModelRegistry, data: Path) -> None:
    strict = OPEN.model_copy(update={"floors": {"ndcg@10": 1.0}})
    assert judge(registry, "1", data, strict) == "version 1 is the champion; its verdict does not change"
    assert registry.get_version("1").tags[GATE] == "passed"


def test_other_data_are_refused(registry: ModelRegistry, data: Path, tmp_path: Path) -> None:
    other = shutil.copytree(data, tmp_path / "other")
    (other / "note.txt").write_text("changed")
    with pytest.raises(DataError, match="other: version 2 was evaluated on other data"):
        judge(registry, "2", other, OPEN)
    assert registry.get_version("2").tags[COMPARED_WITH] == ""


def test_versions_that_this_chain_did_not_register(client: "MlflowClient", tmp_path: Path) -> None:
    registry = ModelRegistry(client, OPEN.model_name)
    client.create_model_version(OPEN.model_name, source=tmp_path.as_uri())
    experiment = mlflow_store.ensure_experiment(client, mlflow_store.EXPERIMENT)
    run = client.create_run(experiment).info.run_id
    client.create_model_version(OPEN.model_name, f"runs:/{run}/model", run)
    client.copy_model_version(f"models:/{OPEN.model_name}/2", OPEN.model_name)
    messages = {
        "1": "version 1 of product-search was not registered by this chain, as it has no run; register it with",
        "2": f"its run {run} has no artifact evaluation/made_from.json, validation/report.json; register it with",
        "3": "version 3 of product-search is a copy of models:/product-search/2; judge that version",
        "9": "product-search has no version 9; there are 1, 2, 3",
    }
    for number, message in messages.items():
        with pytest.raises(DataError, match=message):
            judge(registry, number, tmp_path / "data", OPEN)


def test_the_command(registry: ModelRegistry, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({"register": {"min_gain": -0.5, "floors": {}}}))
    assert main(["promote", "2"]) == 1
    assert "judge it again: python -m registry judge 2" in capsys.readouterr().err
    assert main(["judge", "2", "--data", str(data)]) == 0
    assert "product-search version 2, gate " in capsys.readouterr().out
    assert main(["judge", "7", "--data", str(data)]) == 1
    error = capsys.readouterr().err
    assert error == "vitrine: product-search has no version 7; there are 1, 2\n"
