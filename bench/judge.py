"""Speed of the evaluation metrics, compared with other libraries: `python bench/judge.py RACE [N]`.

Prints the seconds of each library, and their ratio to ours. The best of several rounds counts; the libraries take turns
in one process. Each starts from its natural input, and the conversion into its own structures is timed too. Peers are
pytrec_eval and, if installed (`pip install -e '.[bench]'`), ranx, ir_measures, ir_eval_numba and torchmetrics; and the
program trec_eval, if it is on the PATH.

    arrays    N queries × 100 results, ndcg@10, recall@100 and mrr@10: ours from arrays, torchmetrics from tensors,
              ir_eval_numba (whose NDCG is binary) from an array per query, the others from nested dictionaries
    parquet   the same, ours from parquet files
    dicts     the same, ours from nested dictionaries
    distinct  as dicts; no product occurs twice
    shuffled  as distinct, with the results of a query in random order
    tied      as dicts, with ten different scores
    cold      a process that reads a TREC run of N queries × 100, with imports and compilation
    memory    peak memory of a process that evaluates N queries × 100 from parquet
    test      our paired test over N queries, which is exact, and ranx's randomisation test of 1,000 permutations
"""

import argparse
import os
import resource
import shutil
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
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run
from vitrine_judge.significance import paired_test

ROUNDS, MAX_SECONDS, DEPTH, JUDGED, PRODUCTS, BATCH = 5, 20.0, 100, 10, 100_000, 50_000
METRICS = ("ndcg@10", "recall@100", "mrr@10")
COLD = {
    "pytrec_eval": """
import sys, pytrec_eval
with open(sys.argv[1]) as run, open(sys.argv[2]) as qrels:
    judge = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"ndcg_cut.10", "recall.100", "recip_rank"})
    scores = judge.evaluate(pytrec_eval.parse_run(run)).values()
print({name: sum(row[name] for row in scores) / len(scores) for name in ("ndcg_cut_10", "recall_100", "recip_rank")})
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
Task = Callable[[], object]
Nested = Mapping[str, Mapping[str, float]]


def draw_rankings(queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ranked products, int (Q, DEPTH), with descending scores; judged products, int (Q, JUDGED), with grades."""
    rng = np.random.default_rng(seed)
    stride = PRODUCTS // DEPTH
    items = rng.permutation(PRODUCTS)[rng.integers(stride, size=(queries, DEPTH)) + np.arange(DEPTH) * stride]
    scores = -np.sort(-rng.random((queries, DEPTH)), axis=1)
    places = rng.permuted(np.tile(np.arange(DEPTH), (queries, 1)), axis=1)[:, :JUDGED]
    return items, scores, np.take_along_axis(items, places, 1), rng.integers(0, 4, (queries, JUDGED))


def to_nested(ids: np.ndarray, values: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        str(query): dict(zip(map(str, row), numbers, strict=True))
        for query, (row, numbers) in enumerate(zip(ids.tolist(), values.tolist(), strict=True))
    }


def race(peers: Mapping[str, Task], ours: Task) -> str:
    tasks = {**peers, "ours": ours}
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            if sum(times[name]) < MAX_SECONDS:
                began = time.perf_counter()
                task()
                times[name].append(time.perf_counter() - began)
    our_seconds = min(times.pop("ours"))
    lines = [f"ours {our_seconds:.3f} s"]
    for name, seconds in times.items():
        lines.append(f"{name} {min(seconds):.3f} s, ratio {min(seconds) / our_seconds:.2f}")
    return "\n".join(lines)


def dict_peers(run: Nested, qrels: Nested) -> Iterator[tuple[str, Task]]:
    """Tasks of the peers that take nested dictionaries; ranx is compiled before."""
    import pytrec_eval

    names = {"ndcg_cut.10", "recall.100", "recip_rank"}
    yield "pytrec_eval", lambda: pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    if find_spec("ranx"):
        import ranx

        def run_ranx(run: Nested, qrels: Nested) -> object:
            return ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(METRICS))

        run_ranx(*({query: pairs[query] for query in list(pairs)[:50]} for pairs in (run, qrels)))
        yield "ranx", lambda: run_ranx(run, qrels)
    if find_spec("ir_measures"):
        import ir_measures
        from ir_measures import RR, R, nDCG

        yield "ir_measures", lambda: ir_measures.calc_aggregate([nDCG @ 10, R @ 100, RR @ 10], qrels, run)


