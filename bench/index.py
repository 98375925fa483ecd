"""Approximate search beside faiss and usearch used directly: `OMP_NUM_THREADS=2 python bench/index.py PRODUCTS`.

Vectors are drawn like those that the model makes of the sample catalogue: a product is the sum of a direction for the
value of each of four attributes, values with Zipf's frequencies, something of its own in few directions, and noise; a
query names two or three of the attributes. Each peer looks at as little as finds 0.99 of the true best 10 for the
queries that it is timed with, or is left out; ours was set for 1,000 other ones. Timed in turns, the best of some
rounds; memory is that of the index with its vectors. Then ours with filters: products picked by chance, and by a value
of an attribute.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import faiss
import numpy as np
from tqdm import tqdm
from usearch.index import Index

from fusion.search.vector_index import RECALL, K, Lists, recall, top_k

ATTRIBUTES, VALUES, OWN, DIM = 4, 16, 16, 256
SPREAD, NOISE = 0.35, 0.12  # of what is a product's own, and of noise, for an attribute's 1
KNOWN = 1000  # queries that ours is set for
EFFORTS = [int(2 ** (n / 4)) for n in range(8, 48)]
ROUNDS, ALONE = 5, 200
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
BLOCK = 50_000

Search = Callable[[np.ndarray], np.ndarray]  # queries (Q, DIM) → rows, or scores, (Q, K)


class Built(NamedTuple):
    """An index: a search at an effort, and bytes."""

    search: Callable[[np.ndarray, int], np.ndarray]
    nbytes: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("products", type=int)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument(
        "--peers", nargs="+", default=list(PEERS), choices=PEERS, metavar="PEER", help=", ".join(PEERS)
    )
    asked = parser.parse_args()
    faiss.omp_set_num_threads(THREADS)
    products, queries, first = draw(asked.products, KNOWN + asked.queries)
    known, queries = queries[:KNOWN], queries[KNOWN:]
    truth = top_k(queries, products, K)[1]

    def quality(rows: np.ndarray) -> float:
        scores = np.einsum("qkd,qd->qk", products[rows], queries)
        return float(recall(scores, truth).mean())

    began = time.perf_counter()
    lists = Lists.build(products, known)
    took = {"ours": time.perf_counter() - began}
    nbytes = {"ours": lists.nbytes + products.nbytes}
    searches: dict[str, Search] = {
        "exact": lambda some: top_k(some, products, K)[0],
        "ours": lambda some: lists.top_k(some, products, K)[0],
    }
    for name in asked.peers:
        began = time.perf_counter()
        built = PEERS[name](products)
        took[name], nbytes[name] = time.perf_counter() - began, built.nbytes
        for effort in tqdm(EFFORTS, name):
            if quality(built.search(queries, effort)) >= RECALL:
                searches[name] = lambda some, built=built, effort=effort: built.search(some, effort)
                break
    best = dict.fromkeys(searches, np.inf)
    for _ in range(ROUNDS):
        for name, search in searches.items():
            began = time.perf_counter()
            search(queries)
            best[name] = min(best[name], time.perf_counter() - began)
    fastest = min(seconds for name, seconds in best.items() if name in PEERS)
    print("| | recall@10 | queries/s | of the best peer | one at a time, ms | bytes a product | built in s |")
    print("|---|---|---|---|---|---|---|")
    for name, search in searches.items():
        _, alone = clocked(search, queries[:ALONE])
        rate = len(queries) / best[name]
        print(
            f"| {name} | {quality(search(queries)):.4f} | {rate:,.0f} | {fastest / best[name]:.2f} "
            f"| {alone:.2f} | {nbytes.get(name, products.nbytes) / len(products):,.0f} "
            f"| {took.get(name, 0):.0f} |",
            flush=True,
        )
    print("\n| filter | allowed | recall@10 | ms a query | exact, ms |\n|---|---|---|---|---|")
    for name, allowed in filters(first).items():
        (mine, ours), (exactly, theirs) = (
            clocked(partial(scores_of, search, products, allowed), queries[:ALONE])
            for search in (lists.top_k, top_k)
        )
        share = recall(mine, exactly).mean()
        print(f"| {name} | {allowed.mean():.3f} | {share:.4f} | {ours:.2f} | {theirs:.2f} |", flush=True)


def draw(count: int, asked: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products (count, DIM) and queries (asked, DIM), float32, of length 1; products' values of the first attribute."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(ATTRIBUTES, VALUES, DIM)).astype(np.float32) / np.sqrt(DIM)
    own = rng.normal(size=(OWN, DIM)).astype(np.float32) / np.sqrt(DIM * OWN)
    often = 1 / np.arange(1, VALUES + 1)
    named = np.argsort(rng.random((asked, ATTRIBUTES)), axis=1) < rng.integers(2, 4, (asked, 1))
    drawn, first = [], []
    for start in range(0, count + asked, BLOCK):
        size = min(BLOCK, count + asked - start)
        which = rng.choice(VALUES, (size, ATTRIBUTES), p=often / often.sum())
        weight = np.ones((size, ATTRIBUTES), np.float32)
        place = np.arange(start, start + size) - count
        weight[place >= 0] = named[place[place >= 0]]
        some = SPREAD * np.sqrt(ATTRIBUTES) * rng.normal(size=(size, OWN)).astype(np.float32) @ own
        some += NOISE * np.sqrt(ATTRIBUTES / DIM) * rng.normal(size=(size, DIM)).astype(np.float32)
        for n in range(ATTRIBUTES):
            some += weight[:, n : n + 1] * values[n, which[:, n]]
        drawn.append((some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float32))
        first.append(which[:, 0])
    vectors = np.concatenate(drawn)
    return vectors[:count], vectors[count:], np.concatenate(first)[:count]


def filters(first: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of products."""
    chance = np.random.default_rng(1).random(len(first))
    by_chance = {f"by chance, {share:.0%}": chance < share for share in (0.5, 0.1, 0.01)}
    return by_chance | {f"attribute = {value}": first == value for value in (0, 4, 15)}


