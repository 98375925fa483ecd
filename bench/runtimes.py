"""Runtimes of a frozen image encoder on CPUs; they take turns in one process.

    GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=2 python bench/runtimes.py encode [MODEL [SIZES [BATCHES]]]
    GOMP_SPINCOUNT=1000 OMP_NUM_THREADS=2 python bench/runtimes.py stage [PICTURES]
    python bench/runtimes.py draft [SIDE]
    python bench/runtimes.py gpu [MODEL [SIZE]]

PyTorch has loaded before this program limits its threads; with the first variable they wait as in the commands.

encode: milliseconds per picture, as wall and as CPU time, and the speed as a multiple of PyTorch's, of PyTorch (also
with weights in the order of channels last, and traced and frozen), ONNX Runtime, OpenVINO, and OpenVINO in featurize
(after a copy into a batch).
MODEL is a classifier of torchvision with random weights, or vit_tiny. The last column is the largest difference of a
feature from PyTorch's, as a share of 1 + its size; OpenVINO's features have half precision.
stage: what featurize does with products of the data set, to the files of their features, with PyTorch and with
OpenVINO; without the time that it needs to start, which is printed, too.
draft: milliseconds to decode a JPEG of SIDE × SIDE pixels and scale it, with all its pixels and in draft mode, and how
much the features differ; for comparison, of a JPEG of lower quality.
gpu: how much features change by what is usual on GPUs, computed on the CPU: half precision by autocast, and pictures
scaled by torchvision instead of Pillow; as the last column of encode, and the smallest cosine.
"""

import copy
import io
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torchvision
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from catalog import store
from catalog.images import decode, fit
from catalog.schema import list_pictures
from catalog.threads import cpu_count, limit_threads
from components.featurize import _write_file
from fusion.encoders.families.base import patch_map
from fusion.encoders.image import ENCODERS, Architecture, ImageEncoder, build_architecture
from fusion.encoders.runtime import OpenVinoSession, _compile, _export
from fusion.featurizer import COLUMNS, Featurizer

ROUNDS = 9
DATA, FEATURES = Path("data"), Path("artifacts/featurize")


class Cost(NamedTuple):
    """Seconds of a computation, and of all CPUs that it used, which is steadier where other programs run."""

    wall: float
    cpu: float

    def describe(self, base: "Cost", count: int) -> str:
        """Milliseconds for each of `count` pictures, and how many times faster than `base`."""
        columns = [
            f"{1000 * seconds / count:6.2f} ms {base_seconds / seconds:5.2f} ×"
            for seconds, base_seconds in zip(self, base, strict=True)
        ]
        return f"{columns[0]}   CPU {columns[1]}"


Encode = Callable[[np.ndarray], list[np.ndarray]]


def main(name: str, *words: str) -> None:
    limit_threads()
    {"encode": encode, "stage": stage, "draft": draft, "gpu": gpu}[name](*words)


def encode(model: str = "efficientnet_lite0", sizes: str = "96,160", batches: str = "8,32,64") -> None:
    for size in map(int, sizes.split(",")):
        encoder = build_encoder(model, size)
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            runtimes = open_runtimes(encoder, size, Path(folder))
        for batch in map(int, batches.split(",")):
            pictures = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
            costs = measure({name: partial(run, pictures) for name, run in runtimes.items()})
            expected = runtimes["torch"](pictures)
            print(f"{model}, {size} pixels, batches of {batch}, {cpu_count()} threads:")
            for name, run in runtimes.items():
                outputs = zip(expected, run(pictures), strict=True)
                differences = [(np.abs(a - b) / (1 + np.abs(a))).max() for a, b in outputs]
                cost = costs[name].describe(costs["torch"], batch)
                print(f"  {name:20} {cost}   {max(differences):.0e}")


def build_encoder(model: str, size: int) -> ImageEncoder:
    if model == "efficientnet_lite0":
        return ImageEncoder.pretrained(model, 3)
    torch.manual_seed(0)
    if model == "vit_tiny":
        ENCODERS(model)(lambda *_: Architecture(TinyVit(size), 192, 192, (0.5,) * 3, (0.5,) * 3, dict))
        return ImageEncoder(model, 3, TinyVit(size).state_dict())
    network = torchvision.models.get_model(model, weights=None)
    return ImageEncoder(model, 3, build_architecture(model).adapt(network.state_dict()))


