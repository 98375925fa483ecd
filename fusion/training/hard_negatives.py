"""Hard negatives: products that the model, as far as it is trained, ranks high for queries that they do not answer."""

import numpy as np

from catalog.schema import EXACT, IRRELEVANT
from fusion.model import ProductSearchModel, embed
from fusion.search.vector_index import top_k
from fusion.training.sampling import Pairs, TrainingSet

AMONG = 20_000  # products of the training side, at most
FIRST = 30  # of each query's ranking
SURE = 0.95  # of the score of the query's best answer: what scores higher may be an answer that nobody judged


def mine(
    model: ProductSearchModel, data: TrainingSet, vectors: np.ndarray, rng: np.random.Generator
) -> Pairs:
    """Each judged query with the first products that nobody judged any good for it.

    Those that score nearly as high as its best exact product are left out ("TopK-PercPos" of Moreira et al., 2024,
    NV-Retriever); so are queries without an exact product among those looked at.

    Args:
        model: In evaluation mode.
        data: What may be seen.
        vectors: The model's of all products of `data`, float32 (P, dim).
        rng: Draws the products to look at where there are many.
    """
    pool = np.sort(rng.permutation(data.own)[:AMONG])
    queries, products = embed(model, data.queries, "query"), vectors[pool]
    found, scores = top_k(queries, products, FIRST)
    asking = np.arange(len(queries))[:, None]
    unfit = data.judged.lookup(asking, pool[found]) <= IRRELEVANT
    unlike = scores < SURE * _best(data, pool, queries, products)[:, None]
    query, place = np.nonzero(unfit & unlike)
    return Pairs(query, pool[found[query, place]])


def _best(data: TrainingSet, pool: np.ndarray, queries: np.ndarray, products: np.ndarray) -> np.ndarray:
    """The score of each query's best exact product, float32 (Q,); -inf where none is in the pool."""
    judged = data.judged
    answers = (judged.grade == EXACT) & np.isin(judged.product, pool)
    query, place = judged.query[answers], np.searchsorted(pool, judged.product[answers])
    best = np.full(len(queries), -np.inf, np.float32)
    np.maximum.at(best, query, (queries[query] * products[place]).sum(1))
    return best