def scores_of(
    search: Callable[..., tuple[np.ndarray, np.ndarray]],
    products: np.ndarray,
    allowed: np.ndarray,
    queries: np.ndarray,
) -> np.ndarray:
    """Of the best `K` products allowed."""
    return search(queries, products, K, allowed)[1]


def clocked(search: Search, queries: np.ndarray) -> tuple[np.ndarray, float]:
    """What is found for each query alone, and the median time in ms."""
    found, took = [], []
    for query in queries[:, None]:
        began = time.perf_counter()
        found.append(search(query))
        took.append(time.perf_counter() - began)
    return np.concatenate(found), 1000 * float(np.median(took))


def by_faiss(recipe: str, again: int = 1) -> Callable[[np.ndarray], Built]:
    """An index of faiss's factory; where it refines, `again` times K candidates are scored in full."""

    def build(products: np.ndarray) -> Built:
        index = faiss.index_factory(DIM, recipe, faiss.METRIC_INNER_PRODUCT)
        if recipe.startswith("HNSW"):
            index.hnsw.efConstruction = 128
        index.train(products[:: max(1, len(products) // 200_000)])
        index.add(products)

        def search(queries: np.ndarray, effort: int) -> np.ndarray:
            params = (
                faiss.SearchParametersHNSW(efSearch=max(effort, K))
                if recipe.startswith("HNSW")
                else faiss.SearchParametersIVF(nprobe=effort)
            )
            if recipe.endswith("RFlat"):
                params = faiss.IndexRefineSearchParameters(k_factor=again, base_index_params=params)
            return index.search(queries, K, params=params)[1]

        return Built(search, faiss.serialize_index(index).nbytes)

    return build


def by_usearch(dtype: str) -> Callable[[np.ndarray], Built]:
    """A graph of usearch, of numbers of this kind."""

    def build(products: np.ndarray) -> Built:
        index = Index(ndim=DIM, metric="ip", dtype=dtype, connectivity=16, expansion_add=128)
        index.add(np.arange(len(products)), products, threads=THREADS)

        def search(queries: np.ndarray, effort: int) -> np.ndarray:
            index.expansion_search = max(effort, K)
            return index.search(queries, K, threads=THREADS).keys.reshape(len(queries), K).astype(np.int64)

        return Built(search, index.memory_usage)

    return build


PEERS = {
    "faiss HNSW32": by_faiss("HNSW32"),
    "faiss IVF1024,Flat": by_faiss("IVF1024,Flat"),
    "faiss IVF1024,PQ128x4fs,RFlat": by_faiss("IVF1024,PQ128x4fs,RFlat", 32),
    "faiss IVF4096,PQ128x4fs,RFlat": by_faiss("IVF4096,PQ128x4fs,RFlat", 128),
    "usearch f32": by_usearch("f32"),
    "usearch bf16": by_usearch("bf16"),
}

if __name__ == "__main__":
    main()
