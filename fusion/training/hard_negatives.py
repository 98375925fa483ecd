"""Hard negative mining: irrelevant products that the current model ranks high for a query."""

import numpy as np

from catalog.schema import EXACT, IRRELEVANT
from fusion.model import ProductSearchModel, embed
from fusion.search.vector_index import top_k
from fusion.training.sampling import Pairs, TrainingSet

MAX_CANDIDATES = 20_000  # products to search, drawn from those with the split "train"
RANKING_DEPTH = 30  # products per query
MAX_SCORE_RATIO = 0.95  # to the score of the best exact product; higher ones may be unjudged answers


def mine_hard_negatives(
    model: ProductSearchModel, data: TrainingSet, product_embeddings: np.ndarray, rng: np.random.Generator
) -> Pairs:
    """For each judged query, the top-ranked products that are irrelevant or not judged.

    Leaves out products that score nearly as high as the query's best exact product ("TopK-PercPos" of Moreira et al.,
    2024, NV-Retriever), and queries without an exact product among the candidates.

    Args:
        model: In evaluation mode.
        data: The training set.
        product_embeddings: The model's embeddings of all products of `data`, float32 (P, dim).
        rng: Draws the candidates if there are more than `MAX_CANDIDATES` products.
    """
    candidates = np.sort(rng.permutation(data.training_rows)[:MAX_CANDIDATES])
    queries, products = embed(model, data.queries, "query"), product_embeddings[candidates]
    ranking, scores = top_k(queries, products, RANKING_DEPTH)
    query_rows = np.arange(len(queries))[:, None]
    is_negative = data.judgements.lookup(query_rows, candidates[ranking]) <= IRRELEVANT
    best_exact = _best_exact_scores(data, candidates, queries, products)
    scores_lower = scores < MAX_SCORE_RATIO * best_exact[:, None]
    query, rank = np.nonzero(is_negative & scores_lower)
    return Pairs(query, candidates[ranking[query, rank]])


def _best_exact_scores(
    data: TrainingSet, candidates: np.ndarray, queries: np.ndarray, products: np.ndarray
) -> np.ndarray:
    """The score of each query's best exact product, float32 (Q,); -inf if no candidate is exact."""
    judgements = data.judgements
    exact = (judgements.grade == EXACT) & np.isin(judgements.product, candidates)
    query, candidate = judgements.query[exact], np.searchsorted(candidates, judgements.product[exact])
    best = np.full(len(queries), -np.inf, np.float32)
    np.maximum.at(best, query, (queries[query] * products[candidate]).sum(1))
    return best
