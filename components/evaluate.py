"""evaluate: the candidate and its baselines on the test queries, over the whole catalogue."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from vitrine_judge.fingerprint import JUDGE, fingerprint
from vitrine_judge.metrics import Scores
from vitrine_judge.report import Measure, Report, render
from vitrine_judge.tables import format_table

from catalog import store
from fusion.featurizer import Featurizer
from fusion.search.hybrid import HYBRID_FILE, MODEL_ALONE
from fusion.search.search_index import SearchIndex
from scoring.auxiliary_evaluation import evaluate_auxiliary_tasks
from scoring.judgements import MISSING_MODALITY, find_missing_modalities, read_judgements_by_judge
from scoring.milvus_system import rank_milvus
from scoring.params import EvaluateParams
from scoring.report_content import (
    build_report,
    explain_result,
    read_attribute_values,
    summarise_survey,
)
from scoring.results import Results, score_systems, write_json, write_results
from scoring.runtime_stats import measure_runtime
from scoring.systems import (
    MILVUS,
    SERVED,
    Candidate,
    RankedSystems,
    choose_rivals,
    load_candidate,
    load_index,
    rank_systems,
)


def evaluate(
    data: Path, features: Path, model: Path, index: Path, params: EvaluateParams, evaluation: Path
) -> None:
    """Evaluate the fused model, its ablations, BM25, the hybrid of both, and CLIP if the features are of one.

    The hybrid is served where it is better on validation queries, else the model alone.

    Args:
        data: The data set.
        features: What `featurize` made of it.
        model: What `train` wrote.
        index: What `index` wrote.
        params: How rankings are judged.
        evaluation: Folder to write: metrics.json (system → metric → mean), summary.json (the
            served system's means, for `dvc exp show`), segments.csv (the same by segment),
            judged_by.csv (the same by kind of judge; all other files use the most trusted kind only), comparisons.json
            (the served system against each other system), scores/ (per query) and runs/ (parquet and TREC) by
            system, qrels.trec (the judgements), judging.json (how runs are scored; `vitrine-judge` reads it),
            tasks.json (titles and pictures, similar products, tags), queries.parquet, facts.json (latency, sizes, the
            model's weight in the hybrid, survey ratings), hybrid.json (how BM25 is merged in service), made_from.json
            (data, parameters, fingerprint of the judge, which system is served), report.html.

    Raises:
        DataError: where no test query is judged, the packages of Milvus are missing, the index is of another model or
            of other data, or no pictures were kept for a model that tuned its image encoder.
    """
    candidate = load_candidate(data, features, model)
    judgements = read_judgements_by_judge(data, "test", params.holdout, collapse=params.collapse)
    search_index = load_index(index, candidate, features)
    systems = _rank_systems(candidate, search_index, data, features, params)
    hybrid = systems.hybrid or MODEL_ALONE
    results = score_systems(systems.runs, systems.served, judgements, params.configuration)
    tasks = evaluate_auxiliary_tasks(
        data, features, candidate.network, candidate.products, search_index.vectors
    )
    report = build_evaluation_report(data, model, candidate, results, tasks)
    weight = {"hybrid_weight": hybrid.weight} if systems.hybrid else {}
    survey = summarise_survey(report.ratings, report.agreements)
    provenance = _read_provenance(features, model, index, params, systems.served)
    with store.new_atomic_dir(evaluation) as folder:
        write_json(folder / "made_from.json", provenance)
        write_results(folder, results)
        write_json(folder / "tasks.json", [asdict(task) for task in tasks])
        write_json(
            folder / "facts.json",
            measure_runtime(candidate, search_index.serve(hybrid), model) | weight | survey,
        )
        hybrid.save(folder / HYBRID_FILE)
        (folder / "report.html").write_text(render(report))
    print(_format_means(results.scores))


def _rank_systems(
    candidate: Candidate, index: SearchIndex, data: Path, features: Path, params: EvaluateParams
) -> RankedSystems:
    """`rank_systems`, and the served system through Milvus where `params` says so."""
    systems = rank_systems(candidate, index, data, features, params)
    if params.milvus:
        hybrid = systems.hybrid or MODEL_ALONE
        systems.runs[MILVUS] = rank_milvus(candidate, index, hybrid, data, params)
    return systems


def build_evaluation_report(
    data: Path,
    model: Path,
    candidate: Candidate,
    results: Results,
    tasks: list[Measure],
) -> Report:
    """Build the content of report.html: the served system against its rivals, with explained examples.

    Args:
        data: The data set.
        model: Folder of the candidate.
        candidate: The model.
        results: The scores of all systems.
        tasks: The auxiliary tasks.
    """
    configuration = results.configuration
    primary = configuration.metrics[0]
    qrels, segments, clusters, _ = results.judgements
    missing = find_missing_modalities(candidate.products, qrels, int(configuration.relevant))
    report = build_report(
        "Product search: candidate and baselines",
        data,
        results.served,
        choose_rivals(results.scores, primary),
        results.runs,
        results.scores,
        results.comparisons,
        qrels,
        {"segment": segments, MISSING_MODALITY: missing},
        primary,
        partial(explain_result, candidate.network, Featurizer.load(model), read_attribute_values(data)),
    )
    others = {judge: scores for judge, scores in results.scores_by_judge.items() if judge != results.judge}
    return replace(
        report,
        tasks=tasks,
        judged_by=results.judge,
        scores_by_judge=others,
        configuration=configuration.describe(),
        clusters=clusters,
    )


def _read_provenance(
    features: Path, model: Path, index: Path, params: EvaluateParams, served: str
) -> dict[str, Any]:
    """Collect the data's fingerprint, the parameters of every stage so far, the judge's fingerprint, what is served."""
    provenance = {
        stage: json.loads((folder / "made_from.json").read_text())
        for stage, folder in (("featurize", features), ("train", model), ("index", index))
    }
    stage_params = {stage: content["params"] for stage, content in provenance.items()}
    stage_params["evaluate"] = params.model_dump(mode="json")
    return {
        "data": provenance["featurize"]["data"],
        "params": stage_params,
        JUDGE: fingerprint(params.configuration.metrics),
        SERVED: served,
    }


def _format_means(scores: Mapping[str, Scores]) -> str:
    """System × metric as lines of text."""
    rows = [
        [system, *(f"{mean:.4f}" for mean in system_scores.means().values())]
        for system, system_scores in scores.items()
    ]
    return format_table([["", *next(iter(scores.values())).values], *rows])
