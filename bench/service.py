"""The search service beside `mlflow models serve` and the bare model: `python bench/service.py`, after `make demo`.

Both servers serve the version that has the alias (`--alias`, by default challenger), and get 1,000 queries of the data
set, by text or by picture (`--pictures`), eight at a time. They take turns of 100 requests, so that other work on the
machine disturbs all alike. In this process the model, without HTTP, answers the same queries one at a time, and eight
at once. Times are milliseconds; the rate of a server is the median of its turns. CPU is the time of all processes of a
server for a request: other work on the machine changes it least.
"""

import argparse
import base64
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from threading import local
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import mlflow
import numpy as np

from catalog import store
from catalog.threads import limit_threads
from registry import local_stack, mlflow_store
from registry.champion_process import list_artifacts
from serving.pyfunc import ProductSearch
from serving.service import read_model_name

REQUESTS, TURN, TOGETHER, K = 1000, 100, 8, 10
Query = tuple[str | None, bytes | None]  # text, picture
Answer = Callable[[Sequence[Query]], list[float]]  # answers queries; the seconds of each


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alias", default="challenger")
    parser.add_argument("--pictures", action="store_true", help="queries by picture")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    limit_threads()
    mlflow_store.connect()
    model = f"models:/{read_model_name(arguments.params)}@{arguments.alias}"
    queries = read_queries(arguments.data, arguments.pictures)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = load_bare_model(model, folder / "model")
        before = list_children(os.getpid())
        mlflow_address = stack.enter_context(local_stack.serve_model(model, folder / "mlflow.log"))
        between = list_children(os.getpid())
        service_address = start_service(arguments.alias, folder, stack)
        after = list_children(os.getpid())
        pool = stack.enter_context(ThreadPoolExecutor(TOGETHER))
        systems: dict[str, Answer] = {
            "bare model, one at a time": lambda turn: answer_bare(bare, turn, 1),
            f"bare model, {TOGETHER} at once": lambda turn: answer_bare(bare, turn, TOGETHER),
            "`mlflow models serve`": Client(mlflow_address, write_mlflow_body, "predictions", pool),
            "`python -m serving`": Client(f"{service_address}/search", write_service_body, "results", pool),
        }
        processes = dict(zip(list(systems)[2:], (between - before, after - between), strict=True))
        measure(systems, processes, queries)


def read_queries(data: Path, pictures: bool) -> list[Query]:
    """As many queries as there are requests, each by text or by picture."""
    rows = store.read_table(data, "queries", ["text", "image"]).to_pylist()
    queries: list[Query] = [
        (None, row["image"]["bytes"]) if pictures else (row["text"], None)
        for row in rows
        if row["image" if pictures else "text"]
    ]
    return list(islice(cycle(queries), REQUESTS))


def load_bare_model(model: str, folder: Path) -> ProductSearch:
    """The model of a version, in this process; its code must be that of the project."""
    folder.mkdir()
    package = Path(mlflow.artifacts.download_artifacts(model, dst_path=str(folder)))
    search = ProductSearch()
    artifacts = {name: str(path) for name, path in list_artifacts(package).items()}
    search.load_context(SimpleNamespace(artifacts=artifacts))
    return search


def start_service(alias: str, folder: Path, stack: ExitStack) -> str:
    """Start the service; its address."""
    address = f"http://127.0.0.1:{(port := local_stack.find_free_port())}"
    settings = folder / "serving.yaml"
    settings.write_text("log: {folder: null}\n")
    command = [
        sys.executable,
        "-m",
        "serving",
        "--alias",
        alias,
        "--port",
        str(port),
        "--settings",
        str(settings),
    ]
    is_ready = local_stack.make_page_check(f"{address}/readyz")
    env = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    stack.enter_context(local_stack.run_service(command, folder / "service.log", is_ready, env))
    return address


def answer_bare(model: ProductSearch, queries: Sequence[Query], together: int) -> list[float]:
    """Answer without a server."""
    seconds = []
    for start in range(0, len(queries), together):
        batch = queries[start : start + together]
        began = time.perf_counter()
        answers = model.answer([(*query, {"k": K}) for query in batch])
        seconds += [time.perf_counter() - began] * len(batch)
        check(all(len(answer["results"]) == K for answer in answers if isinstance(answer, dict)), answers)
    return seconds