def tensor_peers(
    items: np.ndarray, scores: np.ndarray, judged: np.ndarray, grades: np.ndarray
) -> Iterator[tuple[str, Task]]:
    """The task of torchmetrics, which needs the grade of every result."""
    if not find_spec("torchmetrics"):
        return
    import torch
    from torchmetrics.retrieval import RetrievalMRR, RetrievalNormalizedDCG, RetrievalRecall

    result_grades = np.zeros(items.shape, np.int64)
    for column in range(judged.shape[1]):
        result_grades += (items == judged[:, column, None]) * grades[:, column, None]
    target, preds = torch.from_numpy(result_grades.ravel()), torch.from_numpy(scores.ravel()).float()
    rows = torch.arange(len(items)).repeat_interleave(items.shape[1])

    def run_torchmetrics() -> object:
        ndcg, recall, mrr = (
            RetrievalNormalizedDCG(top_k=10),
            RetrievalRecall(top_k=100),
            RetrievalMRR(top_k=10),
        )
        ndcg.update(preds, target, rows)
        for metric in (recall, mrr):
            metric.update(preds, target > 0, rows)
        return [metric.compute() for metric in (ndcg, recall, mrr)]

    yield "torchmetrics", run_torchmetrics


def array_peers(items: np.ndarray, judged: np.ndarray, grades: np.ndarray) -> Iterator[tuple[str, Task]]:
    """The task of ir_eval_numba, which needs the relevant products of each query and knows no grades."""
    if not find_spec("ir_eval_numba"):
        return
    from ir_eval_numba.metrics import ndcg, recall, reciprocal_rank

    relevant = [row[is_relevant] for row, is_relevant in zip(judged, grades > 0, strict=True)]
    pairs = [(products, results) for products, results in zip(relevant, items, strict=True) if len(products)]

    def run_numba(pairs: list[tuple[np.ndarray, np.ndarray]]) -> object:
        functions = ((ndcg, 10), (recall, 100), (reciprocal_rank, 10))
        return [sum(function(*pair, k) for pair in pairs) / len(pairs) for function, k in functions]

    run_numba(pairs[:1])  # compiled on the first call
    yield "ir_eval_numba", lambda: run_numba(pairs)


def arrays(queries: int) -> str:
    items, scores, judged, grades = draw_rankings(queries)
    run, qrels = to_nested(items, scores), to_nested(judged, grades)
    run_arrays = (np.arange(queries).repeat(DEPTH), items.ravel(), scores.ravel())
    qrels_arrays = (np.arange(queries).repeat(JUDGED), judged.ravel(), grades.ravel())

    def score_arrays() -> object:
        return score(Run.from_arrays(*run_arrays), Qrels.from_arrays(*qrels_arrays), METRICS).means()

    peers = dict(dict_peers(run, qrels)) | dict(tensor_peers(items, scores, judged, grades))
    peers |= dict(array_peers(items, judged, grades))
    return race(peers, score_arrays)


def parquet(queries: int) -> str:
    items, scores, judged, grades = draw_rankings(queries)
    run, qrels = to_nested(items, scores), to_nested(judged, grades)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("run.parquet", "qrels.parquet")]
        Run.from_dict(run).to_parquet(files[0])
        Qrels.from_dict(qrels).to_parquet(files[1])
        return race(
            dict(dict_peers(run, qrels)),
            lambda: score(Run.from_parquet(files[0]), Qrels.from_parquet(files[1]), METRICS).means(),
        )


def dicts(queries: int) -> str:
    items, scores, judged, grades = draw_rankings(queries)
    return race_dicts(to_nested(items, scores), to_nested(judged, grades))


def distinct(queries: int) -> str:
    items, scores, judged, grades = draw_rankings(queries)
    first = PRODUCTS * np.arange(queries)[:, None]
    return race_dicts(to_nested(first + items, scores), to_nested(first + judged, grades))


