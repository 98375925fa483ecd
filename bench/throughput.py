"""How near the chain comes to its bare parts, in one process, the two by turns.

    python bench/throughput.py featurize [PICTURES]
    python bench/throughput.py train
    python bench/throughput.py finetune [MODEL [SIZE [BATCH [STEPS]]]]

The first sets pictures in the data, decoded and resized on the way, against the encoder alone on tensors that are
ready; the second two epochs with all that surrounds their steps, the mining of hard negatives and a checkpoint after
each, but without validation and the products' vectors that it is made on, against loss, gradients and optimiser alone
on batches that are ready. Prints the ratio of the medians, and both.

The third tunes all of a classifier of torchvision (resnet50 with random weights, 224 pixels) in an epoch of 60 steps of
160 queries over random pictures mapped into memory, again with the checkpoint and without validation, against a plain
loop over the same encoder: pictures normalised and on the device, as many in a batch as there are in a step. Prints
pictures per second too, and how busy the GPU was where pynvml tells.
"""

import copy
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch
import torchvision
from torch import Tensor, nn

from catalog import store
from catalog.images import decode, fit
from catalog.schema import EXACT, IRRELEVANT
from components.params import TrainParams, load
from components.train import objective, prepare, schedule
from fusion.encoders.image import ImageEncoder, architecture
from fusion.facets import CATEGORY
from fusion.features import Items
from fusion.featurizer import BATCH, Featurizer
from fusion.model import ModelConfig, ProductSearchModel, embed
from fusion.training import loop
from fusion.training.hard_negatives import mine
from fusion.training.objective import joint_loss, label_loss
from fusion.training.sampling import Judged, Pairs, TrainingSet

ROUNDS = 7
VOCABULARY = 5000
DATA, FEATURES = Path("data"), Path("artifacts/featurize")


class Work(NamedTuple):
    """What is compared.

    Attributes:
        bare: The part alone.
        whole: With all that surrounds it.
        unit: What each of them does.
        pictures: How many each of them sees, where that is what counts.
    """

    bare: Callable[[], Any]
    whole: Callable[[], Any]
    unit: str
    pictures: int = 0