class Client:
    """Sends queries to a server, `TOGETHER` at a time, over connections that stay open.

    Args:
        address: Of its endpoint.
        write_body: The request of a query.
        field: The field of its answer that has the results.
        pool: As many threads.
    """

    def __init__(
        self, address: str, write_body: Callable[[dict[str, str]], Any], field: str, pool: ThreadPoolExecutor
    ) -> None:
        parts = urlsplit(address)
        self.host, self.path = parts.netloc, parts.path
        self.write_body, self.field, self.pool, self.thread = write_body, field, pool, local()

    def __call__(self, queries: Sequence[Query]) -> list[float]:
        self.thread = local()  # a server closes a connection that nobody uses for some seconds
        return list(self.pool.map(self.send, queries))

    def send(self, query: Query) -> float:
        """Send a query; the seconds until its answer was read."""
        if not hasattr(self.thread, "connection"):
            self.thread.connection = HTTPConnection(self.host, timeout=60)
        body = json.dumps(self.write_body(encode(query)))
        began = time.perf_counter()
        self.thread.connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        response = self.thread.connection.getresponse()
        content = response.read()
        seconds = time.perf_counter() - began
        check(response.status == 200 and len(json.loads(content)[self.field]) == K, content)
        return seconds


def encode(query: Query) -> dict[str, str]:
    """A query as JSON."""
    text, picture = query
    return {"image": base64.b64encode(picture).decode()} if picture else {"text": text or ""}


def write_mlflow_body(query: dict[str, str]) -> dict[str, Any]:
    return {"dataframe_records": [query], "params": {"k": K}}


def write_service_body(query: dict[str, str]) -> dict[str, Any]:
    return {**query, "k": K}


def check(is_right: bool, answer: object) -> None:
    if not is_right:
        sys.exit(f"a wrong answer: {answer!r}"[:1000])


def list_children(process: int) -> set[int]:
    """The processes that a process has started."""
    files = Path(f"/proc/{process}/task").glob("*/children")
    return {int(child) for file in files for child in file.read_text().split()}


def read_cpu_seconds(process: int) -> float:
    """CPU time of a process and of those that it has started."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(read_cpu_seconds, list_children(process)))


def measure(systems: dict[str, Answer], processes: dict[str, set[int]], queries: Sequence[Query]) -> None:
    """Let the systems take turns; print their latencies, rates and CPU time.

    Args:
        systems: By name.
        processes: Those that answer for a system; this process for others.
        queries: One for each request.
    """
    latencies: dict[str, list[float]] = {name: [] for name in systems}
    rates: dict[str, list[float]] = {name: [] for name in systems}
    cpu = dict.fromkeys(systems, 0.0)
    for answer in systems.values():
        answer(queries[:TURN])  # warm up
    for start in range(0, len(queries), TURN):
        turn = queries[start : start + TURN]
        for name, answer in systems.items():
            ids = processes.get(name, set())
            cpu_before = sum(map(read_cpu_seconds, ids)) if ids else time.process_time()
            began = time.perf_counter()
            latencies[name] += answer(turn)
            rates[name].append(len(turn) / (time.perf_counter() - began))
            cpu_after = sum(map(read_cpu_seconds, ids)) if ids else time.process_time()
            cpu[name] += cpu_after - cpu_before
    print("| queries | p50 | p95 | per second | CPU |\n|---|---|---|---|---|")
    for name in systems:
        p50, p95 = 1000 * np.percentile(latencies[name], [50, 95])
        milliseconds = 1000 * cpu[name] / len(queries)
        print(f"| {name} | {p50:.1f} | {p95:.1f} | {np.median(rates[name]):.0f} | {milliseconds:.1f} |")
    peer, ours = (np.array(rates[name]) for name in list(systems)[2:])
    print(f"service / mlflow, median of the turns' ratios: {np.median(ours / peer):.2f}")


if __name__ == "__main__":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()
