"""The content of decision.html: what a person needs to decide whether to promote a version."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vitrine_judge.comparison import compare_with_others
from vitrine_judge.online import OnlineRule
from vitrine_judge.rankings import Run
from vitrine_judge.report import Report
from vitrine_judge.review import Review, Version, compare_costs

from registry.champion_scoring import read_configuration, read_evaluation_judgements
from registry.comparison import Comparison
from registry.mlflow_urls import version_url
from registry.model_registry import ModelRegistry
from scoring.report_content import build_report
from scoring.systems import choose_rivals

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def build_review(registry: ModelRegistry, comparison: Comparison) -> Review:
    """Build the first screen of the page.

    Args:
        registry: Has both versions.
        comparison: Of candidate and champion.
    """
    candidate, champion = comparison.candidate, comparison.champion
    champion_counts = read_counts(registry.client, comparison.champion_version)
    return Review(
        model=registry.name,
        candidate=Version(candidate.number, format_moment(candidate.version.creation_timestamp)),
        champion=read_champion_version(registry, comparison.champion_version),
        decision=comparison.decision,
        aliases=comparison.aliases,
        costs=compare_costs(comparison.model.evidence.facts, champion.evidence.facts if champion else {}),
        data=list(describe_data(candidate.validation, champion_counts)),
        link=version_url(registry.name, candidate.number),
        online=(comparison.online, comparison.rules.online or OnlineRule()) if comparison.online else None,
    )


def build_decision_page(review: Review, comparison: Comparison) -> Report:
    """Build the page: the candidate compared with the champion and its baselines.

    Args:
        review: The first screen.
        comparison: Of candidate and champion.
    """
    data, rules, systems = comparison.candidate.data, comparison.rules, comparison.systems
    subject = f"version {comparison.candidate.number}"
    served = next(iter(systems))
    scores = {subject: systems[served]}
    runs = {subject: comparison.model.run}
    rivals = choose_rivals(systems, rules.primary)
    if comparison.champion:
        rival = f"champion (version {comparison.champion_number})"
        scores[rival], runs[rival] = comparison.champion.evidence.scores, comparison.champion.run
        rivals.insert(0, rival)
    else:
        folder = comparison.candidate.evaluation / "runs"
        # MLflow has the runs of the rivals by the primary metric at registration; it may have changed since
        rivals = [rival for rival in rivals if (folder / f"{rival}.parquet").exists()]
        runs[rivals[0]] = Run.from_parquet(folder / f"{rivals[0]}.parquet")
    scores |= {name: baseline for name, baseline in systems.items() if name != served}
    provenance = comparison.candidate.provenance
    clusters = comparison.model.evidence.clusters
    tests = compare_with_others(scores, subject, rules.primary, clusters)
    judge, judgements = next(iter(read_evaluation_judgements(data, provenance).items()))
    qrels, segments, *_ = judgements
    groups = {"segment": segments}
    page = build_report(
        review.headline, data, subject, rivals, runs, scores, tests, qrels, groups, rules.primary
    )
    return replace(
        page,
        note=comparison.rescored,
        judged_by=judge,
        review=review,
        configuration=read_configuration(provenance).describe(),
        clusters=clusters,
    )


def read_champion_version(registry: ModelRegistry, champion: "ModelVersion | None") -> Version | None:
    """The champion, with the time when it became champion."""
    if champion is None:
        return None
    number = str(champion.version)
    times = [move.at for move in registry.history.list_moves() if move.new == number]
    return Version(number, format_moment(times[-1] if times else champion.creation_timestamp))


def format_moment(moment: str | int) -> str:
    """A moment in UTC as readable text.

    Args:
        moment: ISO 8601, or milliseconds since 1970.
    """
    instant = (
        datetime.fromisoformat(moment)
        if isinstance(moment, str)
        else datetime.fromtimestamp(moment / 1000, UTC)
    )
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def read_counts(client: "MlflowClient", version: "ModelVersion | None") -> dict[str, dict[str, int]]:
    """Rows by table and queries by split of the data that a version was registered with; empty where unknown."""
    inputs = client.get_run(version.run_id).inputs if version and version.run_id else None
    profiles = (
        [entry.dataset.profile for entry in inputs.dataset_inputs if entry.dataset.profile] if inputs else []
    )
    return json.loads(profiles[0]) if profiles else {}


def describe_data(
    validation: Mapping[str, Any], champion_counts: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    """What changed in the data since the champion, in sentences; the first is the shortest.

    Args:
        validation: The report of `validate`.
        champion_counts: Of the champion's data, as that report has them; empty without a champion.
    """
    counts = validation["counts"]["tables"]
    if not champion_counts:
        yield "nothing to compare with"
    else:
        changes = {table: count - champion_counts["tables"].get(table, 0) for table, count in counts.items()}
        changed = [f"{change:+,} {table}" for table, change in changes.items() if change]
        yield ", ".join(changed).replace("-", "−") or "the same numbers of rows"
    yield "Now: " + ", ".join(f"{count:,} {table}" for table, count in counts.items()) + "."
    if champion := validation["champion"]:
        yield (
            f"Drift from the data of version {champion['version']}: largest population stability index "
            f"{champion['drift']:.3f} (below 0.1 little, above 0.25 much)."
        )
    yield f"Validation: {validation['warnings']} warning{'' if validation['warnings'] == 1 else 's'}."
