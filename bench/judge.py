"""How fast the judge is, beside its peers: `python bench/judge.py RACE [N]`.

Each prints the seconds of every side and its ratio, the peer's over ours: the best of some rounds, taken in turns in
one process. Every side starts from its own natural input, and what turns that into its own structures is timed with it.
Peers are pytrec_eval and, where they are installed (`pip install -e '.[bench]'`), ranx, ir_measures and torchmetrics.

    arrays        N queries × 100 results, ndcg@10, recall@100 and mrr@10: ours from arrays, torchmetrics from tensors,
                  the others from nested dictionaries
    parquet       the same, ours from parquet files
    dicts         the same, ours from nested dictionaries
    cold          a process that reads a TREC run of N queries × 100, imports and compilation and all
    memory        the peak of a process that judges N queries × 100 from parquet
    permutations  a paired randomisation test of 10,000 permutations over N queries, against ranx's
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.metrics import score
from eval.rankings import Qrels, Run
from eval.significance import sign_flip

ROUNDS, PATIENCE, DEPTH, JUDGED, PRODUCTS, PART = 5, 20.0, 100, 10, 100_000, 50_000
METRICS = ("ndcg@10", "recall@100", "mrr@10")
COLD = {
    "pytrec_eval": """
import sys, pytrec_eval
with open(sys.argv[1]) as run, open(sys.argv[2]) as qrels:
    judge = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"ndcg_cut.10", "recall.100", "recip_rank"})
    found = judge.evaluate(pytrec_eval.parse_run(run)).values()
print({name: sum(one[name] for one in found) / len(found) for name in ("ndcg_cut_10", "recall_100", "recip_rank")})
""",
    "ranx": """
import sys, ranx
run, qrels = ranx.Run.from_file(sys.argv[1], kind="trec"), ranx.Qrels.from_file(sys.argv[2], kind="trec")
print(ranx.evaluate(qrels, run, ["ndcg@10", "recall@100", "mrr@10"]))
""",
    "ir_measures": """
import sys, ir_measures
from ir_measures import RR, R, nDCG
run, qrels = ir_measures.read_trec_run(sys.argv[1]), ir_measures.read_trec_qrels(sys.argv[2])
print(ir_measures.calc_aggregate([nDCG @ 10, R @ 100, RR @ 10], qrels, run))
""",
}
Side = Callable[[], object]
Nested = Mapping[str, Mapping[str, float]]


def drawn(queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Products returned, int (Q, DEPTH), with their scores, falling; products judged, int (Q, JUDGED), with grades."""
    rng = np.random.default_rng(seed)
    wide = PRODUCTS // DEPTH
    items = rng.permutation(PRODUCTS)[rng.integers(wide, size=(queries, DEPTH)) + np.arange(DEPTH) * wide]
    scores = -np.sort(-rng.random((queries, DEPTH)), axis=1)
    places = rng.permuted(np.tile(np.arange(DEPTH), (queries, 1)), axis=1)[:, :JUDGED]
    return items, scores, np.take_along_axis(items, places, 1), rng.integers(0, 4, (queries, JUDGED))


def nested(ids: np.ndarray, values: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        str(query): dict(zip(map(str, row), numbers, strict=True))
        for query, (row, numbers) in enumerate(zip(ids.tolist(), values.tolist(), strict=True))
    }


def race(peers: Mapping[str, Side], ours: Side) -> str:
    sides = {**peers, "ours": ours}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            if sum(times[name]) < PATIENCE:
                began = time.perf_counter()
                side()
                times[name].append(time.perf_counter() - began)
    own = min(times.pop("ours"))
    told = [f"{name} {min(took):.3f} s, ratio {min(took) / own:.2f}" for name, took in times.items()]
    return "\n".join([f"ours {own:.3f} s", *told])


def from_dicts(run: Nested, qrels: Nested) -> Iterator[tuple[str, Side]]:
    """The peers that take nested dictionaries; what must be compiled has been."""
    import pytrec_eval

    names = {"ndcg_cut.10", "recall.100", "recip_rank"}
    yield "pytrec_eval", lambda: pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    if find_spec("ranx"):
        import ranx

        def with_ranx(run: Nested, qrels: Nested) -> object:
            return ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(METRICS))

        with_ranx(*({query: pairs[query] for query in list(pairs)[:50]} for pairs in (run, qrels)))
        yield "ranx", lambda: with_ranx(run, qrels)
    if find_spec("ir_measures"):
        import ir_measures
        from ir_measures import RR, R, nDCG

        yield "ir_measures", lambda: ir_measures.calc_aggregate([nDCG @ 10, R @ 100, RR @ 10], qrels, run)