class TinyVit(torch.nn.Module):
    """A ViT-Ti/16 (Touvron et al., 2021, table 1) with random weights.

    Args:
        size: Pixels; the side of its pictures.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.network = torchvision.models.VisionTransformer(size, 16, 12, 3, 192, 768)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        patches = self.network._process_input(pictures)
        first = self.network.class_token.expand(patches.shape[0], -1, -1)
        states = self.network.encoder(torch.cat([first, patches], 1))
        return states[:, 0], patch_map(states)


def open_runtimes(encoder: ImageEncoder, size: int, folder: Path) -> dict[str, Encode]:
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    traced = torch.jit.freeze(torch.jit.trace(encoder, example, check_trace=False))
    channels_last = copy.deepcopy(encoder).to(memory_format=torch.channels_last)
    _export(encoder, (size, size), folder)
    bare, session = _compile(folder), OpenVinoSession(encoder, (size, size))
    return {
        "torch": run_torch(encoder),
        "torch, channels last": run_torch(channels_last),
        "torch, frozen": run_torch(traced),
        "onnxruntime": open_onnxruntime(encoder, example, folder / "encoder.onnx"),
        "openvino": lambda pictures: [*bare([pictures]).values()],
        "openvino, featurize": lambda pictures: [*session(np.stack(list(pictures)))],
    }


def run_torch(network: torch.nn.Module) -> Encode:
    @torch.inference_mode()
    def run(pictures: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in network(torch.from_numpy(pictures))]

    return run


def open_onnxruntime(encoder: ImageEncoder, example: torch.Tensor, path: Path) -> Encode:
    import onnxruntime

    logging.disable(logging.WARNING)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    names = {"input_names": ["pictures"], "output_names": ["pooled", "regions"], "verbose": False}
    torch.onnx.export(encoder, (example,), dynamo=True, dynamic_shapes=shapes, **names).save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # faster beside other processes
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(None, {"pictures": pictures})


def measure(computations: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, Cost]:
    """The median cost of each computation; they take turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in computations}
    for number in range(rounds + 1):
        for name, compute in computations.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            compute()
            if number:  # the first round warms up
                costs[name].append(Cost(time.perf_counter() - start, time.process_time() - cpu_start))
    return {
        name: Cost(*(statistics.median(column) for column in zip(*rows, strict=True)))
        for name, rows in costs.items()
    }


def stage(pictures: str = "512") -> None:
    rows, count = [], 0
    for batch in store.read_batches(DATA, "products", COLUMNS["products"]):
        for row in batch.to_pylist():
            if count < int(pictures) and row["images"]:
                rows.append(row)
                count += len(list_pictures(row))
    table, featurizers = pa.Table.from_pylist(rows), {}
    for runtime in ("torch", "openvino"):
        start = time.perf_counter()
        featurizer = Featurizer.load(FEATURES)
        featurizers[runtime] = Featurizer(
            featurizer.vocabulary,
            featurizer.encoder,
            featurizer.clips,
            featurizer.image_size,
            featurizer.max_tokens,
            featurizer.max_pictures,
            featurizer.prompts,
            runtime,
        )
        print(f"{runtime}: {time.perf_counter() - start:.2f} s to start")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "000000.parquet"
        computations = {
            name: partial(_write_file, path, "products", table, {}, featurizer, False)
            for name, featurizer in featurizers.items()
        }
        costs = measure(computations)
    for name, cost in costs.items():
        print(
            f"{name:8} {cost.describe(costs['torch'], count)}   {count / cost.wall:.0f} of {count} pictures/s"
        )


def draft(side: str = "1600", count: int = 32) -> None:
    featurizer = Featurizer.load(FEATURES)
    size = featurizer.encoder.measure_square(featurizer.image_size)
    pixels = read_large_pictures(int(side), count)
    files, coarse = ([encode_jpeg(picture, quality) for picture in pixels] for quality in (90, 80))
    ways = {
        "all pixels": lambda: [fit(decode(data), size) for data in files],
        "draft": lambda: [fit(decode(data, side=size), size) for data in files],
        "all pixels of a JPEG of quality 80": lambda: [fit(decode(data), size) for data in coarse],
    }
    costs = measure(ways, 3)
    features = {name: featurizer.encode_pictures(way())[0].astype(np.float32) for name, way in ways.items()}
    expected = features["all pixels"]
    for name, vectors in features.items():
        cosine = (
            (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
        )
        cost, difference = (
            costs[name].describe(costs["all pixels"], len(files)),
            np.abs(vectors - expected).max(),
        )
        print(f"{name:35} {cost}   cosine {cosine.min():.5f} or more, difference {difference:.2f}")


def gpu(model: str = "efficientnet_lite0", size: str = "96", count: int = 32) -> None:
    encoder, side = build_encoder(model, int(size)), int(size)
    large = [Image.fromarray(pixels) for pixels in read_large_pictures(4 * side, count)]
    pictures = torch.from_numpy(np.stack([fit(picture, side) for picture in large]))
    planes = torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2).float()  # as on a GPU
    scaled = resize(planes, [side, side], InterpolationMode.BICUBIC, antialias=True)
    ways = {
        "float32": (pictures, torch.float32),
        "bfloat16": (pictures, torch.bfloat16),
        "half precision": (pictures, torch.float16),
        "torchvision's bicubic": (scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1), torch.float32),
    }
    features: dict[str, np.ndarray] = {}
    for name, (batch, dtype) in ways.items():
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            features[name] = encoder(batch)[0].float().numpy()
    for name, vectors in features.items():
        expected = features["float32"]
        difference = (np.abs(vectors - expected) / (1 + np.abs(expected))).max()
        cosine = torch.cosine_similarity(torch.from_numpy(vectors), torch.from_numpy(expected)).min()
        print(f"{model}, {side} pixels, {name:21} difference {difference:.4f}, cosine {cosine:.5f} or more")


def read_large_pictures(side: int, count: int) -> list[np.ndarray]:
    """Pictures of the data set, enlarged, with some noise: uint8 (side, side, 3)."""
    rows = next(iter(store.read_batches(DATA, "products", ["images"], 4 * count))).to_pylist()
    rng, large = np.random.default_rng(0), []
    for picture in [list_pictures(row)[0] for row in rows if row["images"]][:count]:
        pixels = decode(picture["bytes"]).resize((side, side), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 4, (side, side, 3))
        large.append((np.asarray(pixels) + noise).clip(0, 255).astype(np.uint8))
    return large


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])
