"""evaluate: the candidate and its baselines on the test queries, over the whole catalogue."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq

from catalog import store
from eval.combine import best_weight, weighted
from eval.metrics import Scores
from eval.rankings import Run
from eval.report import render
from eval.tables import table
from fusion.featurizer import Featurizer, load_items
from fusion.model import ProductSearchModel, embed
from fusion.search.bm25 import bm25
from fusion.search.catalogue_search import SearchIndex, run_table
from fusion.search.vector_index import top_k
from scoring.auxiliary_evaluation import tasks
from scoring.params import EvaluateParams
from scoring.report_content import (
    build_report,
    compare_systems,
    explain_result,
    read_attribute_values,
    survey_facts,
)
from scoring.runtime_stats import facts
from scoring.systems import (
    CANDIDATE,
    HYBRID,
    LACKING,
    by_judge,
    by_judges,
    by_segment,
    choose_rivals,
    judged,
    lacking,
    published,
    scored,
    views,
)


def evaluate(data: Path, features: Path, model: Path, params: EvaluateParams, evaluation: Path) -> None:
    """Judge the fused model beside BM25, both together, its own single modalities, and CLIP if it is one.

    Args:
        data: The data set.
        features: What `featurize` made of it.
        model: What `train` wrote.
        params: How rankings are judged.
        evaluation: Folder to write: metrics.json (system → metric → mean), segments.csv (the same by segment),
            judged_by.csv (the same by who judged; all else is of the first of `by_judges` alone), comparisons.json (the
            candidate against each other system), scores/ (per query) and runs/ (parquet and TREC) by system,
            qrels.trec (the judgements), tasks.json (titles and pictures, similar products, tags), queries.parquet,
            facts.json (latency, sizes, the candidate's weight in the hybrid, what a survey said), index/ (what is
            served), report.html.

    Raises:
        DataError: where no test query is judged, or no pictures were kept for a model that tuned its image encoder.
    """
    network = ProductSearchModel.load(model)
    products, queries = (
        load_items(features, table, model, network.attends) for table in ("products", "queries")
    )
    asked, valid = (queries.take(queries.splits == split) for split in ("test", "valid"))
    judgements = by_judges(data, "test")
    by, (qrels, segments) = next(iter(judgements.items()))
    sought = embed(network, valid if len(valid) else asked, "query")
    index = SearchIndex.build(network, products, data, sought)
    others = {
        name: embed(network, products, "product", only) for name, only in views(network, products).items()
    }
    wanted = embed(network, asked, "query")
    lexical = bm25(data, np.concatenate([asked.ids, valid.ids]), params.depth)
    tables = {"bm25": lexical.filter(pc.is_in(lexical["query_id"], pa.array(asked.ids)))} | {
        system: run_table(asked.ids, products.ids, *top_k(wanted, vectors, params.depth))
        for system, vectors in (others | {CANDIDATE: index.vectors}).items()
    }
    tables |= published(features, asked.ids, params.depth)
    runs = {system: Run.from_table(table) for system, table in tables.items() if len(table)}
    mixed = {}
    if len(known := lexical.filter(pc.is_in(lexical["query_id"], pa.array(valid.ids)))) and "bm25" in runs:
        dense = run_table(valid.ids, products.ids, *top_k(sought, index.vectors, params.depth))
        weight = best_weight(
            Run.from_table(dense),
            Run.from_table(known),
            judged(data, "valid")[0],
            params.metrics[0],
            gains=params.gains,
            relevant=params.relevant,
        )
        runs[HYBRID] = weighted([runs[CANDIDATE], runs["bm25"]], [weight, 1 - weight])
        mixed = {"hybrid_weight": weight}
    apart = {name: scored(runs, own, params) for name, (own, _) in judgements.items()}
    scores = apart.pop(by)
    measures = tasks(data, features, network, products, index.vectors)
    with store.fresh(evaluation) as out:
        _write(out / "tasks.json", [asdict(measure) for measure in measures])
        _write(out / "made_from.json", _made_from(features, model, params))
        _write(out / "metrics.json", {system: one.means() for system, one in scores.items()})
        pv.write_csv(by_segment(scores, segments), out / "segments.csv")
        pv.write_csv(by_judge({by: scores} | apart), out / "judged_by.csv")
        primary = params.metrics[0]
        against = compare_systems(scores, CANDIDATE, primary, params.resamples, params.seed)
        _write(out / "comparisons.json", {system: asdict(result) for system, result in against.items()})
        for folder in ("scores", "runs"):
            (out / folder).mkdir()
        for system, run in runs.items():
            scores[system].to_parquet(out / "scores" / f"{system}.parquet")
            run.to_parquet(out / "runs" / f"{system}.parquet")
            run.to_trec(out / "runs" / f"{system}.trec")
        qrels.to_trec(out / "qrels.trec")
        pq.write_table(
            pa.table({"query_id": scores[CANDIDATE].query_ids, "segment": segments}), out / "queries.parquet"
        )
        index.save(out / "index")
        rivals = choose_rivals(scores, primary)
        explainer = partial(explain_result, network, Featurizer.load(model), read_attribute_values(data))
        title = "Product search: candidate and baselines"
        groups = {"segment": segments, LACKING: lacking(products, qrels, params.relevant)}
        page = build_report(
            title, data, CANDIDATE, rivals, runs, scores, against, qrels, groups, primary, explainer
        )
        page = replace(page, tasks=measures, judged_by=by, apart=apart)
        (out / "report.html").write_text(render(page))
        people = survey_facts(page.ratings, page.agreements)
        _write(out / "facts.json", facts(network, asked, wanted, index, model) | mixed | people)
    print(_means(scores))


def _made_from(features: Path, model: Path, params: EvaluateParams) -> dict[str, Any]:
    """The data's fingerprint, and the parameters of every stage on the way."""
    upstream = {
        stage: json.loads((folder / "made_from.json").read_text())
        for stage, folder in (("featurize", features), ("train", model))
    }
    stages = {stage: made["params"] for stage, made in upstream.items()} | {
        "evaluate": params.model_dump(mode="json")
    }
    return {"data": upstream["featurize"]["data"], "params": stages}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _means(scores: Mapping[str, Scores]) -> str:
    """System × metric as lines of text."""
    rows = [[system, *(f"{mean:.4f}" for mean in one.means().values())] for system, one in scores.items()]
    return table([["", *next(iter(scores.values())).values], *rows])
