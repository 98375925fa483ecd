"""How a frozen image encoder is run: by PyTorch, or by OpenVINO, which needs a third of the time on a CPU.

OpenVINO reads an encoder that was exported once. The exported network is kept in the user's cache, under a hash of all
that it depends on; the folder can be deleted at any time. See bench/runtimes.py for the choice of the library.
"""

import inspect
import json
import os
import shutil
import sys
import tempfile
import warnings
from hashlib import blake2b
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from catalog.schema import DataError
from catalog.threads import cpu_count
from fusion.encoders.families.base import fingerprint

if TYPE_CHECKING:
    from openvino import CompiledModel

    from fusion.encoders.image import ImageEncoder

NETWORK, WEIGHTS, DIGEST = "encoder.xml", "encoder.bin", "digest"
TOLERANCE = 1e-3  # of `_compare`; half precision has no more digits
# Traced with another batch size than it is compared with: a size that became a constant is noticed.
TRACED, CHECKED = 2, 3


class Session(Protocol):
    """Runs an encoder on a batch of pictures.

    Attributes:
        name: "torch" or "openvino".
        precision: "float32" or "bf16".
    """

    name: str
    precision: str

    def __call__(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode uint8 (N, H, W, 3): features of pictures, float16 (N, D), and of regions, float16 (N, R, C)."""


class TorchSession:
    """Runs an encoder in PyTorch, on the device that it is on.

    On a GPU, its weights get the order of channels last, as pictures have, which convolutions of half precision need.
    It is not compiled: that costs time for each shape of a batch, and what it gains is not measured (bench/gpu.py).

    Args:
        encoder: The encoder.
        precision: "float32", or "bf16", bfloat16 by autocast.
    """

    name = "torch"

    def __init__(self, encoder: "ImageEncoder", precision: str = "float32") -> None:
        self.device, self.precision = encoder.mean.device, precision
        on_gpu = self.device.type == "cuda"
        self.encoder = encoder.to(memory_format=torch.channels_last) if on_gpu else encoder

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Session`."""
        batch = torch.from_numpy(pictures)
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            pooled, regions = self.encoder(batch)
        return pooled.half().cpu().numpy(), regions.half().cpu().numpy()


class OpenVinoSession:
    """Runs an encoder in OpenVINO on the CPU, with `catalog.threads.cpu_count` threads.

    Args:
        encoder: A frozen encoder, on the CPU.
        shape: Height and width of its pictures, in pixels, (H, W).

    Raises:
        DataError: if OpenVINO is not installed, cannot read the encoder, or gives other features than PyTorch.
    """

    name, precision = "openvino", "float32"

    def __init__(self, encoder: "ImageEncoder", shape: tuple[int, int]) -> None:
        if not find_spec("openvino"):
            raise DataError("OpenVINO is not installed; run: pip install 'vitrine[encoders]'")
        if encoder.mean.device.type != "cpu":
            raise DataError(
                "OpenVINO runs on CPUs, and the encoder is on a GPU; set CUDA_VISIBLE_DEVICES= to hide it"
            )
        self.network = _read_or_export(encoder, shape)
        self.lock = Lock()  # one request at a time has all threads

    def __call__(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Session`."""
        with self.lock:
            outputs = self.network([pictures])  # copies of what the network has in memory
        return outputs[0], outputs[1]


def open_session(
    runtime: str, encoder: "ImageEncoder", shape: tuple[int, int], precision: str = "float32"
) -> Session:
    """Open a session for a frozen encoder.

    Args:
        runtime: "torch", "openvino", or "auto": OpenVINO on a CPU where it works, else PyTorch; a line on stderr says
            why.
        encoder: The encoder.
        shape: Height and width of its pictures, in pixels, (H, W).
        precision: See `TorchSession`; OpenVINO computes in float32.

    Raises:
        DataError: if the runtime is "openvino" and it does not work; see `OpenVinoSession`.
    """
    if runtime == "torch" or (runtime == "auto" and encoder.mean.device.type != "cpu"):
        return TorchSession(encoder, precision)
    try:
        return OpenVinoSession(encoder, shape)
    except DataError as error:
        if runtime == "openvino":
            raise DataError(f"featurize.runtime: openvino: {error}, or set it to torch") from error
        print(f"the image encoder runs in PyTorch, more slowly: {error}", file=sys.stderr)
        return TorchSession(encoder, precision)


def _read_or_export(encoder: "ImageEncoder", shape: tuple[int, int]) -> "CompiledModel":
    """Compile the exported encoder of the cache; if it is missing or broken there, export the encoder first."""
    name, root = _hash_encoder(encoder, shape), _cache_folder()
    if root and _is_complete(root / name):
        return _compile(root / name)
    with tempfile.TemporaryDirectory(dir=root, prefix=".export-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / name
        folder.mkdir()
        try:
            _export(encoder, shape, folder)
            network = _compile(folder)
            difference = _compare(network, encoder, shape)
        except Exception as error:  # both libraries raise many kinds, for layers that they cannot convert
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"OpenVINO cannot run {encoder.name} ({type(error).__name__}: {reason})"
            ) from error
        if not difference <= TOLERANCE:
            raise DataError(
                f"OpenVINO's features of {encoder.name} differ from PyTorch's by {difference:.2g}"
            )
        if root:  # the network reads its file, which stays readable after its removal
            _keep(folder, root / name)
    return network


def _keep(folder: Path, place: Path) -> None:
    """Move an exported encoder to its place in the cache, unless another process was faster.

    Raises:
        DataError: if it cannot be moved there.
    """
    if _is_complete(place):
        return
    shutil.rmtree(place, ignore_errors=True)
    try:
        folder.rename(place)
    except OSError as error:
        if not _is_complete(place):
            raise DataError(f"{place}: cannot write here ({error.strerror}); delete this folder") from error


def _cache_folder() -> Path | None:
    """The folder of exported encoders in the user's cache; None, with a line on stderr, if it cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine" / "encoders"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        print(
            f"{folder}: cannot write here ({error.strerror}), so the image encoder is exported again in each "
            "process; set XDG_CACHE_HOME to another folder",
            file=sys.stderr,
        )
        return None
    return folder


def _hash_encoder(encoder: "ImageEncoder", shape: tuple[int, int]) -> str:
    """Hash what the exported network depends on: weights, settings and sources of the layers, shape, and versions."""
    digest = blake2b(digest_size=16)
    for name in ("openvino", "torch"):
        digest.update(f"{name} {metadata.version(name)}\n".encode())
    digest.update(json.dumps([shape, dict(encoder.settings)], sort_keys=True).encode())
    for path in sorted({source for module in encoder.modules() if (source := _source_file(module))}):
        digest.update(Path(path).read_bytes())
    for name, module in encoder.named_modules():
        values = {key: value for key, value in vars(module).items() if _is_plain(value)}
        digest.update(f"{name} {type(module).__qualname__} {values} {getattr(module, 'code', '')}\n".encode())
    digest.update(fingerprint(encoder.state_dict()).encode())
    return digest.hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether the text of a value is the same in each process: it has no addresses."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _source_file(module: torch.nn.Module) -> str | None:
    """The file of a layer's class; None for a class that PyTorch wrote, which has `code` instead."""
    try:
        return inspect.getsourcefile(type(module))
    except TypeError:  # the class is of no module that has a file
        return None


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds an exported encoder as it was written."""
    try:
        return (folder / DIGEST).read_text() == _digest(folder)
    except (OSError, UnicodeDecodeError):
        return False


def _digest(folder: Path) -> str:
    digest = blake2b(digest_size=16)
    for name in (NETWORK, WEIGHTS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def import_openvino() -> Any:
    """Import OpenVINO without the package that reports each import to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # OpenVINO then has a stub instead
    import openvino

    return openvino


def _export(encoder: "ImageEncoder", shape: tuple[int, int], folder: Path) -> None:
    """Write the encoder in OpenVINO's format, for any batch size, with outputs of half precision.

    It is traced: OpenVINO reads what `torch.export` gives, too, but then some features are wrong (2026.4).
    """
    openvino = import_openvino()
    example = torch.zeros((TRACED, *shape, 3), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that a trace keeps: `_compare` checks the features
        traced = torch.jit.trace(encoder, example, check_trace=False)
        model = openvino.convert_model(traced, input=[openvino.PartialShape([-1, *shape, 3])])
    prepared = openvino.preprocess.PrePostProcessor(model)
    for number in range(2):
        prepared.output(number).tensor().set_element_type(openvino.Type.f16)
    model = prepared.build()
    openvino.save_model(model, folder / NETWORK, compress_to_fp16=False)
    (folder / DIGEST).write_text(_digest(folder))


def _compile(folder: Path) -> "CompiledModel":
    openvino = import_openvino()
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": cpu_count(),
        "INFERENCE_PRECISION_HINT": "f32",  # some CPUs would take bfloat16
        "PERFORMANCE_HINT": "LATENCY",  # all threads work on the same batch
    }
    return core.compile_model(core.read_model(folder / NETWORK), "CPU", settings)


def _compare(network: "CompiledModel", encoder: "ImageEncoder", shape: tuple[int, int]) -> float:
    """The largest difference of a feature of noise from PyTorch's, as a share of 1 + its size; NaN if one is NaN."""
    noise = np.random.default_rng(0).integers(0, 256, (CHECKED, *shape, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = [output.float().numpy() for output in encoder(torch.from_numpy(noise))]
    outputs = network([noise])
    return max(
        float((np.abs(outputs[number] - features) / (1 + np.abs(features))).max())
        for number, features in enumerate(expected)
    )
