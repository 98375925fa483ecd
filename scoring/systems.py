"""The systems of an evaluation: how they are ranked, scored and grouped."""

from collections.abc import Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import store
from catalog.schema import HUMAN, JUDGED_BY, DataError
from eval.arrays import alphabetical, locate
from eval.metrics import Scores, score
from eval.rankings import Qrels, Run
from eval.report import best_other
from fusion.features import MODALITIES, Items
from fusion.model import ProductSearchModel
from fusion.search.catalogue_search import run_table
from fusion.search.vector_index import top_k
from fusion.search.zero_shot import dual, zero_shot
from scoring.params import EvaluateParams

CANDIDATE = "fused"
HYBRID = "hybrid"  # the candidate's scores and BM25's, added up
LACKING = "missing modality of relevant products"  # a way to group queries


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
