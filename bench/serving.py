"""How fast the registered model answers over HTTP: `python bench/serving.py [MODEL]`, after `make demo`.

MODEL is MLflow's name of one, by default models:/product-search@challenger. `mlflow models serve` serves it, and is
asked 1,000 queries of the data set by text and by picture, one at a time and eight at a time; beside it stands what
encoder and index take for the same queries in this process. Times are milliseconds.
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
from tqdm import tqdm

from catalog import store
from fusion.model import embed
from fusion.search.catalogue_search import SearchIndex, load
from registry import local_stack, tracking

REQUESTS, TOGETHER, K = 1000, (1, 8), 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="models:/product-search@challenger")
    parser.add_argument("--data", type=Path, default=Path("data"))
    asked = parser.parse_args()
    tracking.connect()
    table = store.read(asked.data, "queries").to_pylist()
    queries = {
        "text": [row | {"image": None} for row in table if row["text"]],
        "picture": [row | {"text": None} for row in table if row["image"]],
    }
    print("| queries | at a time | p50 | p95 | p99 | a second | errors |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        bare(asked.model, queries, Path(folder))
        with local_stack.model(asked.model, Path(folder) / "serve.log") as address:
            for kind, rows in queries.items():
                for together in TOGETHER:
                    load_test(address, kind, rows, together)


def bare(model: str, queries: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Encoder and index alone, one query at a time."""
    package = Path(mlflow.artifacts.download_artifacts(model, dst_path=str(folder)))
    artifacts = next(package.glob("artifacts/*/weights.safetensors")).parent
    network, featurizer = load(artifacts)
    index = SearchIndex.load(package / "artifacts" / "index")
    for kind, rows in queries.items():
        took = []
        for row in tqdm(list(islice(cycle(rows), REQUESTS)), f"{kind}, bare"):
            began = time.perf_counter()
            items, _ = featurizer.rows("queries", [row])
            index.search(embed(network, items, "query"), K)
            took.append(time.perf_counter() - began)
        tell(f"{kind}, in this process", 1, took, sum(took), 0)


def load_test(address: str, kind: str, rows: Sequence[dict[str, Any]], together: int) -> None:
    """Ask so many at a time."""
    mine = local()

    def ask(row: dict[str, Any]) -> tuple[float, bool]:
        if not hasattr(mine, "session"):
            mine.session = requests.Session()
        query = {"text": row["text"]}
        if row["image"]:
            query = {"image": base64.b64encode(row["image"]["bytes"]).decode()}
        began = time.perf_counter()
        answer = mine.session.post(
            address, json={"dataframe_records": [query], "params": {"k": K}}, timeout=60
        )
        took = time.perf_counter() - began
        return took, answer.ok and len(answer.json()["predictions"]) == K

    with ThreadPoolExecutor(together) as pool:
        list(pool.map(ask, rows[:20]))  # the first ones find a cold server
        began = time.perf_counter()
        running = pool.map(ask, islice(cycle(rows), REQUESTS))
        answers = list(tqdm(running, f"{kind}, {together} at a time", REQUESTS))
        whole = time.perf_counter() - began
    tell(kind, together, [took for took, _ in answers], whole, sum(not good for _, good in answers))


def tell(what: str, together: int, took: Sequence[float], whole: float, errors: int) -> None:
    middle, high, highest = 1000 * np.percentile(took, [50, 95, 99])
    rate = len(took) / whole
    print(
        f"| {what} | {together} | {middle:.1f} | {high:.1f} | {highest:.1f} | {rate:.0f} | {errors} |",
        flush=True,
    )


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()
