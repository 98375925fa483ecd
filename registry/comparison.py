"""Compares a candidate with the champion on the same data, and applies the gate."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from vitrine_judge.decision import Decision
from vitrine_judge.gate import Rules, decide
from vitrine_judge.metrics import Scores
from vitrine_judge.online import OnlineResult, OnlineRule, confirm_online
from vitrine_judge.people import Answers, mean_ratings
from vitrine_judge.segments import Segment

from registry.champion_scoring import EvaluatedModel, evaluate_champion, load_evaluation
from registry.looks import decide_and_record
from registry.model_registry import CHALLENGER, CHAMPION, ModelRegistry
from registry.online_results import read_online_result
from registry.params import RegisterParams
from scoring.report_content import read_survey
from scoring.systems import CANDIDATE, HYBRID, read_served

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

BEST_SINGLE_MODALITY = "best_single_modality"  # in place of a system in `RegisterParams.baselines`
SINGLE_MODALITY = "-only"  # end of the names of systems that read one modality
WEIGHTS = "vitrine.weights"  # tag of a version: fingerprint of its weights


@dataclass(frozen=True, eq=False)
class Candidate:
    """A version to judge, with the output of the stages before `register`.

    Attributes:
        version: The model version.
        run: Its MLflow run.
        data: The data set.
        evaluation: Folder that `evaluate` wrote.
        provenance: How the evaluation was made: its made_from.json.
        validation: The report of `validate`: report.json.
    """

    version: "ModelVersion"
    run: "MlflowRun"
    data: Path
    evaluation: Path
    provenance: dict[str, Any]
    validation: Mapping[str, Any]

    @property
    def number(self) -> str:
        """The version's number."""
        return str(self.version.version)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The gate's decision on a candidate, and what it is based on.

    Attributes:
        candidate: The version that was judged.
        model: Its scores and rankings.
        champion_version: None for no champion.
        champion: The champion's scores and rankings; None for no champion.
        systems: Scores of the candidate and its baselines, by system.
        rules: Of the gate.
        decision: Of the gate.
        aliases: Those that the candidate earned.
        online: The result of an experiment on live traffic against this champion; None where there is none.
    """

    candidate: Candidate
    model: EvaluatedModel
    champion_version: "ModelVersion | None"
    champion: EvaluatedModel | None
    systems: dict[str, Scores]
    rules: Rules
    decision: Decision
    aliases: list[str]
    online: OnlineResult | None = None

    @property
    def champion_number(self) -> str | None:
        """The champion's number; None for no champion."""
        return str(self.champion_version.version) if self.champion_version else None

    @property
    def rescored(self) -> str:
        """A sentence on how the champion was rescored; empty if it was not."""
        return self.champion.rescored if self.champion else ""


def compare_with_champion(
    registry: ModelRegistry, candidate: Candidate, champion_number: str | None, params: RegisterParams
) -> Comparison:
    """Evaluate candidate and champion on the candidate's data, and apply the gate.

    Raises:
        DataError: where the champion was not registered by this chain, or its process fails.
    """
    systems = read_systems(candidate.evaluation)
    rules = make_rules(params, systems)
    model = _evaluate_candidate(candidate, _find_equal_versions(registry, candidate.version))
    champion_version = registry.get_version(champion_number) if champion_number else None
    champion = (
        evaluate_champion(champion_version, candidate.data, candidate.provenance, rules.primary)
        if champion_version
        else None
    )
    decision = _apply_gate(registry, candidate, champion_number, model, champion, rules, systems)
    online = None
    if champion_number:
        online = read_online_result(candidate.version, champion_number)
        decision = confirm_online(decision, online, rules.online)
    return Comparison(
        candidate=candidate,
        model=model,
        champion_version=champion_version,
        champion=champion,
        systems=systems,
        rules=rules,
        decision=decision,
        aliases=_list_earned_aliases(decision, params),
        online=online,
    )


