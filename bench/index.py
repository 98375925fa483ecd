"""Approximate search compared with faiss and usearch: `OMP_NUM_THREADS=2 python bench/index.py PRODUCTS`.

The random vectors resemble those of the model for the sample catalogue. A product is a sum of one direction for each of
four attributes (values with Zipf's frequencies), an individual part of low dimension, and noise. A query names two or
three of the attributes. Each peer uses its smallest effort with recall@10 of 0.99 on the timed queries; a peer that
does not reach that is left out. Our index is tuned on 1,000 other queries. Searches are timed in turns, and the best of
several rounds counts; memory is that of the index with its vectors. A second table times our index with filters: random
products, and products with a value of an attribute.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import faiss
import numpy as np

from catalog.progress import show_progress
from fusion.search.vector_index import TARGET_RECALL, TUNING_K, IVFIndex, recall, top_k

ATTRIBUTES, VALUES, INDIVIDUAL_DIM, DIM = 4, 16, 16, 256
INDIVIDUAL_WEIGHT, NOISE_WEIGHT = 0.35, 0.12  # relative to the weight of an attribute
TUNING_QUERIES = 1000
EFFORTS = [int(2 ** (n / 4)) for n in range(8, 48)]
ROUNDS, SINGLE_QUERIES = 5, 200
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
BLOCK = 50_000

Search = Callable[[np.ndarray], np.ndarray]  # queries (Q, DIM) → rows, or scores, (Q, K)


class BuiltIndex(NamedTuple):
    """An index: its search at an effort, and its size in bytes."""

    search: Callable[..., np.ndarray]  # (queries, effort) → rows (Q, K)
    nbytes: int


class Contest(NamedTuple):
    """Searches to compare, by name, with seconds to build and bytes of each index."""

    searches: dict[str, Search]
    build_seconds: dict[str, float]
    nbytes: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("products", type=int)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument(
        "--peers", nargs="+", default=list(PEERS), choices=PEERS, metavar="PEER", help=", ".join(PEERS)
    )
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(THREADS)
    products, queries, first_attribute = draw_vectors(arguments.products, TUNING_QUERIES + arguments.queries)
    tuning_queries, queries = queries[:TUNING_QUERIES], queries[TUNING_QUERIES:]
    true_scores = top_k(queries, products, TUNING_K)[1]

    def measure_recall(rows: np.ndarray) -> float:
        scores = np.einsum("qkd,qd->qk", products[rows], queries)
        return float(recall(scores, true_scores).mean())

    began = time.perf_counter()
    index = IVFIndex.build(products, tuning_queries)
    contest = Contest({}, {"ours": time.perf_counter() - began}, {"ours": index.nbytes + products.nbytes})
    contest.searches["exact"] = lambda batch: top_k(batch, products, TUNING_K)[0]
    contest.searches["ours"] = lambda batch: index.top_k(batch, products, TUNING_K)[0]
    for name in arguments.peers:
        add_peer(contest, name, products, queries, measure_recall)
    compare_searches(contest, products, queries, measure_recall)
    compare_filters(index, products, queries, first_attribute)


def add_peer(
    contest: Contest,
    name: str,
    products: np.ndarray,
    queries: np.ndarray,
    measure_recall: Callable[[np.ndarray], float],
) -> None:
    """Build the index of a peer; its search joins the contest at the smallest effort with the target recall."""
    began = time.perf_counter()
    peer = PEERS[name](products)
    contest.build_seconds[name], contest.nbytes[name] = time.perf_counter() - began, peer.nbytes
    for effort in show_progress(EFFORTS, name):
        if measure_recall(peer.search(queries, effort)) >= TARGET_RECALL:
            contest.searches[name] = partial(peer.search, effort=effort)
            return


def compare_searches(
    contest: Contest, products: np.ndarray, queries: np.ndarray, measure_recall: Callable[[np.ndarray], float]
) -> None:
    """Time all searches in turns and print the table."""
    best = dict.fromkeys(contest.searches, np.inf)
    for _ in range(ROUNDS):
        for name, search in contest.searches.items():
            began = time.perf_counter()
            search(queries)
            best[name] = min(best[name], time.perf_counter() - began)
    fastest = min(seconds for name, seconds in best.items() if name in PEERS)
    print("| | recall@10 | queries/s | of the best peer | one at a time, ms | bytes a product | built in s |")
    print("|---|---|---|---|---|---|---|")
    for name, search in contest.searches.items():
        _, milliseconds = time_single_queries(search, queries[:SINGLE_QUERIES])
        rate = len(queries) / best[name]
        bytes_per_product = contest.nbytes.get(name, products.nbytes) / len(products)
        print(
            f"| {name} | {measure_recall(search(queries)):.4f} | {rate:,.0f} | {fastest / best[name]:.2f} "
            f"| {milliseconds:.2f} | {bytes_per_product:,.0f} | {contest.build_seconds.get(name, 0):.0f} |",
            flush=True,
        )


def compare_filters(
    index: IVFIndex, products: np.ndarray, queries: np.ndarray, first_attribute: np.ndarray
) -> None:
    """Print recall and time of our index and of exact search, with filters."""
    print("\n| filter | allowed | recall@10 | ms a query | exact, ms |\n|---|---|---|---|---|")
    for name, allowed in build_filters(first_attribute).items():
        (scores, milliseconds), (exact_scores, exact_milliseconds) = (
            time_single_queries(partial(top_scores, search, products, allowed), queries[:SINGLE_QUERIES])
            for search in (index.top_k, top_k)
        )
        share = recall(scores, exact_scores).mean()
        print(
            f"| {name} | {allowed.mean():.3f} | {share:.4f} | {milliseconds:.2f} | {exact_milliseconds:.2f} |",
            flush=True,
        )


def draw_vectors(product_count: int, query_count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random products and queries.

    Returns:
        Unit vectors of products, float32 (product_count, DIM); unit vectors of queries, float32 (query_count, DIM);
        values of the products' first attribute, int (product_count,).
    """
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(ATTRIBUTES, VALUES, DIM)).astype(np.float32) / np.sqrt(DIM)
    individual = rng.normal(size=(INDIVIDUAL_DIM, DIM)).astype(np.float32) / np.sqrt(DIM * INDIVIDUAL_DIM)
    frequencies = 1 / np.arange(1, VALUES + 1)
    named = np.argsort(rng.random((query_count, ATTRIBUTES)), axis=1) < rng.integers(2, 4, (query_count, 1))
    blocks, first_attribute = [], []
    for start in range(0, product_count + query_count, BLOCK):
        size = min(BLOCK, product_count + query_count - start)
        values = rng.choice(VALUES, (size, ATTRIBUTES), p=frequencies / frequencies.sum())
        weights = np.ones((size, ATTRIBUTES), np.float32)
        query_rows = np.arange(start, start + size) - product_count  # negative for products
        weights[query_rows >= 0] = named[query_rows[query_rows >= 0]]
        coordinates = rng.normal(size=(size, INDIVIDUAL_DIM)).astype(np.float32)
        vectors = INDIVIDUAL_WEIGHT * np.sqrt(ATTRIBUTES) * coordinates @ individual
        vectors += NOISE_WEIGHT * np.sqrt(ATTRIBUTES / DIM) * rng.normal(size=(size, DIM)).astype(np.float32)
        for n in range(ATTRIBUTES):
            vectors += weights[:, n : n + 1] * directions[n, values[:, n]]
        blocks.append((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
        first_attribute.append(values[:, 0])
    everything = np.concatenate(blocks)
    first_values = np.concatenate(first_attribute)[:product_count]
    return everything[:product_count], everything[product_count:], first_values


def build_filters(first_attribute: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of products, bool (N,), by name."""
    uniform = np.random.default_rng(1).random(len(first_attribute))
    random_masks = {f"by chance, {share:.0%}": uniform < share for share in (0.5, 0.1, 0.01)}
    return random_masks | {f"attribute = {value}": first_attribute == value for value in (0, 4, 15)}


def top_scores(
    search: Callable[..., tuple[np.ndarray, np.ndarray]],
    products: np.ndarray,
    allowed: np.ndarray,
    queries: np.ndarray,
) -> np.ndarray:
    """Scores of the best allowed products."""
    return search(queries, products, TUNING_K, allowed)[1]


def time_single_queries(search: Search, queries: np.ndarray) -> tuple[np.ndarray, float]:
    """Search one query at a time; returns the results, and the median time in ms."""
    results, seconds = [], []
    for query in queries[:, None]:
        began = time.perf_counter()
        results.append(search(query))
        seconds.append(time.perf_counter() - began)
    return np.concatenate(results), 1000 * float(np.median(seconds))


def faiss_builder(recipe: str, refine_factor: int = 1) -> Callable[[np.ndarray], BuiltIndex]:
    """Builds an index of faiss's factory; if it refines, `refine_factor` × K candidates are scored exactly."""

    def build(products: np.ndarray) -> BuiltIndex:
        index = faiss.index_factory(DIM, recipe, faiss.METRIC_INNER_PRODUCT)
        if recipe.startswith("HNSW"):
            index.hnsw.efConstruction = 128
        index.train(products[:: max(1, len(products) // 200_000)])
        index.add(products)

        def search(queries: np.ndarray, effort: int) -> np.ndarray:
            params = (
                faiss.SearchParametersHNSW(efSearch=max(effort, TUNING_K))
                if recipe.startswith("HNSW")
                else faiss.SearchParametersIVF(nprobe=effort)
            )
            if recipe.endswith("RFlat"):
                params = faiss.IndexRefineSearchParameters(k_factor=refine_factor, base_index_params=params)
            return index.search(queries, TUNING_K, params=params)[1]

        return BuiltIndex(search, faiss.serialize_index(index).nbytes)

    return build


def usearch_builder(dtype: str) -> Callable[[np.ndarray], BuiltIndex]:
    """Builds a graph of usearch with numbers of a dtype."""

    def build(products: np.ndarray) -> BuiltIndex:
        from usearch.index import Index  # the other benches that draw vectors do not need it

        index = Index(ndim=DIM, metric="ip", dtype=dtype, connectivity=16, expansion_add=128)
        index.add(np.arange(len(products)), products, threads=THREADS)

        def search(queries: np.ndarray, effort: int) -> np.ndarray:
            index.expansion_search = max(effort, TUNING_K)
            return (
                index.search(queries, TUNING_K, threads=THREADS)
                .keys.reshape(len(queries), TUNING_K)
                .astype(np.int64)
            )

        return BuiltIndex(search, index.memory_usage)

    return build


PEERS = {
    "faiss HNSW32": faiss_builder("HNSW32"),
    "faiss IVF1024,Flat": faiss_builder("IVF1024,Flat"),
    "faiss IVF1024,PQ128x4fs,RFlat": faiss_builder("IVF1024,PQ128x4fs,RFlat", 32),
    "faiss IVF4096,PQ128x4fs,RFlat": faiss_builder("IVF4096,PQ128x4fs,RFlat", 128),
    "usearch f32": usearch_builder("f32"),
    "usearch bf16": usearch_builder("bf16"),
}

if __name__ == "__main__":
    main()
