"""Overhead of featurize and train, compared with their bare computations; both take turns in one process.

    python bench/throughput.py featurize [PRODUCTS]
    python bench/throughput.py train [ROUNDS]
    python bench/throughput.py finetune [MODEL [SIZE [BATCH [STEPS [PRECISION]]]]]

featurize: the stage on products of the data set that have pictures, with decoding and resizing, against the encoder
alone on tensors that are ready.
train: two epochs of training with hard negative mining and a checkpoint after each epoch, but without validation and
its product embeddings, against loss, gradients and optimiser alone on batches that are ready.
finetune: an epoch of 60 steps of 160 queries that trains all layers of a torchvision classifier (resnet50 with random
weights, 224 pixels) on random pictures mapped into memory, with the checkpoint and without validation, against a plain
loop over the same encoder: normalised pictures on the device, with as many in a batch as a step has.

Prints the ratio of the medians of wall time, and of CPU time, which is steadier where other programs run; the medians
of wall time; for finetune also pictures per second, and the GPU's utilization if pynvml is installed.
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
from catalog.schema import EXACT, IRRELEVANT, list_pictures, main_picture
from components.params import TrainParams, load_section
from components.train import build_objective, build_schedule, prepare
from fusion.encoders.image import ImageEncoder, build_architecture
from fusion.facets import CATEGORY
from fusion.features import Items
from fusion.featurizer import BATCH, Featurizer
from fusion.model import ModelConfig, ProductSearchModel, embed
from fusion.training import loop
from fusion.training.hard_negatives import mine_hard_negatives
from fusion.training.objective import LossBatch, entity_loss, joint_loss
from fusion.training.sampling import JudgementIndex, Pairs, TrainingSet

ROUNDS = 7
VOCABULARY = 5000
DATA, FEATURES = Path("data"), Path("artifacts/featurize")


class Comparison(NamedTuple):
    """Two computations to compare.

    Attributes:
        bare: The bare computation.
        full: The same with its overhead.
        unit: Amount of work of each, for the output.
        pictures: Number of pictures in each; 0 if pictures per second are not printed.
        steps: Number of training steps in each; 0 if it is not training.
        rounds: How often each is measured.
    """

    bare: Callable[[], Any]
    full: Callable[[], Any]
    unit: str
    pictures: int = 0
    steps: int = 0
    rounds: int = ROUNDS


def main(name: str, *words: str) -> None:
    prepare_comparison = {"featurize": featurize, "train": train, "finetune": finetune}[name]
    comparison = prepare_comparison(*(int(word) if word.isdigit() else word for word in words))
    comparison.bare(), comparison.full()  # warm up
    times, utilization = [], list[int]()
    for _ in range(comparison.rounds):
        bare_time = measure(comparison.bare)
        with record_utilization(utilization):
            times.append((*bare_time, *measure(comparison.full)))
    bare, bare_cpu, full, full_cpu = (statistics.median(column) for column in zip(*times, strict=True))
    details = [
        f"{bare_cpu / full_cpu:.2f} by CPU time",
        f"{bare:.3f} s bare, {full:.3f} s full",
        comparison.unit,
    ]
    if pictures := comparison.pictures:
        details.append(f"{pictures / bare:.1f} pictures/s bare, {pictures / full:.1f} full")
    details.append(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")
    if utilization:
        details.append(f"GPU busy {statistics.mean(utilization):.0f} % of the time")
    print(f"{name}: {bare / full:.2f} of the bare speed ({', '.join(details)})")


def measure(compute: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of a computation, and of all CPUs that it used."""
    start, cpu_start = time.perf_counter(), time.process_time()
    compute()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu_start


