"""What a GPU is used for, beside plain PyTorch; at most 8 minutes, without network and data.

    python bench/gpu.py [--device cuda|cpu] [--small]

Run it in the project's folder: training uses params.yaml. Encoders have random weights where no package contains
published ones. `--small` is a test of the program, not a measurement. Prints a Markdown table, row by row:

- encoder: pictures per second of the bare forward pass, on pictures that are on the device. Beside: float32.
- featurize: JPEGs to features, decoding included. Beside: the bare forward pass of the same precision.
- decoding: JPEGs to squares in threads, as featurize does, and in processes; and resizing on the device with
  torchvision, which featurize does not do, because features would differ by more than 10⁻³. Beside: threads.
- training: steps per second with sampling, averages of weights and a checkpoint. Beside: a bare loop.
- memory: what a step of so many queries and products adds to the peak. Beside: without gradient caching.
- search: queries per second, the best 100 products of each. Beside: `torch.topk` on the device.
- compile: as encoder, with torch.compile, without the time of the compilation. Beside: without it.
"""

import argparse
import copy
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import batch_memory
import numpy as np
import throughput
import torch
from decoding import decode_square
from PIL import Image
from runtimes import build_encoder
from torchvision.transforms.v2.functional import resize

from catalog.images import decode, fit
from catalog.schema import EXACT, IRRELEVANT
from catalog.threads import cpu_count
from fusion.encoders.image import ImageEncoder
from fusion.encoders.video import ClipReader
from fusion.encoders.vocabulary import Vocabulary
from fusion.featurizer import Featurizer
from fusion.model import ModelConfig, ProductSearchModel
from fusion.search.vector_index import top_k
from fusion.training.objective import Objective
from fusion.training.sampling import JudgementIndex, TrainingSet

PRECISIONS = ("float32", "bf16")
DISTINCT = 16  # pictures that are drawn; the rest are copies
FILE_ROWS = 512  # products that featurize encodes at a time
DEPTH = 100  # products that a search returns
MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        encoders: Encoder → side of its pictures, in pixels.
        pictures: Number of JPEGs.
        side: Of a JPEG, in pixels.
        batch: Pictures in a bare forward pass.
        rounds: Of each measurement; the median counts.
        frozen: Queries in a step, and steps of an epoch, with frozen encoders.
        tuned: Arguments of `throughput.finetune`: model, size, queries in a step, and steps.
        memory: Queries in a step; gradient caching is left out but for the first.
        chunk: Of gradient caching.
        products, queries: Of the search, 256 wide.
    """

    encoders: Mapping[str, int]
    pictures: int = 4096
    side: int = 800
    batch: int = 256
    rounds: int = 5
    frozen: tuple[int, int] = (1024, 30)
    tuned: tuple[str, int, int, int] = ("resnet50", 224, 160, 15)
    memory: tuple[int, ...] = (4096, 32768)
    chunk: int = 256
    products: int = 1_000_000
    queries: int = 512


FULL = Sizes({"efficientnet_lite0": 96, "resnet50": 224, "vit_b_16": 224})
SMALL = Sizes(
    {"resnet18": 32},
    pictures=6,
    side=64,
    batch=2,
    rounds=1,
    frozen=(8, 2),
    tuned=("resnet18", 32, 4, 1),
    memory=(16, 32),
    chunk=8,
    products=200,
    queries=4,
)


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        part: As in the description of this file.
        name: What is measured.
        value: In `unit`.
        unit: "pictures/s", "steps/s", "MiB" or "queries/s".
        beside: The same of the peer; None without one, 0 if it is too small to measure.
    """

    part: str
    name: str
    value: float
    unit: str
    beside: float | None = None

    def __str__(self) -> str:
        peer = [f"{self.beside:,.1f}", f"{self.value / self.beside:.2f}"] if self.beside else ["", ""]
        return "| " + " | ".join([self.part, self.name, f"{self.value:,.1f}", self.unit, *peer]) + " |"


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="test the program with little work")
    arguments = parser.parse_args(words or None)
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # our code takes the GPU if there is one
    elif not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; use --device cpu")
    device, sizes = torch.device(arguments.device), SMALL if arguments.small else FULL
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, {cpu_count()} threads of the CPU, PyTorch {torch.__version__}\n")
    print("| part | what | value | unit | beside | ratio |\n|---|---|---|---|---|---|")
    for measure in PARTS:
        for row in measure(sizes, device):
            print(row, flush=True)


