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
from registry.champion_scoring import EvaluatedModel, read_configuration, read_evaluation_judgements
from scoring.judgements import Judgements


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
    judgements = read_holdout_judgements(data, provenance) if decision.passed else None
    if judgements:
        ours, theirs = (score_holdout(model.run, judgements, provenance) for model in (candidate, champion))
        uses = number_look(queries, [entry.queries for entry in earlier if entry.holdout])
        decision = confirm(decision, ours, theirs, rules, uses)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    history.add_look(
        Look(at, current_user(), numbers[0], weights, numbers[1], queries, decision.verdict, bool(judgements))
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


def read_holdout_judgements(data: Path, provenance: Mapping[str, Any]) -> Judgements | None:
    """The judgements of the queries that are held out, by the judge whose other judgements decide; None where none is.

    Args:
        data: The data set.
        provenance: Of the candidate's evaluation.
    """
    judge = next(iter(read_evaluation_judgements(data, provenance)))
    return read_evaluation_judgements(data, provenance, held=True).get(judge)


def score_holdout(run: Run, judgements: Judgements, provenance: Mapping[str, Any]) -> Evidence:
    """Score a run on the queries that are held out.

    Args:
        run: Of all test queries.
        judgements: Of these queries.
        provenance: Of the candidate's evaluation.
    """
    scores = judgements.score(run, read_configuration(provenance))
    return Evidence(scores, judgements.segments, {}, clusters=judgements.clusters)
