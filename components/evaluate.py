"""evaluate: the candidate and its baselines on the test queries, over the whole catalogue."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq

from catalog import store
from catalog.schema import HUMAN, JUDGED_BY, DataError
from components.bm25 import bm25
from components.params import EvaluateParams
from components.reporting import (
    build_report,
    compare_systems,
    explain_result,
    read_attribute_values,
    survey_facts,
)
from components.tasks import tasks
from eval.arrays import alphabetical, locate
from eval.combine import best_weight, weighted
from eval.metrics import Scores, score
from eval.rankings import Qrels, Run
from eval.report import best_other, render
from eval.tables import table
from fusion.features import MODALITIES, Items
from fusion.featurizer import Featurizer, load_items
from fusion.index import recall, top_k
from fusion.model import ProductSearchModel, embed
from fusion.search import SearchIndex, run_table
from fusion.zeroshot import dual, zero_shot

CANDIDATE = "fused"
HYBRID = "hybrid"  # the candidate's scores and BM25's, added up
LACKING = "missing modality of relevant products"  # a way to group queries
LATENCY_QUERIES = 100


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


def choose_rivals(scores: Mapping[str, Scores], metric: str) -> list[str]:
    """The best system that is not made of the candidate, then BM25: what the report shows the candidate against."""
    others = {name: one for name, one in scores.items() if name != HYBRID and not name.startswith("no ")}
    best = best_other(others, CANDIDATE, metric)
    return [best, "bm25"] if best != "bm25" and "bm25" in others else [best]


def published(features: Path, asked: np.ndarray, depth: int) -> dict[str, pa.Table]:
    """What CLIP finds without our training, if the features are of one; both towers as published."""
    tower = dual(features)
    if tower is None:
        return {}
    products, queries = Items.load(features, "products"), Items.load(features, "queries")
    shown, wished = (zero_shot(tower, items) for items in (products, queries.take(queries.splits == "test")))
    return {"zero-shot": run_table(asked, products.ids, *top_k(wished, shown, depth))}


def scored(runs: Mapping[str, Run], qrels: Qrels, params: EvaluateParams) -> dict[str, Scores]:
    """System → scores."""
    more: dict[str, Any] = {"gains": params.gains, "relevant": params.relevant}
    return {system: score(run, qrels, params.metrics, **more) for system, run in runs.items()}


def views(network: ProductSearchModel, products: Items) -> dict[str, list[str]]:
    """Through what products are seen: each modality alone, and all but each, where that is something else.

    Of the model's modalities, those that some product has.
    """
    every = [name for name in network.config.modalities if products.seen({name}).any()]
    alone = {f"{name}-only": [name] for name in every}
    without = {f"no {name}": [other for other in every if other != name] for name in every}
    return alone | (without if len(every) > 2 else {})


def by_judges(data: Path, split: str) -> dict[str, tuple[Qrels, np.ndarray]]:
    """Who judged queries of a split → the judgements, and the segments of the queries.

    Of `catalog.schema.JUDGED_BY` and in its order, the most to be trusted first; apart, for means over several would
    say nothing. The segments are str (Q,), in the order of the queries' ids.

    Raises:
        DataError: where nobody judged any.
    """
    queries = store.read(data, "queries", ["query_id", "split", "segment", "judged_by"])
    queries = queries.filter(pc.equal(queries["split"], split))
    judgements = store.read(data, "judgements")
    named = dict(zip(queries["query_id"].to_pylist(), queries["segment"].to_pylist(), strict=True))
    found = {}
    for by in JUDGED_BY:
        own = queries.filter(pc.equal(pc.fill_null(queries["judged_by"], HUMAN), by))
        said = judgements.filter(pc.is_in(judgements["query_id"], own["query_id"]))
        if len(said):
            qrels = Qrels.from_table(said)
            found[by] = qrels, np.array([named[i] or "all" for i in np.sort(qrels.query_ids)])
    if not found:
        raise DataError(f"{data}: no judged query has the split '{split}'; nothing to evaluate on")
    return found


def judged(data: Path, split: str) -> tuple[Qrels, np.ndarray]:
    """The first of `by_judges`."""
    return next(iter(by_judges(data, split).values()))


def lacking(products: Items, qrels: Qrels, relevant: int) -> np.ndarray:
    """What some relevant product of each query lacks, such as "image, video": str (Q,), in the order of the ids."""
    place = locate(qrels.products, pa.array(products.ids))[qrels.items]
    absent = ~products.present[place] & ((qrels.values >= relevant) & (place >= 0))[:, None]
    lacks = np.logical_or.reduceat(absent, qrels.offsets[:-1])
    names = [", ".join(compress(MODALITIES, row)) or "none" for row in lacks]
    return np.array(names)[alphabetical(qrels.queries)]


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


def by_segment(scores: Mapping[str, Scores], segments: np.ndarray) -> pa.Table:
    """A row per segment and system, with the number of queries and the mean of every metric.

    Args:
        scores: By system.
        segments: str (Q,), aligned with the scores.
    """
    return pa.Table.from_pylist(
        [
            {"segment": str(name), "queries": int((segments == name).sum()), "system": system}
            | one.restrict(segments == name).means()
            for name in np.unique(segments)
            for system, one in scores.items()
        ]
    )


def by_judge(scores: Mapping[str, Mapping[str, Scores]]) -> pa.Table:
    """As `by_segment`, a row per kind of judgement and system."""
    return pa.Table.from_pylist(
        [
            {"judged_by": by, "queries": len(one.query_ids), "system": system} | one.means()
            for by, systems in scores.items()
            for system, one in systems.items()
        ]
    )


def facts(
    network: ProductSearchModel, queries: Items, wanted: np.ndarray, index: SearchIndex, model: Path
) -> dict[str, float]:
    """What serving costs: 95th percentile of a single query's latency (encode, search) in ms; sizes in MB; and how much
    of the true best 10 its search finds. `wanted` are the queries, encoded.
    """
    seconds = []
    for i in range(min(LATENCY_QUERIES, len(queries))):
        start = time.perf_counter()
        index.search(embed(network, queries.take(np.array([i])), "query"), 10)
        seconds.append(time.perf_counter() - start)
    (_, served), (_, exact) = index.search(wanted, 10), top_k(wanted, index.vectors, 10)
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    return {
        "latency_ms_p95": float(1000 * np.percentile(seconds, 95)),
        "model_mb": size / 1e6,
        "index_mb": index.nbytes / 1e6,
        "index_recall@10": float(recall(served, exact).mean()),
    }


def _means(scores: Mapping[str, Scores]) -> str:
    """System × metric as lines of text."""
    rows = [[system, *(f"{mean:.4f}" for mean in one.means().values())] for system, one in scores.items()]
    return table([["", *next(iter(scores.values())).values], *rows])
