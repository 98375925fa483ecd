"""The systems of an evaluation: the candidate, its ablations and baselines, ranked on the test queries."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from vitrine_judge.combine import WEIGHTS, best_weight
from vitrine_judge.metrics import Scores
from vitrine_judge.rankings import Run
from vitrine_judge.report import best_other

from catalog.progress import show_progress
from catalog.schema import DataError
from fusion.features import Items
from fusion.featurizer import load_items
from fusion.model import ProductSearchModel, embed
from fusion.search.bm25 import rank_bm25
from fusion.search.catalogue_search import build_run_table, read_texts
from fusion.search.hybrid import Hybrid
from fusion.search.marker import QueryEmbeddings, embed_queries
from fusion.search.search_index import SearchIndex
from fusion.search.vector_index import top_k
from fusion.search.zero_shot import embed_zero_shot, has_joint_encoder, load_text_tower, read_joint_vectors
from scoring.grouping import Grouping
from scoring.judgements import read_judgements
from scoring.params import EvaluateParams

CANDIDATE = "fused"
BM25 = "bm25"
ZERO_SHOT = "zero-shot"
ZERO_SHOT_JOINT = "zero-shot joint"
HYBRID = "hybrid"  # weighted sum of the candidate's and BM25's scores
MILVUS = "milvus"  # the served system, searched through Milvus
SERVED = "served"  # key in made_from.json: the system that is registered and served


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained model, with the catalogue and the queries as it reads them.

    Attributes:
        network: The model.
        products: The catalogue.
        test_queries, validation_queries: Q and V queries.
        test_texts: Of the test queries, as BM25 reads them; None for a query without text.
    """

    network: ProductSearchModel
    products: Items
    test_queries: Items
    validation_queries: Items
    test_texts: list[str | None]

    @cached_property
    def test_embeddings(self) -> QueryEmbeddings:
        """The test queries, encoded."""
        return embed_queries(self.network, self.test_queries)

    @cached_property
    def validation_embeddings(self) -> QueryEmbeddings:
        """The validation queries, encoded."""
        return embed_queries(self.network, self.validation_queries)


@dataclass(frozen=True, eq=False)
class RankedSystems:
    """The rankings of all systems.

    Attributes:
        runs: System → run, without systems that answer no query.
        hybrid: How the candidate and BM25 are merged; None where there are no validation queries to tune it on, or
            BM25 answers no query.
    """

    runs: dict[str, Run]
    hybrid: Hybrid | None

    @property
    def served(self) -> str:
        """The system to register and serve: the hybrid where it is better on the validation queries."""
        return HYBRID if self.hybrid and self.hybrid.uses_bm25 else CANDIDATE


def read_served(evaluation: Path) -> str:
    """Read which system of an evaluation is served; the model alone in evaluations that do not say."""
    return str(json.loads((evaluation / "made_from.json").read_text()).get(SERVED, CANDIDATE))


def load_candidate(data: Path, features: Path, model: Path) -> Candidate:
    """Load what `train` wrote, and the products and queries that `featurize` wrote of the data set.

    Raises:
        DataError: where the model tuned its image encoder and no pictures were kept.
    """
    network = ProductSearchModel.load(model)
    products, queries = (
        load_items(features, table, model, network.attends) for table in ("products", "queries")
    )
    test_queries, validation_queries = (queries.take(queries.splits == split) for split in ("test", "valid"))
    test_texts = read_texts(data, test_queries.ids)
    return Candidate(network, products, test_queries, validation_queries, test_texts)


def read_data_fingerprint(features: Path) -> str:
    """The fingerprint of the data set that features are of."""
    return str(json.loads((features / "made_from.json").read_text())["data"])


def load_index(folder: Path, candidate: Candidate, features: Path) -> SearchIndex:
    """Load the index of a candidate, with BM25.

    Args:
        folder: What the stage `index` wrote.
        candidate: The model that it must be of.
        features: Of the data that it must be of.

    Raises:
        DataError: it is of another model or of other data.
    """
    index = SearchIndex.load(folder)
    index.marker.require(candidate.test_embeddings)
    if index.marker.data != read_data_fingerprint(features):
        raise DataError(f"{folder}: the index is of other data than the features; build it again: dvc repro")
    return index


def rank_systems(
    candidate: Candidate, index: SearchIndex, data: Path, features: Path, params: EvaluateParams
) -> RankedSystems:
    """Rank the catalogue for the test queries by every system.

    Args:
        candidate: The model.
        index: Its products, encoded.
        data: The data set.
        features: What `featurize` made of it.
        params: How many products to rank, and how to tune the hybrid.
    """
    test_ids, validation_ids = candidate.test_queries.ids, candidate.validation_queries.ids
    lexical = index.require_lexical()
    bm25_rankings = rank_bm25(data, np.concatenate([test_ids, validation_ids]), params.depth, lexical)
    rankings = {BM25: _select_queries(bm25_rankings, test_ids)}
    ablations = list_ablations(candidate.network, candidate.products)
    for system, (products, modalities) in show_progress(ablations.items(), "ablations", unit="system"):
        product_embeddings = embed(candidate.network, products, "product", modalities)
        rankings[system] = rank_products(candidate, product_embeddings, params.depth)
    rankings[CANDIDATE] = rank_products(candidate, index.vectors, params.depth)
    rankings |= rank_zero_shot(features, test_ids, params.depth)
    grouping = Grouping.read(data, params.collapse)

    def make_run(ranking: pa.Table) -> Run:
        return Run.from_table(grouping.collapse(ranking, "score"))

    runs = {system: make_run(ranking) for system, ranking in rankings.items() if len(ranking)}
    validation_rankings = _select_queries(bm25_rankings, validation_ids)
    if BM25 not in runs or not len(validation_rankings):
        return RankedSystems(runs, None)
    weight = tune_hybrid(candidate, index, validation_rankings, data, params)
    hybrid = Hybrid(weight, params.depth, lexical.analyser.language)
    runs[HYBRID] = make_run(rank_hybrid(candidate, index, hybrid))
    return RankedSystems(runs, hybrid)


