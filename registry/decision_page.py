"""The content of decision.html: what a person needs to decide on a version, beside the champion and the baselines."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.gate import Decision, Rules
from eval.metrics import Scores
from eval.rankings import Run
from eval.report import Report
from eval.review import Review, Version, costs
from registry import tracking
from registry.champion_scoring import Judged
from registry.model_registry import Registry
from scoring.report_content import build_report, compare_systems
from scoring.systems import CANDIDATE, by_judges, choose_rivals

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def build_review(
    registry: Registry,
    version: "ModelVersion",
    decision: Decision,
    aliases: Sequence[str],
    candidate: Judged,
    champion: "ModelVersion | None",
    judged_champion: Judged | None,
    validation: Mapping[str, Any],
) -> Review:
    """The first screen of the page.

    Args:
        registry: Has both versions.
        version, candidate: The candidate, and how it was judged.
        decision: Of the gate.
        aliases: What the candidate earned.
        champion, judged_champion: The champion, and how it was judged; None for no champion.
        validation: The report of `validate`.
    """
    return Review(
        model=registry.name,
        candidate=Version(str(version.version), format_moment(version.creation_timestamp)),
        champion=champion_version(registry, champion),
        decision=decision,
        aliases=aliases,
        costs=costs(candidate.evidence.facts, judged_champion.evidence.facts if judged_champion else {}),
        data=list(describe_data(validation, read_counts(registry.client, champion))),
        link=tracking.version_url(registry.name, str(version.version)),
    )


def build_decision_page(
    review: Review,
    candidate: Judged,
    champion: Judged | None,
    systems: dict[str, Scores],
    data: Path,
    evaluation: Path,
    rules: Rules,
) -> Report:
    """The candidate beside the champion and its own baselines; without a champion beside the baselines alone.

    Args:
        review: The first screen.
        candidate: With its run.
        champion: Judged on the same queries; None for no champion.
        systems: Scores of the candidate and its baselines.
        data: The data set.
        evaluation: What `evaluate` wrote about the candidate.
        rules: Of the gate.
    """
    subject = f"version {review.candidate.number}"
    scores = {subject: systems[CANDIDATE]}
    runs = {subject: candidate.run}
    rivals = choose_rivals(systems, rules.primary)
    if champion and review.champion:
        rival = f"champion (version {review.champion.number})"
        scores[rival], runs[rival] = champion.evidence.scores, champion.run
        rivals.insert(0, rival)
    else:
        runs[rivals[0]] = Run.from_parquet(evaluation / "runs" / f"{rivals[0]}.parquet")
    scores |= {name: other for name, other in systems.items() if name != CANDIDATE}
    tests = compare_systems(scores, subject, rules.primary, rules.resamples, rules.seed)
    by, (qrels, segments) = next(iter(by_judges(data, "test").items()))
    page = build_report(
        review.headline,
        data,
        subject,
        rivals,
        runs,
        scores,
        tests,
        qrels,
        {"segment": segments},
        rules.primary,
    )
    return replace(page, note=champion.again if champion else "", judged_by=by, review=review)


def read_systems(evaluation: Path, candidate: Judged) -> dict[str, Scores]:
    """Scores of the candidate and its baselines, by system."""
    files = sorted((evaluation / "scores").glob("*.parquet"))
    others = {file.stem: Scores.from_parquet(file) for file in files if file.stem != CANDIDATE}
    return {CANDIDATE: candidate.evidence.scores} | others


def champion_version(registry: Registry, champion: "ModelVersion | None") -> Version | None:
    """The champion, and since when it is that."""
    if champion is None:
        return None
    number = str(champion.version)
    moves = [move.at for move in registry.moves() if move.new == number]
    return Version(number, format_moment(moves[-1] if moves else champion.creation_timestamp))


def format_moment(moment: str | int) -> str:
    """A moment in UTC as a person reads it; ISO 8601, or milliseconds since 1970."""
    instant = (
        datetime.fromisoformat(moment)
        if isinstance(moment, str)
        else datetime.fromtimestamp(moment / 1000, UTC)
    )
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def read_counts(client: "MlflowClient", version: "ModelVersion | None") -> dict[str, dict[str, int]]:
    """Rows by table and queries by split of the data that a version was registered with; nothing where unknown."""
    inputs = client.get_run(version.run_id).inputs if version and version.run_id else None
    profiles = (
        [entry.dataset.profile for entry in inputs.dataset_inputs if entry.dataset.profile] if inputs else []
    )
    return json.loads(profiles[0]) if profiles else {}


def describe_data(validation: Mapping[str, Any], before: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What has changed in the data since the champion, in sentences; the first is the shortest.

    Args:
        validation: The report of `validate`.
        before: The champion's counts, as that report has them; empty where there is no champion.
    """
    now = validation["counts"]["tables"]
    if not before:
        yield "nothing to compare with"
    else:
        changes = {table: count - before["tables"].get(table, 0) for table, count in now.items()}
        changed = [f"{change:+,} {table}" for table, change in changes.items() if change]
        yield ", ".join(changed).replace("-", "−") or "the same numbers of rows"
    yield "Now: " + ", ".join(f"{count:,} {table}" for table, count in now.items()) + "."
    if champion := validation["champion"]:
        yield (
            f"Drift from the data of version {champion['version']}: largest population stability index "
            f"{champion['drift']:.3f} (below 0.1 little, above 0.25 much)."
        )
    yield f"Validation: {validation['warnings']} warning{'' if validation['warnings'] == 1 else 's'}."
