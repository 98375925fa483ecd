"""Search through Milvus Lite beside the embedded index: `OMP_NUM_THREADS=1 python bench/milvus.py PRODUCTS`.

The vectors are those of bench/index.py, and the titles are random words with Zipf's frequencies; categories, brands,
prices, stock and groups of variants are random. Recall and equality are against exact search, by queries in one call;
latency is of single queries, of both engines in turns.

With --sample DATA FEATURES MODEL INDEX EVALUATION, the test queries of a data set are ranked by both engines as they
are served, and NDCG@10 of both stands in a second table.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
from index import draw_vectors
from tables import format_table
from vitrine_judge.significance import paired_test

from fusion.search.analysis import CatalogueAnalyser
from fusion.search.filters import NO_FILTERS, Filters
from fusion.search.hybrid import Hybrid
from fusion.search.lexical_index import LexicalIndex
from fusion.search.marker import IndexMarker, ModelMarker, QueryEmbeddings
from fusion.search.milvus_client import close, connect
from fusion.search.milvus_collection import write_collection
from fusion.search.milvus_index import MilvusIndex
from fusion.search.query_terms import QueryTerms
from fusion.search.search_index import SearchIndex
from fusion.search.vector_index import TUNING_K, IVFIndex
from scoring.judgements import read_judgements_by_judge
from scoring.milvus_system import rank_milvus
from scoring.params import EvaluateParams
from scoring.results import score_systems
from scoring.systems import HYBRID, MILVUS, build_run_table, load_candidate, load_index
from serving.publish import measure_recall

VOCABULARY, TITLE_WORDS, QUERY_WORDS = 20_000, 12, 3
HYBRID_SETTINGS = Hybrid(0.5, 100, "en")
SINGLE_QUERIES = 20
FILTERS = {
    "no filter": NO_FILTERS,
    "category with subtree (10 %)": Filters({"category": ["home/c3"]}),
    "brand, price, stock (1 %)": Filters({"brand": ["Brand 7"]}, 10, 60, available=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("products", type=int)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--sample", type=Path, nargs=5, metavar=("DATA", "FEATURES", "MODEL", "INDEX", "EVALUATION")
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = str(Path(folder) / "bench.db")
        compare_engines(uri, arguments.products, arguments.queries)
        close(uri)
    if arguments.sample:
        print(
            format_table(
                ["system", "NDCG@10", "difference", "95 % interval"], compare_sample(*arguments.sample)
            )
        )


def compare_engines(uri: str, product_count: int, query_count: int) -> None:
    index, queries, texts = draw_index(product_count, query_count)
    client = connect(uri)
    start = time.perf_counter()
    write_collection(client, index, "bench")
    written = time.perf_counter() - start
    lexical = index.require_lexical()
    terms = QueryTerms.take(lexical)
    milvus = MilvusIndex(client, "bench", terms, HYBRID_SETTINGS)
    size = sum(path.stat().st_size for path in Path(uri).rglob("*") if path.is_file())
    print(f"written in {written:.0f} s, {size / 1e6:.0f} MB on disk")
    exact = SearchIndex(index.marker, index.fields, index.vectors, {}, lexical, None, HYBRID_SETTINGS)
    rows = []
    for name, filters in FILTERS.items():
        for system, query_texts in (("model", None), ("hybrid", texts)):
            rows.append([system, name, *compare_search(milvus, exact, index, queries, filters, query_texts)])
    heads = ["system", "filter", "recall@10", "same product at each rank", "Milvus Lite, ms", "embedded, ms"]
    print(format_table(heads, rows), end="\n\n")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{memory:.1f} GB of memory at most, both engines", end="\n\n")


def compare_search(
    milvus: MilvusIndex,
    exact: SearchIndex,
    index: SearchIndex,
    queries: QueryEmbeddings,
    filters: Filters,
    texts: Sequence[str] | None,
) -> list[str]:
    expected = exact.find(queries, TUNING_K, filters, texts)
    results = milvus.find(queries, TUNING_K, filters, texts)
    same = [
        [mine["product_id"] == other["product_id"] for mine, other in zip(*rows, strict=True)]
        for rows in zip(results, expected, strict=True)
    ]

    def single(engine: MilvusIndex | SearchIndex) -> Callable[[int], object]:
        def search(query: int) -> object:
            vectors = QueryEmbeddings(queries.vectors[query : query + 1], queries.model)
            return engine.find(vectors, TUNING_K, filters, texts and texts[query : query + 1])

        return search

    times: list[list[float]] = [[], []]
    for query in range(SINGLE_QUERIES):
        for timings, search in zip(times, (single(milvus), single(index)), strict=True):
            start = time.perf_counter()
            search(query)
            timings.append(time.perf_counter() - start)
    medians = [f"{np.median(timings) * 1e3:.1f}" for timings in times]
    return [f"{measure_recall(results, expected):.4f}", f"{np.mean(same):.4f}", *medians]


def draw_index(product_count: int, query_count: int) -> tuple[SearchIndex, QueryEmbeddings, list[str]]:
    """A random catalogue, as it is served, and random queries."""
    vectors, query_vectors, _ = draw_vectors(product_count, query_count)
    random = np.random.default_rng(2)

    def draw_text(words: int) -> str:
        return " ".join(f"w{word}" for word in np.minimum(random.zipf(1.3, words), VOCABULARY))

    titles = [draw_text(TITLE_WORDS) for _ in range(product_count)]
    numbers = random.integers(0, 10, (product_count, 3))
    missing = pa.array([None] * product_count, pa.string())
    fields = pa.table(
        {
            "product_id": [f"p{row}" for row in range(product_count)],
            "title": titles,
            "category": [f"Home/c{first}/d{second}" for first, second, _ in numbers],
            "brand": [f"Brand {third}" for *_, third in numbers],
            "color": missing,
            "material": missing,
            "price": random.random(product_count) * 100,
            "max_price": pa.nulls(product_count, pa.float64()),
            "currency": ["EUR"] * product_count,
            "group_id": [f"g{row // 4}" for row in range(product_count)],
            "available": random.random(product_count) < 0.3,
        }
    )
    analyser = CatalogueAnalyser("en", {"en": 1.0}, {})
    bm25 = bm25s.BM25()
    bm25.index(
        [analyser.index_tokens(text, "en") for text in titles],
        show_progress=False,
    )
    marker = IndexMarker(ModelMarker("bench", "bench"), "bench", vectors.shape[1])
    ivf = IVFIndex.build(vectors, query_vectors)
    lexical = LexicalIndex(bm25, analyser)
    index = SearchIndex(marker, fields, vectors, {}, lexical, ivf, HYBRID_SETTINGS)
    texts = [draw_text(QUERY_WORDS) for _ in range(query_count)]
    return index, QueryEmbeddings(query_vectors, marker.model), texts


def compare_sample(data: Path, features: Path, model: Path, index: Path, evaluation: Path) -> list[list[str]]:
    """NDCG@10 of the served system in both engines, on the test queries."""
    candidate, params = load_candidate(data, features, model), EvaluateParams()
    search_index = load_index(index, candidate, features)
    hybrid = Hybrid.load(evaluation / "hybrid.json")
    rows, scores = search_index.serve(hybrid).search(
        candidate.test_embeddings, params.depth, None, candidate.test_texts
    )
    ours = build_run_table(candidate.test_queries.ids, candidate.products.ids, rows, scores)
    through_milvus = rank_milvus(candidate, search_index, hybrid, data, params)
    judgements = read_judgements_by_judge(data, "test", params.holdout)
    runs = {HYBRID: type(through_milvus).from_table(ours), MILVUS: through_milvus}
    results = score_systems(runs, HYBRID, judgements, params.configuration)
    first, second = (results.scores[system].values["ndcg@10"] for system in (HYBRID, MILVUS))
    test = paired_test(second, first)
    return [
        [HYBRID, f"{first.mean():.4f}", "", ""],
        [MILVUS, f"{second.mean():.4f}", f"{test.difference:+.4f}", f"{test.low:+.4f} to {test.high:+.4f}"],
    ]


if __name__ == "__main__":
    main()