class Ablation(NamedTuple):
    """What a system reads of the products: the items, and the modalities of these."""

    products: Items
    modalities: Sequence[str]


def list_ablations(network: ProductSearchModel, products: Items) -> dict[str, Ablation]:
    """List system → what it reads: each modality alone; all but one of three or more; main pictures alone.

    A modality that no product has is left out, and main pictures alone where no product has others.
    """
    modalities = [name for name in network.config.modalities if products.has_any({name}).any()]
    systems = {f"{name}-only": Ablation(products, [name]) for name in modalities}
    if len(modalities) > 2:  # all but one of two is a single modality
        for name in modalities:
            systems[f"no {name}"] = Ablation(products, [other for other in modalities if other != name])
    if (products.picture_counts > 1).any():
        systems["no gallery"] = Ablation(products.without_galleries(), modalities)
    return systems


def rank_products(candidate: Candidate, product_embeddings: np.ndarray, depth: int) -> pa.Table:
    """Rank products for the test queries by their embeddings, float32 (P, dim)."""
    best = top_k(candidate.test_embeddings.vectors, product_embeddings, depth)
    return build_run_table(candidate.test_queries.ids, candidate.products.ids, *best)


def rank_hybrid(candidate: Candidate, index: SearchIndex, hybrid: Hybrid) -> pa.Table:
    """Rank products for the test queries by the hybrid, as the served index does."""
    best = top_k(candidate.test_embeddings.vectors, index.vectors, hybrid.depth)
    product_ids = index.fields["product_id"]
    merged = hybrid.merge(index.require_lexical(), candidate.test_texts, *best, product_ids, hybrid.depth)
    return build_run_table(candidate.test_queries.ids, candidate.products.ids, *merged)


def rank_zero_shot(features: Path, test_ids: np.ndarray, depth: int) -> dict[str, pa.Table]:
    """Rank by the published encoders, without our training: by a dual encoder where the features are of both its
    towers, and by a joint encoder where there is one.
    """
    embedders: dict[str, Callable[[Items, str], np.ndarray]] = {}
    if tower := load_text_tower(features):
        embedders[ZERO_SHOT] = partial(embed_zero_shot, tower)
    if has_joint_encoder(features):
        embedders[ZERO_SHOT_JOINT] = read_joint_vectors
    rankings: dict[str, pa.Table] = {}
    if not embedders:
        return rankings
    products, queries = Items.load(features, "products"), Items.load(features, "queries")
    test_queries = queries.take(queries.splits == "test")
    for system, embed_items in embedders.items():
        best = top_k(embed_items(test_queries, "query"), embed_items(products, "product"), depth)
        rankings[system] = build_run_table(test_ids, products.ids, *best)
    return rankings


def tune_hybrid(
    candidate: Candidate, index: SearchIndex, bm25_rankings: pa.Table, data: Path, params: EvaluateParams
) -> float:
    """Find the candidate's weight in the hybrid that is best on the validation queries, by the first metric.

    Of equally good weights, the highest: the model alone where BM25 adds nothing. Queries to which BM25 has no answer
    keep the candidate's ranking at any weight, so they do not count.

    Args:
        candidate: The model.
        index: Its products, encoded.
        bm25_rankings: BM25's rankings for the validation queries.
        data: The data set.
        params: How rankings are judged.
    """
    best = top_k(candidate.validation_embeddings.vectors, index.vectors, params.depth)
    rankings = build_run_table(candidate.validation_queries.ids, candidate.products.ids, *best)
    rankings = rankings.filter(pc.is_in(rankings["query_id"], pc.unique(bm25_rankings["query_id"])))
    judgements = read_judgements(data, "valid", collapse=params.collapse)
    return best_weight(
        judgements.grouping.collapse_run(Run.from_table(rankings)),
        judgements.grouping.collapse_run(Run.from_table(bm25_rankings)),
        judgements.qrels,
        params.metrics[0],
        weights=WEIGHTS[::-1],
        gains=params.gains,
        relevant=params.relevant,
    )


def choose_rivals(scores: Mapping[str, Scores], metric: str) -> list[str]:
    """Choose what the report compares the served system with: the best other system, then BM25.

    The model, the hybrid, its copy in Milvus and the ablations "no …" have most of the model in common, so they are no
    rivals.
    """
    others = {
        system: system_scores
        for system, system_scores in scores.items()
        if system not in (HYBRID, MILVUS) and not system.startswith("no ")
    }
    best = best_other(others, CANDIDATE, metric)
    return [best, BM25] if best != BM25 and BM25 in others else [best]


def _select_queries(rankings: pa.Table, query_ids: np.ndarray) -> pa.Table:
    return rankings.filter(pc.is_in(rankings["query_id"], pa.array(query_ids)))
