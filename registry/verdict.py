"""The verdict on a version: judges it, writes pages and tags, and sets its aliases."""

import json
from pathlib import Path

from vitrine_judge.report import render

from registry.comparison import Candidate, Comparison, compare_with_champion
from registry.decision_page import build_decision_page, build_review
from registry.mlflow_runs import log_files
from registry.mlflow_urls import artifact_link
from registry.model_card import render_description, render_model_card, summarize_verdict
from registry.model_registry import CHALLENGER, CHAMPION, COMPARED_WITH, GATE, REASONS, ModelRegistry
from registry.online_results import PAGE_FILE
from registry.params import RegisterParams

RESULT, CARD, DECISION = "registration.json", "model_card.md", "decision.html"
TAG_LENGTH = 5000  # MLflow's limit


def judge_version(
    registry: ModelRegistry,
    candidate: Candidate,
    champion_number: str | None,
    params: RegisterParams,
    folder: Path,
) -> Comparison:
    """Judge a version against the champion; write the verdict to files, to its run and to the version.

    Args:
        registry: Has both versions.
        candidate: Not the champion.
        champion_number: None for no champion.
        params: The gate's rules, and whether a version that passes becomes champion.
        folder: Empty; gets registration.json, model_card.md and decision.html.

    Raises:
        DataError: where the champion cannot be evaluated, or is no longer champion at the end.
    """
    comparison = compare_with_champion(registry, candidate, champion_number, params)
    card = _render_card(registry.name, comparison)
    (folder / CARD).write_text(card)
    page = build_decision_page(build_review(registry, comparison), comparison)
    (folder / DECISION).write_text(render(page))
    _write_summary(registry.name, comparison, folder)
    log_files(candidate.run, folder, [DECISION, CARD, RESULT])
    _write_tags(registry, comparison, card)
    # The aliases are last: a verdict that is not logged completely must not promote.
    registry.update_challenger(candidate.number, earned=CHALLENGER in comparison.aliases)
    if CHAMPION in comparison.aliases:
        registry.set_champion(candidate.number, "promoted by the chain", champion_number)
    return comparison


def describe_result(name: str, comparison: Comparison) -> str:
    """Version, verdict and aliases in one line, then a line per reason.

    Args:
        name: Of the registered model.
        comparison: Of `judge_version`.
    """
    decision, aliases = comparison.decision, ", ".join(comparison.aliases) or "no alias"
    first = f"{name} version {comparison.candidate.number}, gate {decision.verdict}, {aliases}"
    return "\n  ".join([first, *decision.reasons])


def _write_summary(name: str, comparison: Comparison, folder: Path) -> None:
    summary = {
        "model": name,
        "version": comparison.candidate.number,
        "run_id": comparison.candidate.run.info.run_id,
        "compared_with": comparison.champion_number,
        "scored_again": comparison.rescored,
        "aliases": comparison.aliases,
        **comparison.decision.to_dict(),
    }
    (folder / RESULT).write_text(json.dumps(summary, indent=2) + "\n")


def _render_card(name: str, comparison: Comparison) -> str:
    candidate, champion = comparison.candidate, comparison.champion
    tags, run = candidate.version.tags, candidate.run.info
    return render_model_card(
        name,
        candidate.number,
        comparison.decision,
        comparison.model.evidence,
        champion.evidence if champion else None,
        comparison.systems,
        candidate.provenance,
        candidate.validation,
        {tag: value for tag, value in tags.items() if tag not in (GATE, REASONS, COMPARED_WITH)},
        comparison.rules.primary,
        comparison.rescored,
        artifact_link(run.experiment_id, run.run_id, PAGE_FILE) if comparison.online else "",
    )


def _write_tags(registry: ModelRegistry, comparison: Comparison, card: str) -> None:
    """Write verdict and description on the version, and the description on its run."""
    candidate, decision, client = comparison.candidate, comparison.decision, registry.client
    sentence = summarize_verdict(decision, candidate.number)
    tags = {
        GATE: decision.verdict,
        REASONS: " ".join([sentence, *decision.reasons])[:TAG_LENGTH],
        COMPARED_WITH: comparison.champion_number or "",
    }
    for tag, value in tags.items():
        client.set_model_version_tag(registry.name, candidate.number, tag, value)
    run = candidate.run.info
    description = render_description(card, artifact_link(run.experiment_id, run.run_id, DECISION))
    client.update_model_version(registry.name, candidate.number, description)
    client.set_tag(run.run_id, "mlflow.note.content", description)
