"""register: MLflow run and model version, and the gate's verdict on it. The only stage that changes the registry."""

import csv
import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from components.params import RegisterParams
from eval.gate import Decision, Rules, decide
from eval.metrics import Scores
from eval.people import Answers, ratings
from eval.report import render
from eval.segments import Segment
from fusion.search.catalogue_search import PRODUCTS
from registry import tracking
from registry.champion_scoring import Judged, of_champion, stored
from registry.decision_page import build_decision_page, build_review, read_systems
from registry.model_card import card, description, verdict_sentence
from registry.model_logging import registered
from registry.model_registry import CHALLENGER, CHAMPION, COMPARED_WITH, GATE, REASONS, Registry
from scoring.report_content import read_answers
from scoring.systems import CANDIDATE
from validation.champion_comparison import PROFILE
from validation.drift import with_vectors

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient
    from mlflow.entities.model_registry import ModelVersion

EVIDENCE = (
    "made_from.json", "metrics.json", "segments.csv", "comparisons.json", "facts.json", "queries.parquet", "scores",
    f"runs/{CANDIDATE}.parquet", "report.html",
)  # fmt: skip
RESULT, CARD, DECISION = "registration.json", "model_card.md", "decision.html"
SYSTEMS = "systems.json"  # artifact: a table of every system's metrics
WEIGHTS = "vitrine.weights"  # tag of a version: what survey answers about an equal one are found by
TAG_LENGTH = 5000  # MLflow's limit


def register(
    data: Path, report: Path, model: Path, evaluation: Path, params: RegisterParams, registration: Path
) -> None:
    """Register the candidate, decide whether it may be promoted, and write that on its version.

    Calling it again for the same model and evaluation finds the same run and version.

    Args:
        data: The data set, on which a champion of other data is judged again.
        report: What `validate` wrote about it.
        model: What `train` wrote.
        evaluation: What `evaluate` wrote about it.
        params: Who may be promoted.
        registration: Folder to write: registration.json (run, version, verdict, findings, aliases), model_card.md, and
            decision.html: verdict and reasons, the candidate beside the champion and the baselines, what to do next.

    Raises:
        DataError: where MLflow cannot be reached, the champion cannot be judged again, or another version became
            champion in the meantime.
    """
    tracking.patiently(lambda: _register(data, report, model, evaluation, params, registration))


def _register(
    data: Path, report: Path, model: Path, evaluation: Path, params: RegisterParams, registration: Path
) -> None:
    source = json.loads((evaluation / "made_from.json").read_text())
    validation = json.loads((report / "report.json").read_text())
    lineage = tracking.lineage(source["data"], data)
    weights = store.fingerprint(model / "weights.safetensors")
    with store.fresh(registration) as out:
        client = tracking.connect()
        registry = Registry(client, params.model_name)
        champion = registry.settle()
        training = store.fingerprint(model / "made_from.json")
        with tracking.run(_chain(model, evaluation), training, lineage) as run:
            _log_run(client, run, report, model, evaluation, source, validation, lineage)
            tags = lineage | {WEIGHTS: weights}
            version = _version(client, run, report, model, evaluation, source, params.model_name, tags)
            if champion == str(version.version):
                print(f"register: version {champion} is the champion already; its verdict stands")
                for name in (RESULT, CARD, DECISION):
                    tracking.fetch(run.info.run_id, name, out)
                return
            rules = rules_of(params)
            twins = {str(twin.version) for twin in registry.versions() if twin.tags.get(WEIGHTS) == weights}
            candidate = _candidate(data, evaluation, validation, twins)
            rival = registry.version(champion) if champion else None
            judged_champion = of_champion(rival, data, source, rules.primary) if rival else None
            decision = decide(
                candidate.evidence, judged_champion.evidence if judged_champion else None, rules
            )
            aliases = _earned(decision, params)
            systems = read_systems(evaluation, candidate)
            card_text = _write_card(
                out,
                params.model_name,
                version,
                decision,
                candidate,
                judged_champion,
                systems,
                source,
                validation,
                rules,
            )
            review = build_review(
                registry, version, decision, aliases, candidate, rival, judged_champion, validation
            )
            page = build_decision_page(review, candidate, judged_champion, systems, data, evaluation, rules)
            (out / DECISION).write_text(render(page))
            _write_summary(out, params.model_name, version, run, champion, judged_champion, aliases, decision)
            tracking.attach(run, out, sorted(path.name for path in out.iterdir()))
            link = tracking.artifact_link(run.info.experiment_id, run.info.run_id, DECISION)
            text = description(card_text, link)
            _announce(registry, version, decision, champion, text)
            client.set_tag(run.info.run_id, "mlflow.note.content", text)
            # last: a version that is the champion already takes its verdict from what was attached
            registry.challenge(str(version.version), earned=CHALLENGER in aliases)
            if CHAMPION in aliases:
                registry.move(str(version.version), "promoted by the chain", champion)
    _print_verdict(params.model_name, str(version.version), aliases, decision)


def _log_run(
    client: "MlflowClient",
    run: "ActiveRun",
    report: Path,
    model: Path,
    evaluation: Path,
    source: dict[str, Any],
    validation: dict[str, Any],
    lineage: dict[str, str],
) -> None:
    """Parameters, metrics, data set and evidence of the chain; the numbers of all systems as a table."""
    means = json.loads((evaluation / "metrics.json").read_text())
    facts = json.loads((evaluation / "facts.json").read_text())
    metrics = _metrics(means[CANDIDATE], facts, validation)
    tracking.log(client, run, _flat(source["params"]), metrics, _curves(model))
    tracking.log_table(client, run, SYSTEMS, [{"system": name, **values} for name, values in means.items()])
    tracking.used(client, run, validation, lineage)
    tracking.attach(run, evaluation, EVIDENCE, "evaluation")
    tracking.attach(run, report, sorted(page.name for page in report.glob("*.html")), "validation")


