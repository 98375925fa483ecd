"""When the champion's stored scores are used, and when it is scored or ranked again."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from chain_fixtures import SavedStore
from vitrine_judge.metrics import METRICS, JudgedResults, Scores, metric
from vitrine_judge.rankings import Run

from catalog.schema import DataError
from components.evaluate import evaluate
from components.params import EvaluateParams, RegisterParams
from components.register import register
from registry import champion_process, mlflow_store
from registry.champion_scoring import evaluate_champion, list_changes
from registry.judging import judge
from registry.mlflow_runs import download_artifact
from registry.model_registry import ModelRegistry
from scoring.systems import read_served

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

pytestmark = pytest.mark.slow

OPEN = RegisterParams(floors={"ndcg@10": 0.0}, budgets={})


@pytest.fixture(scope="module")
def saved_store(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    local_store: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> SavedStore:
    """Version 1 is the champion, whatever the gate said."""
    root = tmp_path_factory.mktemp("store")
    with local_store(root):
        register(data, report, model, index, evaluation, OPEN, tmp_path_factory.mktemp("out") / "register")
        ModelRegistry(mlflow_store.connect(), OPEN.model_name).set_champion("1", "promoted", None)
    return SavedStore(root)


@pytest.fixture
def champion(registry: ModelRegistry) -> "ModelVersion":
    return registry.get_version("1")


@pytest.fixture
def provenance(evaluation: Path) -> dict[str, Any]:
    return json.loads((evaluation / "made_from.json").read_text())


@pytest.fixture
def edit_ndcg(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Replace NDCG by half of it, as an edit of its source would."""

    def halve(results: JudgedResults, k: int | None) -> np.ndarray:
        return original(results, k) / 2

    original = METRICS["ndcg"].function

    def edit() -> None:
        monkeypatch.setitem(METRICS, "ndcg", METRICS["ndcg"])
        metric("ndcg")(halve)

    return edit


@pytest.fixture
def never_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("ranked again")

    monkeypatch.setattr(champion_process, "run_in_own_environment", refuse)


@pytest.mark.usefixtures("never_rank")
def test_nothing_changed(
    champion: "ModelVersion", data: Path, provenance: dict[str, Any], evaluation: Path
) -> None:
    model = evaluate_champion(champion, data, provenance, "ndcg@10")
    assert model.rescored == ""
    served = read_served(evaluation)
    stored = Scores.from_parquet(evaluation / "scores" / f"{served}.parquet")
    assert model.evidence.scores.means() == stored.means()
    assert model.run.to_dict() == Run.from_parquet(evaluation / "runs" / f"{served}.parquet").to_dict()


@pytest.mark.usefixtures("never_rank")
def test_a_change_of_judging_code_changes_both_sides(
    registry: ModelRegistry,
    data: Path,
    features: Path,
    report: Path,
    model: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    edit_ndcg: Callable[[], None],
    tmp_path: Path,
) -> None:
    before = json.loads((evaluation / "summary.json").read_text())["ndcg@10"]
    edit_ndcg()
    evaluate(data, features, model, index, EvaluateParams(), tmp_path / "evaluation")
    register(data, report, twin, index, tmp_path / "evaluation", OPEN, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "registration.json").read_text())
    assert result["scored_again"] == (
        "The champion, version 1, was evaluated by another version of the judge: "
        f"ndcg@10 {before:.4f}. It was scored again from its stored ranking: ndcg@10 {before / 2:.4f}."
    )
    (gain,) = (finding for finding in result["findings"] if finding["rule"] == "gain ndcg@10")
    assert gain["value"] == 0  # both have half of the old number
    assert result["scored_again"] in (tmp_path / "out" / "decision.html").read_text()


@pytest.mark.usefixtures("never_rank")
def test_a_candidate_of_another_judge_is_refused_by_the_stage_and_scored_again_by_the_command(
    registry: ModelRegistry,
    data: Path,
    report: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    edit_ndcg: Callable[[], None],
    tmp_path: Path,
) -> None:
    register(data, report, twin, index, evaluation, OPEN, tmp_path / "second")
    before = json.loads((evaluation / "summary.json").read_text())["ndcg@10"]
    edit_ndcg()
    floor = OPEN.model_copy(update={"floors": {"ndcg@10": 0.75 * before}})
    text = judge(registry, "2", data, floor)
    run_id = str(registry.get_version("2").run_id)
    result = json.loads(download_artifact(run_id, "registration.json", tmp_path / "run").read_text())
    (finding,) = (finding for finding in result["findings"] if finding["rule"] == "floor ndcg@10")
    assert (finding["verdict"], finding["value"]) == ("failed", pytest.approx(before / 2)), text
    assert "by another version of the judge" in result["scored_again"]
    assert f"ndcg@10 {before / 2:.4f}." in result["scored_again"]


def test_a_stale_evaluation_is_not_compared(
    champion: "ModelVersion", data: Path, provenance: dict[str, Any]
) -> None:
    stale = provenance | {"judge": "0" * 32}
    with pytest.raises(DataError, match=r"was scored by another version of the judge .*: dvc repro"):
        evaluate_champion(champion, data, stale, "ndcg@10")


@pytest.mark.usefixtures("never_rank")
def test_other_metrics_need_no_new_ranking(
    champion: "ModelVersion", data: Path, provenance: dict[str, Any]
) -> None:
    provenance["params"]["evaluate"] |= {"metrics": ["ndcg@10", "mrr@10", "map@10"], "relevant": 1}
    model = evaluate_champion(champion, data, provenance, "ndcg@10")
    assert list(model.evidence.scores.values) == ["ndcg@10", "mrr@10", "map@10"]
    assert "was evaluated with other settings: " in model.rescored


@pytest.mark.usefixtures("warm_start")
def test_another_depth_is_ranked_again_as_it_is_served(
    champion: "ModelVersion", data: Path, provenance: dict[str, Any], evaluation: Path
) -> None:
    """By the hybrid, in a process of its own; with 60 products, a larger depth changes no ranking."""
    assert read_served(evaluation) == "hybrid"
    provenance["params"]["evaluate"]["depth"] += 1
    model = evaluate_champion(champion, data, provenance, "ndcg@10")
    stored = Scores.from_parquet(evaluation / "scores" / "hybrid.parquet")
    assert model.evidence.scores.means() == pytest.approx(stored.means())
    assert re.search("with other settings: .* It was ranked and scored again on this data in", model.rescored)


def test_all_that_changed_is_named(provenance: dict[str, Any]) -> None:
    params = {"evaluate": provenance["params"]["evaluate"] | {"depth": 7}}
    old = {"data": "x", "params": params}  # registered before fingerprints of the judge were stored
    assert list(list_changes(old, provenance)) == [
        "on other data",
        "with other settings",
        "by another version of the judge",
    ]
    assert list(list_changes(provenance, provenance)) == []


def test_runs_that_the_gate_may_need_are_logged(champion: "ModelVersion", tmp_path: Path) -> None:
    folder = download_artifact(str(champion.run_id), "evaluation", tmp_path / "logged")
    runs = {path.stem for path in (folder / "runs").glob("*.parquet")}
    assert runs == {"bm25", "fused", "hybrid", "image-only", "text-only", "video-only"}
    assert pq.read_table(folder / "runs" / "bm25.parquet").num_rows
