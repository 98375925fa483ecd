"""The sample catalogue: drawn from a seed at any size, and its truth is known.

Every product has a type, colour, pattern, brand and material. The picture shows the first three, the text carries the
type and the last two; a query asks for both kinds, so neither pictures nor words alone can answer it. A quarter of the
products have a clip, and a motion that only the clip shows; queries of the segment "video" ask for it.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from catalog.sample.merchant import CODES, listing
from catalog.sample.shopper import ask, judge
from catalog.schema import DataError
from catalog.store import TableWriter, fresh

A = TypeVar("A")
B = TypeVar("B")

TASK = 250  # products drawn by a process at a time


def sample(out: Path, products: int, seed: int, queries: int = 720, workers: int | None = None) -> None:
    """Draw a data set into a new folder.

    The same arguments give the same bytes, whatever `workers`; memory does not grow with the number of products.

    Args:
        workers: Processes that draw; by default one per core.

    Raises:
        DataError: for numbers that no catalogue can have, or a folder that cannot be written.
    """
    if not 1 <= products <= CODES:
        raise DataError(f"--products {products}: give a number from 1 to {CODES:,}")
    if queries < 1 or seed < 0:
        raise DataError(
            f"--queries {queries} --seed {seed}: give at least one query, and a seed of 0 or more"
        )
    with fresh(out) as folder:
        needs = []
        with TableWriter(
            folder, "queries", without=["frequency"]
        ) as table:  # nobody searches for what is drawn
            for query in tqdm(ask(seed, products, queries), "queries", queries, unit="query", disable=None):
                table.write(query.row)
                needs.append(query.need)
        with TableWriter(folder, "judgements", rows_per_file=1_000_000) as table:
            for number, index, grade in judge(seed, products, needs):
                table.write({"query_id": f"q{number:06d}", "product_id": f"p{index:08d}", "grade": grade})
        tasks = (range(start, min(start + TASK, products)) for start in range(0, products, TASK))
        with (
            TableWriter(folder, "products") as table,
            tqdm(desc="products", total=products, unit="product", disable=None) as progress,
        ):
            for rows in _in_order(partial(_listings, seed), tasks, workers or os.cpu_count() or 1):
                for row in rows:
                    table.write(row)
                progress.update(len(rows))


def _listings(seed: int, indices: range) -> list[dict[str, Any]]:
    return [listing(seed, index) for index in indices]


def _in_order(work: Callable[[A], B], tasks: Iterable[A], workers: int) -> Iterator[B]:
    """`map` over processes: in order, with no more than a few results waiting."""
    if workers == 1:
        yield from map(work, tasks)
        return
    # Spawned, as a fork would copy the caller's threads half-way; an interrupt is for the parent to handle.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    try:
        waiting: deque[Future[B]] = deque()
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
