"""How near the chain comes to its bare parts, in one process, the two by turns.

    python bench/throughput.py featurize [PICTURES]
    python bench/throughput.py train

The first sets pictures in the data, decoded and resized on the way, against the encoder alone on tensors that are
ready; the second two epochs with all that surrounds their steps, the mining of hard negatives and a checkpoint after
each, but without validation and the products' vectors that it is made on, against loss, gradients and optimiser alone
on batches that are ready. Prints the ratio of the medians, and both.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from catalog import store
from catalog.images import decode, fit
from components.params import TrainParams, load
from components.train import objective, prepare, schedule
from fusion import training
from fusion.features import Items
from fusion.featurizer import BATCH, Featurizer
from fusion.mining import mine
from fusion.model import embed
from fusion.objective import joint_loss, label_loss
from fusion.sampling import Pairs

ROUNDS = 7
DATA, FEATURES = Path("data"), Path("artifacts/featurize")


def main(what: str, count: str | None = None) -> None:
    bare, whole, unit = {"featurize": featurize, "train": train}[what](*([int(count)] if count else []))
    bare(), whole()  # what is prepared once
    seconds = [(timed(bare), timed(whole)) for _ in range(ROUNDS)]
    alone, around = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(
        f"{what}: {alone / around:.2f} of the bare speed ({alone:.3f} s bare, {around:.3f} s whole, {unit})"
    )


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def featurize(pictures: int = 512) -> tuple[Callable[[], Any], Callable[[], Any], str]:
    featurizer = Featurizer.load(FEATURES)
    batches = store.batches(DATA, "products", ["product_id", "title", "image"], 4 * pictures)
    rows = [row for batch in batches for row in batch.to_pylist() if row["image"]][:pictures]
    side = featurizer.image_size
    ready = torch.from_numpy(np.stack([fit(decode(row["image"]["bytes"]), side) for row in rows]))

    @torch.inference_mode()
    def bare() -> None:
        for part in ready.split(BATCH):
            featurizer.encoder(part.to(featurizer.device))

    return bare, lambda: featurizer.rows("products", rows), f"{len(rows)} pictures"


def train() -> tuple[Callable[[], Any], Callable[[], Any], str]:
    torch.manual_seed(0)
    params = TrainParams.model_validate(load(Path("params.yaml"), "train").model_dump() | {"epochs": 2})
    network, data, _ = prepare(FEATURES, params)
    goal, knobs, device = objective(params), schedule(params), "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    rng, vectors = np.random.default_rng(0), embed(network.eval(), data.products, "product")
    hard = [Pairs.none(), mine(network, data, vectors, rng) if params.hard_negatives else Pairs.none()]
    steps = [step for pairs in hard for step in data.epoch(params.batch_size, rng, pairs)]
    tags = [data.tags(list(network.config.tags), step.products) for step in steps]
    queries = [Ready(step.queries, device) for step in steps]
    products = [Ready(data.products.take(step.products), device) for step in steps]
    optimizer = torch.optim.AdamW(network.parameters(), params.learning_rate)

    def bare() -> None:
        network.train()
        rng = np.random.default_rng(0)
        for asked, shown, step, tagged in zip(queries, products, steps, tags, strict=True):
            loss, _ = joint_loss(network, asked, shown, step.grades, tagged, goal, rng)  # type: ignore[arg-type]
            labelled, _ = label_loss(network, step.texts, step.entities, None)
            optimizer.zero_grad(set_to_none=True)
            (loss + labelled).backward()
            optimizer.step()

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder, patch.object(training, "embed", return_value=vectors):
            training.fit(
                network, data, lambda *_: 0.0, goal, checkpoint=Path(folder) / "checkpoint.pt", **knobs
            )

    return bare, whole, f"{len(steps)} steps of {params.batch_size} queries"


class Ready:
    """Items whose batch is on the device already.

    Args:
        items: All of a step.
        device: Where it is computed.
    """

    def __init__(self, items: Items, device: str) -> None:
        self.items, self.made = items, items.batch(slice(None), device)

    def __len__(self) -> int:
        return len(self.items)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.items, name)

    def batch(self, *_: object) -> dict[str, Tensor]:
        return self.made


if __name__ == "__main__":
    main(*sys.argv[1:])