def main(what: str, *words: str) -> None:
    made = {"featurize": featurize, "train": train, "finetune": finetune}[what]
    work = made(*(int(word) if word.isdigit() else word for word in words))
    work.bare(), work.whole()  # what is prepared once
    seconds, busy = [], list[int]()
    for _ in range(ROUNDS):
        alone = timed(work.bare)
        with watched(busy):
            seconds.append((alone, timed(work.whole)))
    alone, around = (statistics.median(column) for column in zip(*seconds, strict=True))
    told = [f"{alone:.3f} s bare, {around:.3f} s whole", work.unit]
    if work.pictures:
        told.append(f"{work.pictures / alone:.1f} pictures/s bare, {work.pictures / around:.1f} whole")
    told.append(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")
    if busy:
        told.append(f"GPU busy {statistics.mean(busy):.0f} % of the time")
    print(f"{what}: {alone / around:.2f} of the bare speed ({', '.join(told)})")


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def watched(busy: list[int]) -> Iterator[None]:
    """Note in percent how busy the GPU is meanwhile; nothing without one, or without what tells."""
    if not (torch.cuda.is_available() and find_spec("pynvml")):
        yield
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            busy.append(torch.cuda.utilization())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def featurize(pictures: int = 512) -> Work:
    featurizer = Featurizer.load(FEATURES)
    batches = store.batches(DATA, "products", ["product_id", "title", "image"], 4 * pictures)
    rows = [row for batch in batches for row in batch.to_pylist() if row["image"]][:pictures]
    side = featurizer.image_size
    ready = torch.from_numpy(np.stack([fit(decode(row["image"]["bytes"]), side) for row in rows]))

    @torch.inference_mode()
    def bare() -> None:
        for part in ready.split(BATCH):
            featurizer.encoder(part.to(featurizer.device))

    return Work(bare, lambda: featurizer.rows("products", rows), f"{len(rows)} pictures")


def train() -> Work:
    torch.manual_seed(0)
    params = TrainParams.model_validate(load(Path("params.yaml"), "train").model_dump() | {"epochs": 2})
    network, data, _ = prepare(FEATURES, params)
    goal, knobs, device = objective(params), schedule(params), "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    rng, vectors = np.random.default_rng(0), embed(network.eval(), data.products, "product")
    hard = [Pairs.none(), mine(network, data, vectors, rng) if params.hard_negatives else Pairs.none()]
    steps = [step for pairs in hard for step in data.epoch(params.batch_size, rng, pairs)]
    known = [
        (
            step.grades,
            data.facets.values[step.products, CATEGORY],
            data.tags(list(network.config.tags), step.products),
        )
        for step in steps
    ]
    queries = [Ready(step.queries, device) for step in steps]
    products = [Ready(data.products.take(step.products), device) for step in steps]
    optimizer = torch.optim.AdamW(network.parameters(), params.learning_rate)

    def bare() -> None:
        network.train()
        rng = np.random.default_rng(0)
        for asked, shown, step, labels in zip(queries, products, steps, known, strict=True):
            loss, _ = joint_loss(network, asked, shown, *labels, goal, rng)  # type: ignore[arg-type]
            labelled, _ = label_loss(network, step.texts, step.entities, None)
            optimizer.zero_grad(set_to_none=True)
            (loss + labelled).backward()
            optimizer.step()

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder, patch.object(loop, "embed", return_value=vectors):
            loop.fit(network, data, lambda *_: 0.0, goal, checkpoint=Path(folder) / "checkpoint.pt", **knobs)

    return Work(bare, whole, f"{len(steps)} steps of {params.batch_size} queries")


def finetune(model: str = "resnet50", size: int = 224, batch: int = 160, steps: int = 60) -> Work:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    change = {"epochs": 1, "batch_size": batch, "hard_negatives": False}
    params = TrainParams.model_validate(load(Path("params.yaml"), "train").model_dump() | change)
    published = torchvision.models.get_model(model, weights=None).state_dict()
    encoder = ImageEncoder(model, 1, architecture(model).adapt(published)).to(
        device, memory_format=torch.channels_last
    )
    data = pictured(encoder, size, batch, steps)
    config = ModelConfig(
        VOCABULARY, encoder.width, encoder.region_width, params.fusion, params.dim, params.hidden
    )
    network = ProductSearchModel(config, params.temperature)
    network.image_encoder = copy.deepcopy(encoder)
    network.freeze(image="none")
    network.to(device)
    seen: list[int] = []
    network.image_encoder.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))

    def whole() -> None:
        vectors = np.zeros((len(data.products), config.dim), np.float32)
        with tempfile.TemporaryDirectory() as folder, patch.object(loop, "embed", return_value=vectors):
            checkpoint = Path(folder) / "checkpoint.pt"
            loop.fit(
                network, data, lambda *_: 0.0, objective(params), checkpoint=checkpoint, **schedule(params)
            )

    whole()  # to know how many pictures a step has
    pictures = sum(seen)
    each = pictures // data.steps(batch)
    head = nn.Linear(encoder.width, 1000, device=device)
    encoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *head.parameters()], loop.FINE * params.learning_rate
    )
    ready = torch.randn(each, 3, size, size, device=device).to(memory_format=torch.channels_last)
    classes = torch.randint(1000, (each,), device=device)

    def bare() -> None:
        for _ in range(data.steps(batch)):
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = nn.functional.cross_entropy(head(encoder.features(ready)[0]), classes)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    unit = f"{model} at {size} px, {data.steps(batch)} steps of {batch} queries and {each} pictures"
    return Work(bare, whole, unit, pictures)


def pictured(encoder: ImageEncoder, size: int, batch: int, steps: int) -> TrainingSet:
    """Products with a text and a random picture, in memory as training has them; of the queries every other has one."""
    rng = np.random.default_rng(0)
    count, device = steps * batch // 2, encoder.mean.device
    shown = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    with torch.inference_mode():
        some = [part[rng.integers(16, size=count)] for part in read(encoder, shown[:16], device)]

    def items(has_image: np.ndarray, words: int) -> Items:
        rows, pictures = len(has_image), np.full(len(has_image), None, object)
        for row in np.flatnonzero(has_image):
            pictures[row] = shown[row]
        return Items(
            ids=np.array([f"{row}" for row in range(rows)], object),
            splits=np.full(rows, "train", object),
            segments=np.full(rows, "", object),
            tokens=rng.integers(2, VOCABULARY, (rows, words)).astype(np.int32),
            images=some[0][:rows] * has_image[:, None],
            regions=some[1][:rows] * has_image[:, None, None],
            has_image=has_image,
            videos=np.full(rows, None, object),
            pictures=pictures,
        )

    asked = {"products": items(np.ones(count, bool), 32), "queries": items(np.arange(count) % 2 == 0, 8)}
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays after it
        for table, made in asked.items():
            path = Path(folder) / table / "000000.parquet"
            path.parent.mkdir()
            pq.write_table(made.to_table(), path)
            made.save_pictures(path.with_suffix(".npy"))
        products, queries = (Items.load(Path(folder), table, True, True) for table in asked)
    query = np.repeat(np.arange(count), 3)
    product = (query + np.tile([0, 1, 2], count)) % count
    judged = Judged.build(query, product, np.tile([EXACT, EXACT, IRRELEVANT], count), count)
    return TrainingSet(products, queries, judged)


def read(encoder: ImageEncoder, pictures: np.ndarray, device: torch.device) -> list[np.ndarray]:
    return [found.half().cpu().numpy() for found in encoder(torch.from_numpy(pictures).to(device))]


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