def count_per_second(
    computations: Mapping[str, Callable[[], Any]], count: int, rounds: int
) -> dict[str, float]:
    """How many of `count` things each computation does in a second; they take turns after a warm-up."""
    for compute in computations.values():
        compute()
    seconds = [
        {name: throughput.measure(compute)[0] for name, compute in computations.items()}
        for _ in range(rounds)
    ]
    return {name: count / statistics.median(turn[name] for turn in seconds) for name in computations}


def bare_encoders(encoder: ImageEncoder, batch: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """The forward pass by precision, and by the order of the weights in memory."""
    ordered = copy.deepcopy(encoder).to(memory_format=torch.channels_last)
    return {
        f"{precision}{suffix}": partial(encode, model, batch, precision)
        for suffix, model in (("", encoder), (", channels last", ordered))
        for precision in PRECISIONS
    }


@torch.inference_mode()
def encode(encoder: torch.nn.Module, batch: torch.Tensor, precision: str) -> None:
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bf16"):
        encoder(batch)


def random_batch(count: int, size: int, device: torch.device) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8).to(device)


def measure_featurize(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    files = draw_jpegs(sizes)
    rows = [
        {"product_id": str(number), "title": "", "images": [{"bytes": data, "path": None}]}
        for number, data in enumerate(files)
    ]
    for model, size in sizes.encoders.items():
        encoder = build_encoder(model, size).to(device)
        batch = random_batch(sizes.batch, size, device)
        bare = count_per_second(bare_encoders(encoder, batch), sizes.batch, sizes.rounds)
        for name, speed in bare.items():
            yield Row("encoder", f"{model}, {size} px, {name}", speed, "pictures/s", bare["float32"])
        for precision in PRECISIONS:
            featurizer = Featurizer(
                Vocabulary.learn(["red"], 10, 1), encoder, ClipReader("conv3d", 1, {}), size, 1, 1,
                precision=precision,
            )  # fmt: skip
            full = partial(featurize_files, featurizer, rows)
            speed = count_per_second({"": full}, len(rows), sizes.rounds)[""]
            peer = bare[f"{precision}, channels last"]
            yield Row("featurize", f"{model}, {size} px, {precision}", speed, "pictures/s", peer)


def featurize_files(featurizer: Featurizer, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), FILE_ROWS):
        featurizer.featurize_rows("products", rows[start : start + FILE_ROWS])