def from_tensors(
    items: np.ndarray, scores: np.ndarray, judged: np.ndarray, grades: np.ndarray
) -> Iterator[tuple[str, Side]]:
    """torchmetrics, which wants every result's grade."""
    if not find_spec("torchmetrics"):
        return
    import torch
    from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG, RetrievalRecall

    given = np.zeros(items.shape, np.int64)
    for column in range(judged.shape[1]):
        given += (items == judged[:, column, None]) * grades[:, column, None]
    target, preds = torch.from_numpy(given.ravel()), torch.from_numpy(scores.ravel()).float()
    rows = torch.arange(len(items)).repeat_interleave(items.shape[1])

    def work() -> object:
        graded, one, other = (
            RetrievalNormalizedDCG(top_k=10),
            RetrievalRecall(top_k=100),
            RetrievalMRR(top_k=10),
        )
        graded.update(preds, target, rows)
        for metric in (one, other):
            metric.update(preds, target > 0, rows)
        return [metric.compute() for metric in (graded, one, other)]

    yield "torchmetrics", work


def arrays(queries: int) -> str:
    items, scores, judged, grades = drawn(queries)
    run, qrels = nested(items, scores), nested(judged, grades)
    returned = (np.arange(queries).repeat(DEPTH), items.ravel(), scores.ravel())
    known = (np.arange(queries).repeat(JUDGED), judged.ravel(), grades.ravel())

    def ours() -> object:
        return score(Run.from_arrays(*returned), Qrels.from_arrays(*known), METRICS).means()

    peers = dict(from_dicts(run, qrels)) | dict(from_tensors(items, scores, judged, grades))
    return race(peers, ours)


def parquet(queries: int) -> str:
    items, scores, judged, grades = drawn(queries)
    run, qrels = nested(items, scores), nested(judged, grades)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("run.parquet", "qrels.parquet")]
        Run.from_dict(run).to_parquet(files[0])
        Qrels.from_dict(qrels).to_parquet(files[1])
        return race(
            dict(from_dicts(run, qrels)),
            lambda: score(Run.from_parquet(files[0]), Qrels.from_parquet(files[1]), METRICS).means(),
        )


def dicts(queries: int) -> str:
    items, scores, judged, grades = drawn(queries)
    run, qrels = nested(items, scores), nested(judged, grades)
    return race(
        dict(from_dicts(run, qrels)),
        lambda: score(Run.from_dict(run), Qrels.from_dict(qrels), METRICS).means(),
    )


def cold(queries: int) -> str:
    items, scores, judged, grades = drawn(queries)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("run.txt", "qrels.txt")]
        Run.from_dict(nested(items, scores)).to_trec(files[0])
        Qrels.from_dict(nested(judged, grades)).to_trec(files[1])

        def process(*words: str) -> Side:
            command = [sys.executable, *words, *map(str, files)]
            return lambda: subprocess.run(command, check=True, capture_output=True)

        peers = {name: process("-c", code) for name, code in COLD.items() if find_spec(name)}
        return race(peers, process("-m", "eval", "score"))


def memory(queries: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("run.parquet", "qrels.parquet")]
        names = pa.array([f"p{product:07}" for product in range(PRODUCTS)])
        with ExitStack() as stack:
            writers: dict[str, pq.ParquetWriter] = {}
            for start in range(0, queries, PART):
                part = min(PART, queries - start)
                ids = pa.array([f"q{query:07}" for query in range(start, start + part)])
                items, scores, judged, grades = drawn(part, seed=start)
                for path, own, name, values in zip(
                    files, (items, judged), ("score", "grade"), (scores, grades), strict=True
                ):
                    rows = pa.array(np.arange(part).repeat(own.shape[1]))
                    columns = {"query_id": ids.take(rows), "product_id": names.take(pa.array(own.ravel()))}
                    table = pa.table(columns | {name: values.ravel()})
                    if name not in writers:
                        writers[name] = stack.enter_context(pq.ParquetWriter(path, table.schema))
                    writers[name].write_table(table)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "eval", "score", *map(str, files)], check=True, capture_output=True
        )
        took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return f"{queries:,} queries: {took:.1f} s, peak {peak:.2f} GiB"


def permutations(queries: int) -> str:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, queries))
    began = time.perf_counter()
    sign_flip(a - b, 10_000)
    took = time.perf_counter() - began
    told = f"ours {1e6 * took / 10_000:.1f} µs a permutation of {queries:,} queries"
    if not find_spec("ranx"):
        return f"{told}; ranx is not installed"
    from ranx.statistical_tests.fisher_randomization_test import fisher_randomization_test

    few = 100
    fisher_randomization_test(a, b, 10)  # compiled on the first call
    began = time.perf_counter()
    fisher_randomization_test(a, b, few)
    theirs = (time.perf_counter() - began) / few
    return f"{told}, ranx {1e6 * theirs:.1f} µs, ratio {theirs / took * 10_000:.1f}"


RACES = {one.__name__: one for one in (arrays, parquet, dicts, cold, memory, permutations)}
SIZES = {
    "arrays": 100_000,
    "parquet": 100_000,
    "dicts": 100_000,
    "cold": 10_000,
    "memory": 1_000_000,
    "permutations": 10_000,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("race", choices=list(RACES))
    parser.add_argument("queries", type=int, nargs="?")
    asked = parser.parse_args()
    print(RACES[asked.race](asked.queries or SIZES[asked.race]))


if __name__ == "__main__":
    main()
