"""Latency of the registered model over HTTP: `python bench/serving.py [MODEL]`, after `make demo`.

MODEL is an MLflow URI, by default models:/product-search@challenger. `mlflow models serve` serves it, and gets 1,000
queries of the data set by text and by picture, one at a time and eight at a time. For comparison, encoder and index
answer the same queries in this process. Times are milliseconds.
"""

import argparse
import base64
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from threading import local
from typing import Any

import mlflow
import numpy as np
import requests

from catalog import store
from catalog.progress import show_progress
from fusion.search.catalogue_search import load_model
from fusion.search.hybrid import HYBRID_FILE
from fusion.search.marker import embed_queries
from fusion.search.search_index import SearchIndex
from registry import local_stack, mlflow_store

REQUESTS, TOGETHER, K = 1000, (1, 8), 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="models:/product-search@challenger")
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    mlflow_store.connect()
    table = store.read_table(arguments.data, "queries").to_pylist()
    queries = {
        "text": [row | {"image": None} for row in table if row["text"]],
        "picture": [row | {"text": None} for row in table if row["image"]],
    }
    print("| queries | at a time | p50 | p95 | p99 | a second | errors |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        measure_in_process(arguments.model, queries, Path(folder))
        with local_stack.serve_model(arguments.model, Path(folder) / "serve.log") as address:
            for kind, rows in queries.items():
                for together in TOGETHER:
                    load_test(address, kind, rows, together)


def measure_in_process(model: str, queries: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Measure encoder and index without HTTP, one query at a time."""
    package = Path(mlflow.artifacts.download_artifacts(model, dst_path=str(folder)))
    artifacts = next(package.glob("artifacts/*/weights.safetensors")).parent
    network, featurizer = load_model(artifacts)
    index = SearchIndex.load(package / "artifacts" / "index", package / "artifacts" / HYBRID_FILE)
    for kind, rows in queries.items():
        seconds = []
        for row in show_progress(list(islice(cycle(rows), REQUESTS)), f"{kind}, bare"):
            began = time.perf_counter()
            items, _ = featurizer.featurize_rows("queries", [row])
            index.search(embed_queries(network, items), K)
            seconds.append(time.perf_counter() - began)
        print_row(f"{kind}, in this process", 1, seconds, sum(seconds), 0)


def load_test(address: str, kind: str, rows: Sequence[dict[str, Any]], together: int) -> None:
    """Send `REQUESTS` queries, `together` at a time."""
    thread_state = local()

    def send_query(row: dict[str, Any]) -> tuple[float, bool]:
        if not hasattr(thread_state, "session"):
            thread_state.session = requests.Session()
        query = {"text": row["text"]}
        if row["image"]:
            query = {"image": base64.b64encode(row["image"]["bytes"]).decode()}
        began = time.perf_counter()
        answer = thread_state.session.post(
            address, json={"dataframe_records": [query], "params": {"k": K}}, timeout=60
        )
        seconds = time.perf_counter() - began
        return seconds, answer.ok and len(answer.json()["predictions"]) == K

    with ThreadPoolExecutor(together) as pool:
        list(pool.map(send_query, rows[:20]))  # warm up the server
        began = time.perf_counter()
        running = pool.map(send_query, islice(cycle(rows), REQUESTS))
        answers = list(show_progress(running, f"{kind}, {together} at a time", REQUESTS))
        duration = time.perf_counter() - began
    errors = sum(not correct for _, correct in answers)
    print_row(kind, together, [seconds for seconds, _ in answers], duration, errors)


def print_row(label: str, together: int, seconds: Sequence[float], duration: float, errors: int) -> None:
    p50, p95, p99 = 1000 * np.percentile(seconds, [50, 95, 99])
    rate = len(seconds) / duration
    print(
        f"| {label} | {together} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {rate:.0f} | {errors} |",
        flush=True,
    )


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()