def make_rules(params: RegisterParams, systems: Mapping[str, Scores]) -> Rules:
    """The gate's rules in params.yaml.

    Args:
        params: Their section.
        systems: The served system, which is first, and its baselines.
    """
    values = params.model_dump(include={rule.name for rule in fields(Rules)})
    online = OnlineRule(**params.online.model_dump()) if params.online else None
    rules = Rules(**values | {"online": online})
    return replace(rules, baselines=_name_baselines(rules.baselines, systems, rules.primary))


def _name_baselines(
    margins: Mapping[str, float], systems: Mapping[str, Scores], primary: str
) -> dict[str, float]:
    """The margin of each baseline: the best single modality by its name; no hybrid if that is what is served."""
    served, *others = systems
    margins = dict(margins)
    single = [system for system in others if system.endswith(SINGLE_MODALITY)]
    if (margin := margins.pop(BEST_SINGLE_MODALITY, None)) is not None and single:
        margins[max(single, key=lambda system: systems[system].means()[primary])] = margin
    if served == HYBRID or HYBRID not in systems or _are_equal(systems[HYBRID], systems[served]):
        margins.pop(HYBRID, None)
    return margins


def _are_equal(first: Scores, second: Scores) -> bool:
    return all(np.array_equal(values, second.values[name]) for name, values in first.values.items())


def _apply_gate(
    registry: ModelRegistry,
    candidate: Candidate,
    champion_number: str | None,
    model: EvaluatedModel,
    champion: EvaluatedModel | None,
    rules: Rules,
    systems: Mapping[str, Scores],
) -> Decision:
    """The gate's decision; a comparison with a champion is recorded."""
    _, *others = systems
    baselines = {
        name: systems[name] for name in others if name in rules.baselines or name.endswith(SINGLE_MODALITY)
    }
    if champion is None or champion_number is None:
        return decide(model.evidence, None, rules, baselines)
    weights = candidate.version.tags.get(WEIGHTS, candidate.number)
    return decide_and_record(
        registry.history,
        model,
        champion,
        (candidate.number, champion_number),
        weights,
        rules,
        baselines,
        candidate.data,
        candidate.provenance,
    )


def read_systems(evaluation: Path) -> dict[str, Scores]:
    """Scores of the served system, which is first, and its baselines; by system."""
    served = read_served(evaluation)
    files = sorted((evaluation / "scores").glob("*.parquet"), key=lambda file: (file.stem != served, file))
    return {file.stem: Scores.from_parquet(file) for file in files}


def _find_equal_versions(registry: ModelRegistry, version: "ModelVersion") -> set[str]:
    """Numbers of the versions that have the same weights."""
    weights = version.tags.get(WEIGHTS)
    equal = [other for other in registry.list_versions() if weights and other.tags.get(WEIGHTS) == weights]
    return {str(other.version) for other in (version, *equal)}


def _evaluate_candidate(candidate: Candidate, equal_versions: set[str]) -> EvaluatedModel:
    """The candidate's evaluation with the other facts that the gate reads: warnings and the survey's rating."""
    model = load_evaluation(candidate.evaluation)
    facts = {**model.evidence.facts, "validation_warnings": candidate.validation["warnings"]}
    rating = _read_rating(candidate.data, equal_versions)
    return replace(model, evidence=replace(model.evidence, facts=facts, rating=rating))


def _read_rating(data: Path, versions: set[str]) -> Segment | None:
    """The mean rating of the given versions in the survey; None where it rated none of them."""
    survey = read_survey(data)
    if survey is None or not (rated := np.isin(survey.models, list(versions))).any():
        return None
    answers = Answers(survey.query_ids[rated], np.full(rated.sum(), CANDIDATE), survey.ratings[rated])
    return next(mean_ratings(answers, {})).segment


def _list_earned_aliases(decision: Decision, params: RegisterParams) -> list[str]:
    if decision.awaits_experiment:
        return [CHALLENGER]  # by which the service finds it
    if not decision.passed:
        return []
    return [CHAMPION if params.promote == "auto" else CHALLENGER]
