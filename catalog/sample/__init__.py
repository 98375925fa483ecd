"""Generator of the sample catalogue: any size, reproducible by a seed, with known ground truth.

Every product has a type, colour, pattern, brand and material. The picture shows the first three; the text names the
type and the last two. Queries ask for both kinds, so that neither pictures nor text alone are sufficient. A quarter of
the products have a clip with a motion that only the clip shows; queries of the segment "video" ask for it. A third have
a second picture with an emblem that only this picture shows; queries of the segment "gallery" ask for it. A word is
printed on some products; queries of the segment "label", which are added to the others, ask for it.
"""

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from catalog.progress import show_progress
from catalog.sample.listings import CODE_COUNT, make_listing
from catalog.sample.queries import draw_judgements, draw_queries
from catalog.sample.truth import Need
from catalog.schema import DataError
from catalog.store import TableWriter, new_atomic_dir
from catalog.threads import cpu_count

A = TypeVar("A")
B = TypeVar("B")

TASK_PRODUCTS = 250  # products per task of a process


def write_sample(out: Path, products: int, seed: int, queries: int = 840, workers: int | None = None) -> None:
    """Write a sample data set to a new folder.

    The same arguments give the same bytes with any number of workers. Memory does not grow with the number of products.

    Args:
        out: The new data set.
        products: Number of products.
        seed: Random seed.
        queries: Number of queries, without those of the segment "label".
        workers: Number of processes; by default `catalog.threads.cpu_count`.

    Raises:
        DataError: if a number is out of range, or the folder cannot be written.
    """
    if not 1 <= products <= CODE_COUNT:
        raise DataError(f"--products {products}: give a number from 1 to {CODE_COUNT:,}")
    if queries < 1 or seed < 0:
        raise DataError(
            f"--queries {queries} --seed {seed}: give at least one query, and a seed of 0 or more"
        )
    with new_atomic_dir(out) as folder:
        needs = _write_queries(folder, seed, products, queries)
        _write_judgements(folder, seed, products, needs)
        _write_products(folder, seed, products, workers or cpu_count())


def _write_queries(folder: Path, seed: int, products: int, count: int) -> list[Need]:
    """Write the queries; returns what each asks for."""
    needs = []
    queries = show_progress(draw_queries(seed, products, count), "queries", count, unit="query")
    with TableWriter(folder, "queries") as table:
        for query in queries:
            table.write(query.row)
            needs.append(query.need)
    return needs


def _write_judgements(folder: Path, seed: int, products: int, needs: list[Need]) -> None:
    with TableWriter(folder, "judgements", rows_per_file=1_000_000) as table:
        for number, index, grade in draw_judgements(seed, products, needs):
            table.write({"query_id": f"q{number:06d}", "product_id": f"p{index:08d}", "grade": grade})


def _write_products(folder: Path, seed: int, products: int, workers: int) -> None:
    starts = range(0, products, TASK_PRODUCTS)
    tasks = (range(start, min(start + TASK_PRODUCTS, products)) for start in starts)
    with (
        TableWriter(folder, "products") as table,
        show_progress(desc="products", total=products, unit="product") as progress,
    ):
        for rows in _map_in_order(partial(_make_listings, seed), tasks, workers):
            for row in rows:
                table.write(row)
            progress.update(len(rows))


def _make_listings(seed: int, indices: range) -> list[dict[str, Any]]:
    return [make_listing(seed, index) for index in indices]


def _map_in_order(work: Callable[[A], B], tasks: Iterable[A], workers: int) -> Iterator[B]:
    """`map` over processes, in order and with only a few pending results."""
    if workers == 1:
        yield from map(work, tasks)
        return
    # "spawn", because a fork would copy the caller's threads in any state. Only the parent handles an interrupt.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    try:
        pending: deque[Future[B]] = deque()
        for task in tasks:
            pending.append(pool.submit(work, task))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