def shuffled(queries: int) -> str:
    items, scores, judged, grades = draw_rankings(queries)
    first = PRODUCTS * np.arange(queries)[:, None]
    scores = np.random.default_rng(1).permuted(scores, axis=1)
    return race_dicts(to_nested(first + items, scores), to_nested(first + judged, grades))


def tied(queries: int) -> str:
    items, scores, judged, grades = draw_rankings(queries)
    return race_dicts(to_nested(items, np.floor(10 * scores)), to_nested(judged, grades))


def race_dicts(run: Nested, qrels: Nested) -> str:
    return race(
        dict(dict_peers(run, qrels)),
        lambda: score(Run.from_dict(run), Qrels.from_dict(qrels), METRICS).means(),
    )


def cold(queries: int) -> str:
    items, scores, judged, grades = draw_rankings(queries)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("run.txt", "qrels.txt")]
        Run.from_dict(to_nested(items, scores)).to_trec(files[0])
        Qrels.from_dict(to_nested(judged, grades)).to_trec(files[1])

        # As installed packages do, ours keep their bytecode.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

        def run_process(*words: str | Path) -> Task:
            return lambda: subprocess.run(words, check=True, capture_output=True, env=environment)

        peers = {
            name: run_process(sys.executable, "-c", code, *files)
            for name, code in COLD.items()
            if find_spec(name)
        }
        if trec_eval := shutil.which("trec_eval"):
            measures = ("-m", "ndcg_cut.10", "-m", "recall.100", "-m", "recip_rank")
            peers["trec_eval"] = run_process(trec_eval, *measures, *reversed(files))
        return race(peers, run_process(sys.executable, "-m", "vitrine_judge", "score", *files))


def memory(queries: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("run.parquet", "qrels.parquet")]
        names = pa.array([f"p{product:07}" for product in range(PRODUCTS)])
        with ExitStack() as stack:
            writers: dict[str, pq.ParquetWriter] = {}
            for start in range(0, queries, BATCH):
                size = min(BATCH, queries - start)
                ids = pa.array([f"q{query:07}" for query in range(start, start + size)])
                items, scores, judged, grades = draw_rankings(size, seed=start)
                for path, product_rows, name, values in zip(
                    files, (items, judged), ("score", "grade"), (scores, grades), strict=True
                ):
                    rows = pa.array(np.arange(size).repeat(product_rows.shape[1]))
                    columns = {
                        "query_id": ids.take(rows),
                        "product_id": names.take(pa.array(product_rows.ravel())),
                    }
                    table = pa.table(columns | {name: values.ravel()})
                    if name not in writers:
                        writers[name] = stack.enter_context(pq.ParquetWriter(path, table.schema))
                    writers[name].write_table(table)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "vitrine_judge", "score", *map(str, files)],
            check=True,
            capture_output=True,
        )
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return f"{queries:,} queries: {seconds:.1f} s, peak {peak:.2f} GiB"


def test(queries: int) -> str:
    a, b = np.random.default_rng(0).random((2, queries))
    peers: dict[str, Task] = {}
    if find_spec("ranx"):
        from ranx.statistical_tests.fisher_randomization_test import fisher_randomization_test

        fisher_randomization_test(a, b, 10)  # compiled on the first call
        peers["ranx"] = lambda: fisher_randomization_test(a, b, 1_000)
    return race(peers, lambda: paired_test(a, b))


RACES = {
    function.__name__: function
    for function in (arrays, parquet, dicts, distinct, shuffled, tied, cold, memory, test)
}
SIZES = {
    "arrays": 100_000,
    "parquet": 100_000,
    "dicts": 20_000,
    "distinct": 20_000,
    "shuffled": 20_000,
    "tied": 20_000,
    "cold": 10_000,
    "memory": 1_000_000,
    "test": 10_000,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("race", choices=list(RACES))
    parser.add_argument("queries", type=int, nargs="?")
    arguments = parser.parse_args()
    print(RACES[arguments.race](arguments.queries or SIZES[arguments.race]))


if __name__ == "__main__":
    main()
