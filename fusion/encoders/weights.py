"""Published weights: safetensors, or `.pth` files of which only tensors are unpickled."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from catalog.schema import DataError

T = TypeVar("T")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict, on the CPU."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def build_pretrained(
    parameter: str,
    name: str,
    weights: str | None,
    fetch_published: Callable[[], dict[str, Tensor]],
    build: Callable[[dict[str, Tensor]], T],
) -> T:
    """Build an encoder with the weights of a file or, without a file, with the published weights.

    Args:
        parameter: The prefix of the keys in params.yaml, before `_encoder` and `_weights`.
        name: Name of the encoder.
        weights: The file, or None.
        fetch_published: Returns the published state dict.
        build: Builds the encoder from a state dict.

    Raises:
        DataError: if the weights cannot be loaded or do not fit; it says how to get them.
    """
    try:
        return build(read_state_dict(Path(weights)) if weights else fetch_published())
    except Exception as error:  # hubs fail as URLError, OSError, RuntimeError …; torch adds UnpicklingError
        source = f"weights '{weights}'" if weights else "published weights"
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{parameter}_encoder: {name}: {source} cannot be loaded ({type(error).__name__}: {reason}); "
            f"where no hub can be reached, download the state dict elsewhere and set {parameter}_weights "
            "to its path (.safetensors or .pth)"
        ) from error