def _candidate(data: Path, evaluation: Path, validation: dict[str, Any], twins: set[str]) -> Judged:
    """The candidate with all that the gate asks for; `twins` are the versions that have its weights."""
    candidate = stored(evaluation)
    facts = {**candidate.evidence.facts, "validation_warnings": validation["warnings"]}
    return replace(candidate, evidence=replace(candidate.evidence, facts=facts, rating=_rating(data, twins)))


def _write_card(
    out: Path,
    name: str,
    version: "ModelVersion",
    decision: Decision,
    candidate: Judged,
    champion: Judged | None,
    systems: dict[str, Scores],
    source: dict[str, Any],
    validation: dict[str, Any],
    rules: Rules,
) -> str:
    """The model card, as Markdown, also in a file."""
    lineage = {tag: value for tag, value in version.tags.items() if tag not in (GATE, REASONS, COMPARED_WITH)}
    text = card(
        name,
        str(version.version),
        decision,
        candidate.evidence,
        champion.evidence if champion else None,
        systems,
        source,
        validation,
        lineage,
        rules.primary,
        champion.again if champion else "",
    )
    (out / CARD).write_text(text)
    return text


def _write_summary(
    out: Path,
    name: str,
    version: "ModelVersion",
    run: "ActiveRun",
    champion: str | None,
    judged_champion: Judged | None,
    aliases: list[str],
    decision: Decision,
) -> None:
    summary = {
        "model": name,
        "version": str(version.version),
        "run_id": run.info.run_id,
        "compared_with": champion,
        "scored_again": judged_champion.again if judged_champion else "",
        "aliases": aliases,
        **decision.to_dict(),
    }
    (out / RESULT).write_text(json.dumps(summary, indent=2) + "\n")


def _print_verdict(name: str, number: str, aliases: list[str], decision: Decision) -> None:
    earned = ", ".join(aliases) or "no alias"
    print(f"register: {name} version {number}, gate {decision.verdict}, {earned}")
    for reason in decision.reasons:
        print(f"  {reason}")


def _version(
    client: "MlflowClient",
    run: "ActiveRun",
    report: Path,
    model: Path,
    evaluation: Path,
    source: dict[str, Any],
    name: str,
    tags: dict[str, str],
) -> "ModelVersion":
    """The run's model version, with what it needs to serve and to look at other data."""
    params = source["params"]["featurize"]
    published = params["text_encoder"] != "bilstm" or params["image_encoder"].startswith("clip:")
    index = evaluation / "index"
    drawn = pq.read_table(report / PROFILE)
    own = pc.field("product_id").isin(drawn["product_id"].combine_chunks())  # of what may be millions
    vectors = pq.read_table(index / PRODUCTS, columns=["product_id", "vector"], filters=own)
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / PROFILE
        pq.write_table(with_vectors(drawn, vectors), profile)
        return registered(client, run, model, index, profile, name, tags, published)


def rules_of(params: RegisterParams) -> Rules:
    """The gate's rules, as params.yaml has them."""
    return Rules(**params.model_dump(exclude={"model_name", "promote"}))


def _chain(model: Path, evaluation: Path) -> str:
    """What a chain did and made, as a hash: the same model with the same scores, judged the same way."""
    files = [json.loads((evaluation / name).read_text()) for name in ("made_from.json", "metrics.json")]
    parts = json.dumps([store.fingerprint(model), *files], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _flat(params: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in params.items() for key, value in keys.items()}


def _metrics(
    means: dict[str, float], facts: dict[str, float], validation: dict[str, Any]
) -> dict[str, float]:
    """What runs are compared by: the candidate's metrics and facts, and the drift.

    MLflow draws a bar chart for each, so numbers of other systems, and of a survey's models, are not among them.
    """
    drift = {"drift": validation["champion"]["drift"]} if validation["champion"] else {}
    return means | {name: value for name, value in facts.items() if "/" not in name} | drift


def _curves(model: Path) -> list[dict[str, float]]:
    with (model / "history.csv").open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def _rating(data: Path, versions: set[str]) -> Segment | None:
    """What a survey said of the candidate, under the number of any version with its weights."""
    survey = read_answers(data)
    if survey is None or not (rated := np.isin(survey.models, list(versions))).any():
        return None
    answers = Answers(survey.query_ids[rated], np.full(rated.sum(), CANDIDATE), survey.ratings[rated])
    return next(ratings(answers, {})).segment


def _earned(decision: Decision, params: RegisterParams) -> list[str]:
    """The alias that a verdict gives."""
    if not decision.passed:
        return []
    return [CHAMPION if params.promote == "auto" else CHALLENGER]


def _announce(
    registry: Registry, version: "ModelVersion", decision: Decision, champion: str | None, text: str
) -> None:
    """Write the verdict on the version, and its description."""
    sentence = verdict_sentence(decision, str(version.version))
    tags = {
        GATE: decision.verdict,
        REASONS: " ".join([sentence, *decision.reasons])[:TAG_LENGTH],
        COMPARED_WITH: champion or "",
    }
    for tag, value in tags.items():
        registry.client.set_model_version_tag(registry.name, version.version, tag, value)
    registry.client.update_model_version(registry.name, version.version, text)
