"""Peak memory of one training step with and without gradient caching: `batch_memory.py [BATCH] [CHUNK]`.

Each is measured in a separate process. The result is the memory that the step adds to that of the model and its batch.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from fusion.features import Items
from fusion.model import ModelConfig, ProductSearchModel
from fusion.training.losses import UNJUDGED
from fusion.training.objective import LossBatch, Objective, joint_loss

WORDS, VOCABULARY, FEATURES = 32, 5000, 1914


def random_items(count: int, words: int, rng: np.random.Generator) -> Items:
    empty, missing = np.full(count, "", object), np.full(count, None, object)
    return Items(
        ids=empty,
        splits=empty,
        segments=empty,
        tokens=rng.integers(2, VOCABULARY, (count, words)).astype(np.int32),
        images=rng.normal(size=(count, FEATURES)).astype(np.float16),
        galleries=missing,
        regions=np.zeros((count, 0, 0), np.float16),
        has_image=np.ones(count, bool),
        videos=missing,
        pictures=missing,
        ocr=missing,
        joint=np.zeros((count, 0), np.float16),
    )


def peak_memory() -> float:
    """Peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build_batch(count: int) -> tuple[ProductSearchModel, LossBatch]:
    """A model in training mode, and random queries with one product each."""
    rng = np.random.default_rng(0)
    model = ProductSearchModel(ModelConfig(VOCABULARY, FEATURES, 0)).train()
    queries, products = random_items(count, WORDS // 4, rng), random_items(count, WORDS, rng)
    grades = np.full((count, count), UNJUDGED, np.int8)
    np.fill_diagonal(grades, 3)
    return model, LossBatch(
        queries, products, grades, np.zeros(count, np.int64), np.zeros((count, 0), np.int64)
    )


def take_rows(batch: LossBatch, count: int) -> LossBatch:
    """A small batch, for a first step: libraries allocate some memory only once."""
    rows = slice(0, count)
    return LossBatch(
        batch.queries.take(rows),
        batch.products.take(rows),
        batch.grades[rows, rows],
        batch.categories[rows],
        batch.tags[rows],
    )


def compute_gradients(model: ProductSearchModel, batch: LossBatch, objective: Objective) -> None:
    joint_loss(model, batch, objective, np.random.default_rng(0))[0].backward()


def measure_step(batch: int, chunk: int | None) -> float:
    """Memory that one step adds to the peak, in MiB.

    Args:
        batch: Number of queries; each has one product.
        chunk: Chunk size of gradient caching; None for none.
    """
    model, losses = build_batch(batch)
    compute_gradients(model, take_rows(losses, 8), Objective(chunk=4))
    before = peak_memory()
    compute_gradients(model, losses, Objective(chunk=chunk))
    return peak_memory() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("batch", type=int, nargs="?", default=4096)
    parser.add_argument("chunk", type=int, nargs="?", default=256)
    arguments = parser.parse_args()

    def measure(chunk: int | None) -> float:
        call = f"import batch_memory; print(batch_memory.measure_step({arguments.batch}, {chunk}))"
        process = subprocess.run(
            [sys.executable, "-c", call],
            cwd=Path(__file__).parent,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return float(process.stdout)

    plain, cached = measure(None), measure(arguments.chunk)
    results = {"plain_mib": round(plain), "cached_mib": round(cached), "ratio": round(cached / plain, 3)}
    print(json.dumps(vars(arguments) | results))


if __name__ == "__main__":
    main()
