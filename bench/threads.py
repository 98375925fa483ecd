"""Seconds of a training step beside a busy neighbour: a process that never waits and may use only one core.

    python bench/threads.py [ROUNDS]

The step is that of the model for artifacts/featurize and params.yaml, with loss, gradients and optimiser. Each setting
of the threads has its own process. In each round all of them compute some steps without the neighbour, one process
after the other, and then beside it. The settings:

- now: what `catalog.threads.limit_threads` sets.
- before: the defaults of PyTorch and OpenMP.
- 64 threads: these defaults on a machine with 64 cores, of which a container may use only as many as there are here.
  MKL_DYNAMIC is off, because PyTorch's MKL would reduce the number to the cores that there are.

Prints a Markdown table: seconds per step as the median of the rounds, their ratio, and the ratio to `before` without
the neighbour. The figures need a machine that does nothing else; the last line is its load.
"""

import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from catalog.threads import VARIABLE, WAITING_VARIABLES, limit_threads

SETTINGS = {"now": None, "before": {}, "64 threads": {VARIABLE: "64", "MKL_DYNAMIC": "FALSE"}}
STEPS = 3  # of a setting in a round
SPAWN = multiprocessing.get_context("spawn")


def main(rounds: int = 7) -> None:
    """Measure all settings and print the table."""
    pools = {name: ProcessPoolExecutor(1, SPAWN, prepare, (SETTINGS[name],)) for name in SETTINGS}
    seconds: dict[tuple[str, bool], list[float]] = {
        (name, busy): [] for name in pools for busy in (False, True)
    }
    for pool in pools.values():
        pool.submit(measure).result()  # warm up
    with run_neighbour() as neighbour:
        for _ in range(rounds):
            for busy, state in ((False, signal.SIGSTOP), (True, signal.SIGCONT)):
                os.kill(neighbour, state)
                for name, pool in pools.items():
                    seconds[name, busy].append(pool.submit(measure).result())
    for pool in pools.values():
        pool.shutdown()
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    print(
        "| setting | quiet, s | beside the neighbour, s | ratio | quiet, of `before` |\n|---|---|---|---|---|"
    )
    for name in SETTINGS:
        quiet, beside = medians[name, False], medians[name, True]
        print(f"| {name} | {quiet:.3f} | {beside:.3f} | {beside / quiet:.2f} ", end="")
        print(f"| {quiet / medians['before', False]:.2f} |")
    print(f"\nload of the last minute: {os.getloadavg()[0]:.1f}")


@contextmanager
def run_neighbour() -> Iterator[int]:
    """Start the neighbour; yields its process id."""
    process = SPAWN.Process(target=spin)
    process.start()
    try:
        yield int(process.pid or 0)
    finally:
        process.kill()


def spin() -> None:
    """Use the first core without a pause."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    while True:
        pass


def prepare(variables: dict[str, str] | None) -> None:
    """Set the threads of this process, then build its training; PyTorch must not be imported before.

    Args:
        variables: Environment variables; None for `limit_threads`.
    """
    global run_step  # noqa: PLW0603 - the state of a process of a pool
    for name in (VARIABLE, *WAITING_VARIABLES):
        os.environ.pop(name, None)
    if variables is None:
        limit_threads()
    else:
        os.environ.update(variables)
    run_step = build_step()


def build_step() -> Callable[[], None]:
    """A function that computes the first step of an epoch."""
    import numpy as np
    import torch

    from components.params import load_section
    from components.train import build_objective
    from components.train import prepare as prepare_training
    from fusion.facets import CATEGORY
    from fusion.training.objective import LossBatch, entity_loss, joint_loss
    from fusion.training.sampling import Pairs

    torch.manual_seed(0)
    params = load_section(Path("params.yaml"), "train")
    network, data, _ = prepare_training(Path("artifacts/featurize"), params)
    objective, rng = build_objective(params), np.random.default_rng(0)
    step = next(data.draw_epoch(params.batch_size, rng, Pairs.empty()))
    products = data.products.take(step.products)
    categories = data.facets.values[step.products, CATEGORY]
    tags = data.tags(list(network.config.tags), step.products)
    batch = LossBatch(step.queries, products, step.grades, categories, tags)
    optimizer = torch.optim.AdamW(network.parameters(), params.learning_rate)
    network.train()

    def compute() -> None:
        loss, _ = joint_loss(network, batch, objective, rng)
        labels_loss, _ = entity_loss(network, step.texts, step.entities, objective)
        optimizer.zero_grad(set_to_none=True)
        (loss + labels_loss).backward()
        optimizer.step()

    return compute


def measure() -> float:
    """Seconds per step."""
    start = time.perf_counter()
    for _ in range(STEPS):
        run_step()
    return (time.perf_counter() - start) / STEPS


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
