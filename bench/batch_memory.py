"""Peak memory of one training step with and without gradient caching: `batch_memory.py [BATCH] [CHUNK]`.

Each is measured in a process of its own, as what the step adds to the memory of the model and its batch.
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
from fusion.training.objective import Objective, joint_loss

WORDS, VOCABULARY, FEATURES = 32, 5000, 1914


def items(count: int, words: int, rng: np.random.Generator) -> Items:
    none, nothing = np.full(count, "", object), np.full(count, None, object)
    return Items(
        ids=none,
        splits=none,
        segments=none,
        tokens=rng.integers(2, VOCABULARY, (count, words)).astype(np.int32),
        images=rng.normal(size=(count, FEATURES)).astype(np.float16),
        regions=np.zeros((count, 0, 0), np.float16),
        has_image=np.ones(count, bool),
        videos=nothing,
        pictures=nothing,
    )


def peak() -> float:
    """Of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def step(batch: int, chunk: int | None) -> float:
    """What one step of so many queries, each with one product, adds to the peak, in MiB."""
    rng = np.random.default_rng(0)
    model = ProductSearchModel(ModelConfig(VOCABULARY, FEATURES, 0)).train()
    queries, products = items(batch, WORDS // 4, rng), items(batch, WORDS, rng)
    grades = np.full((batch, batch), UNJUDGED, np.int8)
    np.fill_diagonal(grades, 3)
    categories, tags = np.zeros(batch, np.int64), np.zeros((batch, 0), np.int64)
    small = slice(0, 8)  # what libraries set up once is no part of a step
    few = queries.take(small), products.take(small), grades[small, small], categories[small], tags[small]
    joint_loss(model, *few, Objective(chunk=4), rng)[0].backward()
    before = peak()
    goal = Objective(chunk=chunk)
    loss, _ = joint_loss(model, queries, products, grades, categories, tags, goal, rng)
    loss.backward()
    return peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("batch", type=int, nargs="?", default=4096)
    parser.add_argument("chunk", type=int, nargs="?", default=256)
    asked = parser.parse_args()

    def measured(chunk: int | None) -> float:
        call = f"import batch_memory; print(batch_memory.step({asked.batch}, {chunk}))"
        done = subprocess.run(
            [sys.executable, "-c", call],
            cwd=Path(__file__).parent,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return float(done.stdout)

    plain, cached = measured(None), measured(asked.chunk)
    found = {"plain_mib": round(plain), "cached_mib": round(cached), "ratio": round(cached / plain, 3)}
    print(json.dumps(vars(asked) | found))


if __name__ == "__main__":
    main()