@contextmanager
def record_utilization(utilization: list[int]) -> Iterator[None]:
    """Record the utilization of the GPU in percent; does nothing without a GPU or pynvml."""
    if not (torch.cuda.is_available() and find_spec("pynvml")):
        yield
        return
    stopped = threading.Event()

    def record() -> None:
        while not stopped.wait(0.1):
            utilization.append(torch.cuda.utilization())

    thread = threading.Thread(target=record)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def featurize(products: int = 512) -> Comparison:
    featurizer = Featurizer.load(FEATURES)
    batches = store.read_batches(DATA, "products", ["product_id", "title", "images"], 4 * products)
    rows = [row for batch in batches for row in batch.to_pylist() if main_picture(row)][:products]
    galleries = [list_pictures(row)[: featurizer.max_pictures] for row in rows]
    ready = np.stack([featurizer.prepare(picture["bytes"]) for gallery in galleries for picture in gallery])

    def bare() -> None:
        for start in range(0, len(ready), BATCH):
            featurizer.session(ready[start : start + BATCH])

    return Comparison(bare, lambda: featurizer.featurize_rows("products", rows), f"{len(ready)} pictures")


def train(rounds: int = ROUNDS) -> Comparison:
    torch.manual_seed(0)
    params = load_train_params({"epochs": 2})
    network, data, _ = prepare(FEATURES, params)
    return compare_training(network, data, params)._replace(rounds=rounds)


def load_train_params(overrides: dict[str, Any]) -> TrainParams:
    return TrainParams.model_validate(load_section(Path("params.yaml"), "train").model_dump() | overrides)


def compare_training(network: ProductSearchModel, data: TrainingSet, params: TrainParams) -> Comparison:
    """Two epochs of training on ready features, compared with the bare steps of two such epochs."""
    objective, schedule = build_objective(params), build_schedule(params)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    rng, vectors = np.random.default_rng(0), embed(network.eval(), data.products, "product")
    hard = [
        Pairs.empty(),
        mine_hard_negatives(network, data, vectors, rng) if params.hard_negatives else Pairs.empty(),
    ]
    steps = [step for pairs in hard for step in data.draw_epoch(params.batch_size, rng, pairs)]
    labels = [
        (
            step.grades,
            data.facets.values[step.products, CATEGORY],
            data.tags(list(network.config.tags), step.products),
        )
        for step in steps
    ]
    queries = [ReadyItems(step.queries, device) for step in steps]
    products = [ReadyItems(data.products.take(step.products), device) for step in steps]
    optimizer = torch.optim.AdamW(network.parameters(), params.learning_rate)

    def bare() -> None:
        network.train()
        rng = np.random.default_rng(0)
        for query_items, product_items, step, step_labels in zip(
            queries, products, steps, labels, strict=True
        ):
            batch = LossBatch(query_items, product_items, *step_labels)  # type: ignore[arg-type]
            with loop.allow_tf32(torch.device(device)):
                loss, _ = joint_loss(network, batch, objective, rng)
                labels_loss, _ = entity_loss(network, step.texts, step.entities, objective)
                optimizer.zero_grad(set_to_none=True)
                (loss + labels_loss).backward()
                optimizer.step()

    def full() -> None:
        with tempfile.TemporaryDirectory() as folder, patch.object(loop, "embed", return_value=vectors):
            loop.fit_model(
                network, data, lambda *_: 0.0, objective, schedule, checkpoint=Path(folder) / "checkpoint.pt"
            )

    unit = f"{len(steps)} steps of {params.batch_size} queries"
    return Comparison(bare, full, unit, steps=len(steps))


