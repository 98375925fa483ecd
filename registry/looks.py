"""Looks at the evidence: each comparison with the champion uses the test queries once more, and is counted.

The history of the model holds every look. The gate's level is spent over looks at the same queries
(`vitrine_judge.looks`). A candidate that passes on the test queries is judged on the holdout too. No report shows it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vitrine_judge.decision import Decision
from vitrine_judge.gate import Evidence, Rules, confirm, decide
from vitrine_judge.looks import number_look, sketch_queries
from vitrine_judge.metrics import Scores
from vitrine_judge.rankings import Run

from registry.champion_history import ChampionHistory, Look, current_user
from registry.champion_scoring import EvaluatedModel, read_configuration
from scoring.judgements import read_judgements_by_judge


def decide_and_record(
    history: ChampionHistory,
    candidate: EvaluatedModel,
    champion: EvaluatedModel,
    numbers: tuple[str, str],
    weights: str,
    rules: Rules,
    baselines: Mapping[str, Scores],
    data: Path,
    provenance: Mapping[str, Any],
) -> Decision:
    """Apply the gate to a candidate and the champion, on the test queries and the holdout, and record the look.

    Args:
        history: Of the model.
        candidate, champion: Evaluated on the same queries.
        numbers: Their versions.
        weights: The fingerprint of the candidate's weights. Equal weights are the same candidate: judged again, it gets
            the look that it had.
        rules: Of the gate.
        baselines: System → scores of the candidate's evaluation.
        data: The data set.
        provenance: Of the candidate's evaluation.
    """
    queries = sketch_queries(candidate.evidence.scores.query_ids.tolist())
    earlier = select_earlier(history.list_looks(), numbers[1], weights)
    look = number_look(queries, [entry.queries for entry in earlier])
    decision = decide(candidate.evidence, champion.evidence, rules, baselines, look)
    held = (
        [score_holdout(model.run, data, provenance) for model in (candidate, champion)]
        if decision.passed
        else []
    )
    used_holdout = bool(held and held[0] and held[1])
    if held and held[0] and held[1]:
        uses = number_look(queries, [entry.queries for entry in earlier if entry.holdout])
        decision = confirm(decision, held[0], held[1], rules, uses)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    verdict = decision.verdict
    history.add_look(
        Look(at, current_user(), numbers[0], weights, numbers[1], queries, verdict, used_holdout)
    )
    return decision


def select_earlier(looks: Sequence[Look], champion: str, weights: str) -> list[Look]:
    """The looks of other candidates at the same champion, before the first one of these weights.

    Args:
        looks: Oldest first.
        champion: Its version.
        weights: Of the candidate.
    """
    same_champion = [look for look in looks if look.champion == champion]
    first = next((index for index, look in enumerate(same_champion) if look.weights == weights), len(looks))
    return same_champion[:first]


def score_holdout(run: Run, data: Path, provenance: Mapping[str, Any]) -> Evidence | None:
    """Score a run on the queries that are held out; None where none is.

    Args:
        run: Of all test queries.
        data: The data set.
        provenance: Of the candidate's evaluation.
    """
    share = provenance["params"]["evaluate"]["holdout"]
    judge = next(iter(read_judgements_by_judge(data, "test", share)))
    judgements = read_judgements_by_judge(data, "test", share, held=True).get(judge)
    if judgements is None:
        return None
    scores = read_configuration(provenance).score(run, judgements.qrels)
    return Evidence(scores, judgements.segments, {}, clusters=judgements.clusters)
