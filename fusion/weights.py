"""Weights that others published: safetensors, or `.pth` read without unpickling anything but tensors."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from catalog.schema import DataError

T = TypeVar("T")


def read(path: Path) -> dict[str, Tensor]:
    """A state dict, on the CPU."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def fetch(
    parameter: str,
    name: str,
    weights: str | None,
    published: Callable[[], dict[str, Tensor]],
    build: Callable[[dict[str, Tensor]], T],
) -> T:
    """Build an encoder with the weights of a file, or else with the published ones.

    Args:
        parameter: What the encoder and its weights are called in params.yaml, up to their `_encoder` and `_weights`.
        name: Of the encoder.
        weights: The file, or None.
        published: Fetches the published state dict.
        build: Makes the encoder of a state dict.

    Raises:
        DataError: where the weights cannot be reached or do not fit; it says how to get them.
    """
    try:
        return build(read(Path(weights)) if weights else published())
    except Exception as error:  # hubs fail as URLError, OSError, RuntimeError …; torch adds UnpicklingError
        where = f"weights '{weights}'" if weights else "published weights"
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{parameter}_encoder: {name}: {where} cannot be loaded ({type(error).__name__}: {reason}); "
            f"where no hub can be reached, download the state dict elsewhere and set {parameter}_weights "
            "to its path (.safetensors or .pth)"
        ) from error