def draw_jpegs(sizes: Sizes) -> list[bytes]:
    """Soft shapes with noise, encoded in quality 90."""
    rng, files = np.random.default_rng(0), []
    for _ in range(min(DISTINCT, sizes.pictures)):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        soft = np.asarray(coarse.resize((sizes.side, sizes.side), Image.Resampling.BICUBIC), np.float32)
        picture = (soft + rng.normal(0, 6, soft.shape)).clip(0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return [files[number % len(files)] for number in range(sizes.pictures)]


def measure_decoding(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    files, size = draw_jpegs(sizes), max(sizes.encoders.values())
    square = partial(decode_square, side=size)
    pictures = [decode(data, side=size) for data in files[:DISTINCT]]

    def resize_on_device() -> None:
        for picture in pictures:
            planes = torch.from_numpy(np.array(picture)).to(device).permute(2, 0, 1)
            resize(planes, [size, size], antialias=True)

    chunk = max(1, len(files) // (4 * cpu_count()))
    with (
        ThreadPoolExecutor(cpu_count()) as threads,
        ProcessPoolExecutor(cpu_count(), get_context("spawn")) as processes,
    ):
        decoding = {
            "threads": lambda: list(threads.map(square, files)),
            "processes": lambda: list(processes.map(square, files, chunksize=chunk)),
        }
        speeds = count_per_second(decoding, len(files), sizes.rounds)
        resizing = {
            "threads": lambda: list(threads.map(partial(fit, size=size), pictures)),
            "device": resize_on_device,
        }
        resize_speeds = count_per_second(resizing, len(pictures), sizes.rounds)
    place = f"{sizes.side} to {size} px"
    yield Row("decoding", f"{place}, threads", speeds["threads"], "pictures/s")
    yield Row("decoding", f"{place}, processes", speeds["processes"], "pictures/s", speeds["threads"])
    yield Row(
        "decoding",
        f"resizing on the device to {size} px",
        resize_speeds["device"],
        "pictures/s",
        resize_speeds["threads"],
    )


def measure_training(sizes: Sizes, _: torch.device) -> Iterator[Row]:
    queries, steps = sizes.frozen
    for precision in PRECISIONS:
        params = throughput.load_train_params(
            {"epochs": 2, "batch_size": queries, "hard_negatives": False, "precision": precision}
        )
        network, data = random_training_set(queries // 2 * steps)
        comparison = throughput.compare_training(network, data, params)
        yield compare_steps(f"frozen encoders, {queries} queries, {precision}", comparison, sizes.rounds)
    model, size, queries, _steps = sizes.tuned
    for precision in PRECISIONS:
        comparison = throughput.finetune(*sizes.tuned, precision)
        yield compare_steps(
            f"{model} tuned, {size} px, {queries} queries, {precision}", comparison, sizes.rounds
        )


def compare_steps(name: str, comparison: throughput.Comparison, rounds: int) -> Row:
    speeds = count_per_second({"bare": comparison.bare, "full": comparison.full}, comparison.steps, rounds)
    return Row("training", name, speeds["full"], "steps/s", speeds["bare"])


def random_training_set(count: int) -> tuple[ProductSearchModel, TrainingSet]:
    """A model with frozen encoders, and `count` random products and queries, each query with three judgements."""
    rng = np.random.default_rng(0)

    def items(words: int) -> batch_memory.Items:
        drawn = batch_memory.random_items(count, words, rng)
        ids = np.array([f"{row}" for row in range(count)], object)
        return replace(drawn, ids=ids, splits=np.full(count, "train", object))

    query = np.repeat(np.arange(count), 3)
    product = (query + np.tile([0, 1, 2], count)) % count
    judgements = JudgementIndex.build(query, product, np.tile([EXACT, EXACT, IRRELEVANT], count), count)
    model = ProductSearchModel(ModelConfig(batch_memory.VOCABULARY, batch_memory.FEATURES, 0))
    return model, TrainingSet(items(batch_memory.WORDS), items(batch_memory.WORDS // 4), judgements)


def measure_memory(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    for precision in PRECISIONS:
        for count in sizes.memory:
            chunked, whole = (Objective(chunk=chunk, precision=precision) for chunk in (sizes.chunk, None))
            peer = measure_peak(count, whole, device) if count == sizes.memory[0] else None
            name = f"{count:,} queries, {sizes.chunk} at a time, {precision}"
            yield Row("memory", name, measure_peak(count, chunked, device), "MiB", peer)


def measure_peak(count: int, objective: Objective, device: torch.device) -> float:
    """MiB that a step adds to the peak of the device; on a CPU to the peak of this process, so 0 if it was higher."""
    model, batch = batch_memory.build_batch(count)
    model.to(device)
    batch_memory.compute_gradients(model, batch_memory.take_rows(batch, 8), replace(objective, chunk=4))
    if device.type != "cuda":
        before = batch_memory.peak_memory()
        batch_memory.compute_gradients(model, batch, objective)
        return batch_memory.peak_memory() - before
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    batch_memory.compute_gradients(model, batch, objective)
    return (torch.cuda.max_memory_allocated() - allocated) / MIB


def measure_search(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    products, queries = (
        torch.nn.functional.normalize(torch.randn(count, 256)) for count in (sizes.products, sizes.queries)
    )
    on_device = products.to(device), queries.to(device)

    def search_on_device() -> None:
        for chunk in on_device[1].split(128):  # a million scores each
            (chunk @ on_device[0].T).topk(min(DEPTH, sizes.products))

    searches = {
        "numpy": partial(top_k, queries.numpy(), products.numpy(), DEPTH),
        "device": search_on_device,
    }
    speeds = count_per_second(searches, sizes.queries, 1)
    yield Row(
        "search",
        f"top_k on the CPU, {sizes.products:,} products",
        speeds["numpy"],
        "queries/s",
        speeds["device"],
    )


def measure_compile(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Last, because it may fail where the compiler's needs are not met."""
    backend = "inductor" if device.type == "cuda" else "eager"
    for model, size in sizes.encoders.items():
        encoder = build_encoder(model, size).to(device, memory_format=torch.channels_last)
        batch = random_batch(sizes.batch, size, device)
        for precision in PRECISIONS:
            torch.compiler.reset()
            start = time.perf_counter()
            compiled = torch.compile(encoder, backend=backend, dynamic=False)
            encode(compiled, batch, precision)
            seconds = time.perf_counter() - start
            variants = {
                "plain": partial(encode, encoder, batch, precision),
                "compiled": partial(encode, compiled, batch, precision),
            }
            speeds = count_per_second(variants, sizes.batch, sizes.rounds)
            name = f"{model}, {size} px, {precision}, compiled in {seconds:.0f} s"
            yield Row("compile", name, speeds["compiled"], "pictures/s", speeds["plain"])


PARTS = (
    measure_featurize,
    measure_decoding,
    measure_training,
    measure_memory,
    measure_search,
    measure_compile,
)

if __name__ == "__main__":
    main()