def finetune(
    model: str = "resnet50", size: int = 224, batch: int = 160, steps: int = 60, precision: str = "bf16"
) -> Comparison:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    params = load_train_params(
        {"epochs": 1, "batch_size": batch, "hard_negatives": False, "precision": precision}
    )
    published = torchvision.models.get_model(model, weights=None).state_dict()
    encoder = ImageEncoder(model, 1, build_architecture(model).adapt(published)).to(
        device, memory_format=torch.channels_last
    )
    data = random_training_set(encoder, size, batch, steps)
    config = ModelConfig(
        VOCABULARY,
        encoder.width,
        encoder.region_width,
        fusion=params.fusion,
        dim=params.dim,
        hidden=params.hidden,
    )
    network = ProductSearchModel(config, params.temperature)
    network.image_encoder = copy.deepcopy(encoder)
    network.tune(image="all")
    network.to(device)
    picture_counts: list[int] = []
    network.image_encoder.register_forward_hook(lambda _, inputs, __: picture_counts.append(len(inputs[0])))

    def full() -> None:
        vectors = np.zeros((len(data.products), config.dim), np.float32)
        with tempfile.TemporaryDirectory() as folder, patch.object(loop, "embed", return_value=vectors):
            checkpoint = Path(folder) / "checkpoint.pt"
            loop.fit_model(
                network,
                data,
                lambda *_: 0.0,
                build_objective(params),
                build_schedule(params),
                checkpoint=checkpoint,
            )

    full()  # counts the pictures of a step
    pictures = sum(picture_counts)
    each = pictures // data.steps_per_epoch(batch)
    head = nn.Linear(encoder.width, 1000, device=device)
    encoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *head.parameters()], params.published_rate * params.learning_rate
    )
    ready = torch.randn(each, 3, size, size, device=device).to(memory_format=torch.channels_last)
    classes = torch.randint(1000, (each,), device=device)

    def bare() -> None:
        for _ in range(data.steps_per_epoch(batch)):
            with loop.allow_tf32(torch.device(device)):
                with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                    loss = nn.functional.cross_entropy(head(encoder.features(ready)[0]), classes)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    unit = f"{model} at {size} px, {data.steps_per_epoch(batch)} steps of {batch} queries and {each} pictures"
    return Comparison(bare, full, unit, pictures, data.steps_per_epoch(batch))


def random_training_set(encoder: ImageEncoder, size: int, batch: int, steps: int) -> TrainingSet:
    """Products with a text and a random picture, mapped as in training; every other query has a picture."""
    rng = np.random.default_rng(0)
    count, device = steps * batch // 2, encoder.mean.device
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    with torch.inference_mode():
        outputs = [
            array[rng.integers(len(array), size=count)] for array in encode(encoder, pixels[:16], device)
        ]

    def items(has_image: np.ndarray, words: int) -> Items:
        rows, pictures = len(has_image), np.full(len(has_image), None, object)
        for row in np.flatnonzero(has_image):
            pictures[row] = pixels[row : row + 1]
        return Items(
            ids=np.array([f"{row}" for row in range(rows)], object),
            splits=np.full(rows, "train", object),
            segments=np.full(rows, "", object),
            tokens=rng.integers(2, VOCABULARY, (rows, words)).astype(np.int32),
            images=outputs[0][:rows] * has_image[:, None],
            galleries=np.full(rows, None, object),
            regions=outputs[1][:rows] * has_image[:, None, None],
            has_image=has_image,
            videos=np.full(rows, None, object),
            pictures=pictures,
            ocr=np.full(rows, None, object),
            joint=np.zeros((rows, 0), np.float16),
        )

    tables = {"products": items(np.ones(count, bool), 32), "queries": items(np.arange(count) % 2 == 0, 8)}
    with tempfile.TemporaryDirectory() as folder:  # mapped files stay readable after their removal
        for table, rows in tables.items():
            path = Path(folder) / table / "000000.parquet"
            path.parent.mkdir()
            pq.write_table(rows.to_table(), path)
            rows.save_pictures(path.with_suffix(".npy"))
        products, queries = (Items.load(Path(folder), table, True, True) for table in tables)
    query = np.repeat(np.arange(count), 3)
    product = (query + np.tile([0, 1, 2], count)) % count
    judgements = JudgementIndex.build(query, product, np.tile([EXACT, EXACT, IRRELEVANT], count), count)
    return TrainingSet(products, queries, judgements)


def encode(encoder: ImageEncoder, pictures: np.ndarray, device: torch.device) -> list[np.ndarray]:
    return [output.half().cpu().numpy() for output in encoder(torch.from_numpy(pictures).to(device))]


class ReadyItems:
    """Items whose batch is already on the device.

    Args:
        items: Items of a step.
        device: Device of the batch.
    """

    def __init__(self, items: Items, device: str) -> None:
        self.items, self.ready_batch = items, items.batch(slice(None), device)

    def __len__(self) -> int:
        return len(self.items)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.items, name)

    def batch(self, *_: object) -> dict[str, Tensor]:
        return self.ready_batch


if __name__ == "__main__":
    main(*sys.argv[1:])
