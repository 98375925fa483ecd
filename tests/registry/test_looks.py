"""Looks at the evidence are counted, and a candidate that passes is judged on the holdout too."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from vitrine_judge.decision import Decision, Finding
from vitrine_judge.gate import Evidence, Rules
from vitrine_judge.rankings import Run

from components.params import EvaluateParams
from registry.champion_history import ChampionHistory, Look
from registry.champion_scoring import EvaluatedModel
from registry.looks import decide_and_record, read_holdout_judgements, score_holdout, select_earlier
from scoring.judgements import read_judgements

if TYPE_CHECKING:
    from mlflow import MlflowClient

RULES = Rules("ndcg@10", min_queries=2)
LENIENT = Rules("ndcg@10", min_queries=2, min_gain=-0.9)
HOLDOUT = 0.4


@pytest.fixture
def provenance() -> dict[str, Any]:
    return {"params": {"evaluate": EvaluateParams(holdout=HOLDOUT).model_dump(mode="json")}}


@pytest.fixture
def history(client: "MlflowClient") -> ChampionHistory:
    return ChampionHistory(client, "product-search")


def rank(data: Path, good_first: bool) -> EvaluatedModel:
    """A model that ranks the judged products of all test queries by grade, or the other way round."""
    grades = read_judgements(data, "test").qrels.to_dict()
    sign = 1 if good_first else -1
    run = Run.from_dict(
        {
            query: {product: sign * grade for product, grade in products.items()}
            for query, products in grades.items()
        }
    )
    qrels, segments, clusters, _ = read_judgements(data, "test", HOLDOUT)
    scores = EvaluateParams().configuration.score(run, qrels)
    return EvaluatedModel(Evidence(scores, segments, {}, clusters=clusters), run)


def compare(
    history: ChampionHistory,
    data: Path,
    provenance: dict[str, Any],
    version: str,
    rules: Rules,
    better: bool = True,
) -> Decision:
    numbers, weights = (version, "1"), f"weights {version}"
    models = rank(data, better), rank(data, False)
    return decide_and_record(history, *models, numbers, weights, rules, {}, data, provenance)


def finding(decision: Decision, rule: str) -> Finding:
    (match,) = [item for item in decision.findings if item.rule == rule]
    return match


def test_each_candidate_is_a_look_and_the_same_one_is_not(
    history: ChampionHistory, data: Path, provenance: dict[str, Any]
) -> None:
    texts = [
        finding(compare(history, data, provenance, version, RULES, better=False), "gain ndcg@10").text
        for version in ("2", "3", "2", "4")
    ]
    assert [text.partition("This is look ")[2].split()[0] for text in texts] == ["1", "2", "1", "3"]
    looks = history.list_looks()
    assert sorted(look.version for look in looks) == ["2", "3", "4"]
    assert {(look.champion, look.verdict, look.holdout) for look in looks} == {("1", "undecided", False)}


def test_a_candidate_that_passes_is_judged_on_the_holdout(
    history: ChampionHistory, data: Path, provenance: dict[str, Any]
) -> None:
    decision = compare(history, data, provenance, "2", LENIENT)
    held = finding(decision, "holdout")
    assert held.verdict == "passed" and held.value is not None and held.value > 0
    assert "look 1 of 10 at the holdout" in held.text
    assert [look.holdout for look in history.list_looks()] == [True]
    assert "look 2 of 10" in finding(compare(history, data, provenance, "3", LENIENT), "holdout").text
    failed = compare(history, data, provenance, "4", RULES, better=False)
    assert not any(item.rule == "holdout" for item in failed.findings)


def test_the_holdout_is_of_other_queries(data: Path, provenance: dict[str, Any]) -> None:
    model = rank(data, True)
    judgements = read_holdout_judgements(data, provenance)
    assert judgements is not None
    held = score_holdout(model.run, judgements, provenance)
    tested = set(model.evidence.scores.query_ids.tolist())
    assert tested.isdisjoint(held.scores.query_ids.tolist())
    assert tested | set(held.scores.query_ids.tolist()) == set(read_judgements(data, "test").qrels.query_ids)
    provenance["params"]["evaluate"]["holdout"] = 0.0
    assert read_holdout_judgements(data, provenance) is None


def test_looks_at_another_champion_and_later_ones_do_not_count() -> None:
    first = Look("2026-01-01", "ada", "2", "a", "1", ["00"], "failed", False)
    others = [replace(first, weights="b"), replace(first, champion="9"), replace(first, weights="c")]
    assert select_earlier([first, *others], "1", "c") == [first, others[0]]
    assert select_earlier([first, *others], "1", "a") == []
    assert select_earlier([first, *others], "1", "new") == [first, others[0], others[2]]
    assert select_earlier([], "1", "a") == []


def test_a_look_has_one_place_in_the_history(history: ChampionHistory) -> None:
    look = Look("2026-01-01T00:00:00+00:00", "ada", "2", "a", "1", ["00", "ff"], "failed", False)
    history.add_look(look)
    history.add_look(replace(look, at="2026-02-02T00:00:00+00:00", by="bob"))
    assert history.list_looks() == [look]
    history.add_look(replace(look, holdout=True))
    assert len(history.list_looks()) == 2


def test_all_queries_have_the_arrays_of_their_judgements(data: Path) -> None:
    evidence = rank(data, True).evidence
    assert (
        len(evidence.segments) == len(evidence.scores.query_ids) == len(np.unique(evidence.scores.query_ids))
    )
